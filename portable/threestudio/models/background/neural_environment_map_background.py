"""A small network from direction to colour."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

import threestudio
from threestudio.models.background.base import BaseBackground, heads, random_color
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.utils.ops import get_activation
from threestudio.utils.typing import Float, Tensor


@threestudio.register("neural-environment-map-background")
class NeuralEnvironmentMapBackground(BaseBackground):
    """activation(network(encoding(direction))).

    In training with ``random_aug`` sometimes a random colour per image (one for all with ``share_aug_bg``); in
    evaluation ``eval_color`` if given.
    """

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: int = 3
        color_activation: str = "sigmoid"
        dir_encoding_config: dict = field(default_factory=lambda: {"otype": "SphericalHarmonics", "degree": 3})
        mlp_network_config: dict = field(
            default_factory=lambda: {
                "otype": "VanillaMLP",
                "activation": "ReLU",
                "n_neurons": 16,
                "n_hidden_layers": 2,
            }
        )
        random_aug: bool = False
        random_aug_prob: float = 0.5
        eval_color: tuple[float, float, float] | None = None
        share_aug_bg: bool = False

    cfg: Config

    def configure(self) -> None:
        self.encoding = get_encoding(3, self.cfg.dir_encoding_config)
        self.network = get_mlp(self.encoding.n_output_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config)

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        if not self.training and self.cfg.eval_color is not None:
            return torch.tensor(list(self.cfg.eval_color)).to(dirs).expand(*dirs.shape[:-1], -1)
        encoded = self.encoding((dirs.reshape(-1, 3) + 1) / 2)  # encodings take the unit cube
        color = get_activation(self.cfg.color_activation)(self.network(encoded))
        color = color.view(*dirs.shape[:-1], self.cfg.n_output_dims)
        if self.training and self.cfg.random_aug and heads(self.cfg.random_aug_prob):
            color = random_color(color, share=self.cfg.share_aug_bg)
        return color
