"""One colour everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import threestudio
from threestudio.models.background.base import BaseBackground, heads, random_color
from threestudio.utils.errors import UserError
from threestudio.utils.typing import Float, Tensor


@threestudio.register("solid-color-background")
class SolidColorBackground(BaseBackground):
    """``color``, a parameter if ``learned``; in training with ``random_aug`` sometimes a random one per image."""

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: int = 3
        color: tuple = (1.0, 1.0, 1.0)
        learned: bool = False
        random_aug: bool = False
        random_aug_prob: float = 0.5

    cfg: Config

    def configure(self) -> None:
        color = torch.tensor(list(self.cfg.color), dtype=torch.float32)
        if len(color) != self.cfg.n_output_dims:
            raise UserError(
                f"background.color={list(self.cfg.color)} must have n_output_dims={self.cfg.n_output_dims} values"
            )
        self.env_color: Float[Tensor, "Nc"]
        if self.cfg.learned:
            self.env_color = nn.Parameter(color)
        else:
            self.register_buffer("env_color", color)

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        color = self.env_color.expand(*dirs.shape[:-1], -1)
        if self.training and self.cfg.random_aug and heads(self.cfg.random_aug_prob):
            color = random_color(color)
        return color
