"""A teacher of either family by its name."""

from __future__ import annotations

import torch

from ..core.files import found
from .contract import DiffusionTeacher


def open_teacher(name: str, device: torch.device, half_precision: bool = True) -> DiffusionTeacher:
    """An EDM network where `name` is a .safetensors file, else a Stable-Diffusion-format folder or hub id.

    Raises:
        ValueError, OSError: one line naming the teacher.
    """
    if name.endswith(".safetensors"):
        from .edm import load_edm
        from .edm.teacher import EDMTeacher

        return EDMTeacher(load_edm(found(name)), name).to(device)
    from .stable_diffusion.teacher import Teacher

    return Teacher.load(name, device, half_precision)
