"""What fields over an encoding of space have in common: the encoding, features beside the field, finite differences."""

from __future__ import annotations

from dataclasses import dataclass, field

from threestudio.models.geometry.base import BaseImplicitGeometry, contract_to_unisphere
from threestudio.models.networks import get_encoding, get_mlp, hash_grid, open_levels, small_mlp
from threestudio.utils.errors import UserError
from threestudio.utils.typing import Float, Tensor


class EncodedGeometry(BaseImplicitGeometry):
    """An encoding of points, and small networks that read it.

    Args of :class:`Config` beyond the base's:
        n_input_dims, n_feature_dims: of points, and of the features at them (0: none).
        pos_encoding_config, mlp_network_config: see :mod:`threestudio.models.networks`.
        finite_difference_normal_eps: step in world units, or ``progressive``: the cell size of the finest open level
            of a ``ProgressiveBandHashGrid``.
    """

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_input_dims: int = 3
        n_feature_dims: int = 3
        pos_encoding_config: dict = field(default_factory=hash_grid)
        mlp_network_config: dict = field(default_factory=small_mlp)
        finite_difference_normal_eps: float | str = 0.01

    cfg: Config

    def add_networks(self, **n_outputs: int) -> None:
        """The encoding, and a network of this name for every entry with outputs."""
        self.encoding = get_encoding(self.cfg.n_input_dims, self.cfg.pos_encoding_config)
        for name, count in n_outputs.items():
            if count:
                setattr(self, name, get_mlp(self.encoding.n_output_dims, count, self.cfg.mlp_network_config))
        self.finite_difference_normal_eps = self._normal_eps(global_step=0)

    def _encode(self, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "M De"]:
        unit = contract_to_unisphere(points, self.bbox, self.unbounded)
        return self.encoding(unit.reshape(-1, self.cfg.n_input_dims))

    def _features(self, points: Float[Tensor, "*N Di"], encoded: Float[Tensor, "M De"]) -> dict[str, Tensor]:
        """``features`` [*N, Nf] at encoded points; nothing where there are none."""
        if self.cfg.n_feature_dims == 0:
            return {}
        return {"features": self.feature_network(encoded).view(*points.shape[:-1], self.cfg.n_feature_dims)}

    def export(self, points: Float[Tensor, "*N Di"], **kwargs) -> dict[str, Float[Tensor, "*N Nf"]]:
        """``features`` at world points, for the material to turn into textures."""
        return self._features(points, self._encode(points))

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.finite_difference_normal_eps = self._normal_eps(global_step)

    def _normal_eps(self, global_step: int) -> float:
        """Step of finite differences in world units at this training step."""
        eps, encoding = self.cfg.finite_difference_normal_eps, self.cfg.pos_encoding_config
        if isinstance(eps, float):
            return eps
        if eps != "progressive" or encoding.otype != "ProgressiveBandHashGrid":
            raise UserError(
                f"geometry.finite_difference_normal_eps={eps} with {encoding.otype}; "
                "choices: a number, progressive (with ProgressiveBandHashGrid)"
            )
        level = open_levels(encoding, encoding.n_levels, global_step)
        return 2 * self.cfg.radius / (encoding.base_resolution * encoding.per_level_scale ** (level - 1))
