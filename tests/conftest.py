"""Shared fixtures: one thread per test process, a tiny random teacher, no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state and leaves the default dtype alone."""
    torch.manual_seed(0)
    yield
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """Folder of a random Stable-Diffusion-format teacher (32x32 images, 8x8x4 latents), epsilon prediction."""
    from tiny_teacher import make_tiny_teacher

    return make_tiny_teacher(tmp_path_factory.mktemp("teacher") / "tiny")


@pytest.fixture(scope="session")
def tiny_teacher_v(tmp_path_factory) -> Path:
    """The same with v prediction."""
    from tiny_teacher import make_tiny_teacher

    return make_tiny_teacher(tmp_path_factory.mktemp("teacher") / "tiny-v", prediction_type="v_prediction")


@pytest.fixture
def predictor_file(tmp_path):
    """Maker of an aesthetic predictor's file: `predictor_file("linearMSE")`."""
    from aesthetic_weights import save_predictor

    return lambda variant: save_predictor(tmp_path, variant)
