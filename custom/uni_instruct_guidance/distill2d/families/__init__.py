"""The two families of teachers, as the one-step trainer meets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...teachers.edm import EDMPrecond
from ...teachers.edm.teacher import EDMTeacher
from ..config import DistillConfig
from .base import Family, Reward
from .edm import EDMFamily, check_fit
from .stable_diffusion import StableDiffusionFamily, read_prompts

__all__ = ["EDMFamily", "Family", "Reward", "StableDiffusionFamily", "check_fit", "family_of", "read_prompts"]


def family_of(cfg: DistillConfig, teacher: Any = None) -> Family:
    """By the teacher: a safetensors file or a network is EDM's, a folder or hub id is Stable Diffusion's."""
    edm = isinstance(teacher, (EDMPrecond, EDMTeacher))
    if teacher is None:
        path = Path(cfg.teacher or "")
        edm = not cfg.teacher or path.suffix == ".safetensors" or path.is_file()
    return EDMFamily(cfg) if edm else StableDiffusionFamily(cfg)
