"""Features are the colour."""

from __future__ import annotations

from dataclasses import dataclass

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.networks import get_mlp
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_activation
from threestudio.utils.typing import Float, Tensor


@threestudio.register("no-material")
class NoMaterial(BaseMaterial):
    """Activation of the features; given ``input_feature_dims`` and ``mlp_network_config``, of a network of them."""

    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: int = 3
        color_activation: str = "sigmoid"
        input_feature_dims: int | None = None
        mlp_network_config: dict | None = None
        requires_normal: bool = False

    cfg: Config

    def configure(self) -> None:
        self.use_network = self.cfg.input_feature_dims is not None and self.cfg.mlp_network_config is not None
        if self.use_network:
            self.network = get_mlp(self.cfg.input_feature_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config)
        self.requires_normal = self.cfg.requires_normal

    def forward(self, features: Float[Tensor, "*B Nf"], **kwargs) -> Float[Tensor, "*B Nc"]:
        activate = get_activation(self.cfg.color_activation)
        if self.use_network:
            return activate(self.network(features.reshape(-1, features.shape[-1])).view(*features.shape[:-1], -1))
        if features.shape[-1] != self.cfg.n_output_dims:
            raise UserError(
                f"material.n_output_dims={self.cfg.n_output_dims} but geometry.n_feature_dims={features.shape[-1]}: "
                "without mlp_network_config they must be equal"
            )
        return activate(features)

    def export(self, features: Float[Tensor, "*N Nf"], **kwargs) -> dict[str, Float[Tensor, "*N 3"]]:
        """``albedo``: the first three channels, in [0, 1]."""
        return {"albedo": self(features, **kwargs)[..., :3].clamp(0, 1)}
