"""A background that changes with every training image, within what the teacher knows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.background.base import BaseBackground

from ..core.errors import UserError
from ..core.ranges import check
from .ranges import BACKGROUND


@threestudio.register("uni-instruct-grey-background")
class GreyBackground(BaseBackground):
    """One grey (or colour) per training image, drawn anew each time; one fixed grey when evaluating.

    Against one fixed colour a fog of that colour costs nothing and stays. Against a changing one it shows, and the
    gradient removes it. Greys within the teacher's own range keep the pictures inside what it knows.
    """

    @dataclass
    class Config(BaseBackground.Config):
        """darkest, brightest: range of the greys, 0..1. coloured: share of the images that get any colour instead.
        evaluation: the grey when evaluating; null: the brightest. n_view: so many consecutive images, the views of one
        group, have one background: give it data.n_view."""

        n_output_dims: int = 3
        darkest: float = 0.7
        brightest: float = 0.95
        coloured: float = 0.0
        evaluation: float | None = None
        n_view: int = 1

    cfg: Config

    def configure(self) -> None:
        check(BACKGROUND, self.cfg, "system.background.")
        if not 0 <= self.cfg.darkest <= self.cfg.brightest <= 1:
            raise ValueError(
                f"system.background: darkest={self.cfg.darkest}, brightest={self.cfg.brightest}; "
                f"need 0 <= darkest <= brightest <= 1"
            )

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W C"]:
        cfg = self.cfg
        colour = torch.full((len(dirs), 1, 1, 1), cfg.brightest, device=dirs.device)
        if self.training:
            if len(dirs) % cfg.n_view:
                raise UserError(
                    f"system.background.n_view={cfg.n_view} with {len(dirs)} images: a batch must hold whole groups"
                )
            colour = colour[:: cfg.n_view]
            colour = colour - (cfg.brightest - cfg.darkest) * torch.rand_like(colour)
            if cfg.coloured:
                any_colour = torch.rand(len(colour), 1, 1, cfg.n_output_dims, device=dirs.device)
                is_coloured = torch.rand(len(colour), 1, 1, 1, device=dirs.device) < cfg.coloured
                colour = torch.where(is_coloured, any_colour, colour)
            colour = colour.repeat_interleave(cfg.n_view, 0)
        elif cfg.evaluation is not None:
            colour = torch.full_like(colour, cfg.evaluation)
        return colour.expand(*dirs.shape[:-1], cfg.n_output_dims)
