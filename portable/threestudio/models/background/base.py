"""What every background offers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from threestudio.utils.base import BaseModule
from threestudio.utils.typing import Float, Tensor


class BaseBackground(BaseModule):
    """Colour at infinity, by direction."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        """Colours seen along unit directions."""
        raise TypeError(f"{type(self).__name__} has no forward")


def random_color(color: Float[Tensor, "B H W Nc"], share: bool = False) -> Float[Tensor, "B H W Nc"]:
    """One random colour per image (one for all if ``share``) in place of ``color``, which keeps a zero gradient."""
    n_images = 1 if share else color.shape[0]
    drawn = torch.rand(n_images, 1, 1, color.shape[-1]).to(color)
    return color * 0 + drawn


def heads(probability: float) -> bool:
    """One toss with torch's generator, so that a resumed run tosses the same."""
    return torch.rand(()).item() < probability
