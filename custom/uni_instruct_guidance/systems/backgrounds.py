"""A background for teachers that know only plain light ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.background.base import BaseBackground


@threestudio.register("uni-instruct-grey-background")
class GreyBackground(BaseBackground):
    """One grey per training image, drawn anew each time; the brightest one when evaluating.

    Against one fixed colour a fog of that colour costs nothing and stays. Against a changing one it shows, and the
    gradient removes it. Greys within the teacher's own range keep the pictures inside what it knows.
    """

    @dataclass
    class Config(BaseBackground.Config):
        """darkest, brightest: range of the greys, 0..1."""

        n_output_dims: int = 3
        darkest: float = 0.7
        brightest: float = 0.95

    cfg: Config

    def configure(self) -> None:
        if not 0 <= self.cfg.darkest <= self.cfg.brightest <= 1:
            raise ValueError(
                f"system.background: darkest={self.cfg.darkest}, brightest={self.cfg.brightest}; "
                f"need 0 <= darkest <= brightest <= 1"
            )

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W C"]:
        grey = torch.full((len(dirs), 1, 1, 1), self.cfg.brightest, device=dirs.device)
        if self.training:
            grey = grey - (self.cfg.brightest - self.cfg.darkest) * torch.rand_like(grey)
        return grey.expand(*dirs.shape[:-1], self.cfg.n_output_dims)
