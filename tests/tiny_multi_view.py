"""A tiny random multi-view teacher: the tests' tiny teacher, its views see each other and its cameras count."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch


def make_tiny_multi_view(tiny_teacher: Path, folder: Path, n: int = 4) -> Path:
    """Write the folder; returns its path."""
    from diffusers import UNet2DConditionModel

    from uni_instruct_guidance.teachers.stable_diffusion.multi_view import Mark, make_multi_view, save_multi_view

    shutil.copytree(tiny_teacher, folder)
    shutil.rmtree(folder / "unet")
    unet = make_multi_view(UNet2DConditionModel.from_pretrained(tiny_teacher, subfolder="unet"), n)
    random = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(unet.class_embedding.linear_2.weight, std=0.3, generator=random)
    save_multi_view(unet, Mark(n), folder / "unet")
    return folder
