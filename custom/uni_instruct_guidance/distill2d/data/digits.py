"""Scikit-learn's handwritten digits: 1,797 images of 8 × 8 grey levels in 10 classes, inside a dependency."""

from __future__ import annotations

import torch

from .base import ArrayData


def load_digits_data(cfg) -> ArrayData:
    """Digits with the grey levels 0 … 16 mapped to [-1, 1]; `cfg.path` is not used."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    return ArrayData("digits", images, torch.as_tensor(digits.target))
