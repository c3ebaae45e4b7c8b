"""Files with the keys and shapes of LAION's aesthetic predictors, with random numbers in them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

WIDTHS = (768, 1024, 128, 64, 16, 1)
# of the linear layers in the published files
INDICES = {"linearMSE": (0, 2, 4, 6, 7), "reluMSE": (0, 3, 6, 9, 11)}


def predictor_weights(variant: str, seed: int = 0) -> dict[str, Tensor]:
    """`layers.{i}.weight` and `.bias`, scaled so that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for index, wide, narrow in zip(INDICES[variant], WIDTHS[:-1], WIDTHS[1:]):
        weights[f"layers.{index}.weight"] = torch.randn(narrow, wide, generator=generator) / wide**0.5
        weights[f"layers.{index}.bias"] = 0.1 * torch.randn(narrow, generator=generator)
    return weights


def save_predictor(folder: Path, variant: str) -> Path:
    """The file as it is published: a pickled dictionary of tensors."""
    path = folder / f"{variant}.pth"
    torch.save(predictor_weights(variant), path)
    return path
