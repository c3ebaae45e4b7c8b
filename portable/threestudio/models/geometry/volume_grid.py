"""Density and features stored on the nodes of one dense grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import threestudio
from threestudio.models.geometry.base import BaseImplicitGeometry, contract_to_unisphere
from threestudio.models.geometry.density import FINITE_DIFFERENCES, density_bias
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_activation
from threestudio.utils.typing import Float, Tensor


@threestudio.register("volume-grid")
class VolumeGrid(BaseImplicitGeometry):
    """Trilinear interpolation of a (1 + n_feature_dims)-channel grid: raw density first, then features.

    ``density_bias``: a float or ``blob`` (Magic3D's cone). ``normal_type``: ``finite_difference``,
    ``finite_difference_laplacian``, ``pred`` (a second grid) or None.
    """

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        grid_size: tuple[int, int, int] = (100, 100, 100)
        n_feature_dims: int = 3
        density_activation: str | None = "softplus"
        density_bias: float | str = "blob"
        density_blob_scale: float = 5.0
        density_blob_std: float = 0.5
        normal_type: str | None = "finite_difference"
        isosurface_threshold: float | str = "auto"

    cfg: Config

    #: Step of finite differences, world units.
    NORMAL_EPS = 1e-3

    def configure(self) -> None:
        super().configure()
        choices = ("pred", *FINITE_DIFFERENCES)
        if self.cfg.normal_type is not None and self.cfg.normal_type not in choices:
            raise UserError(f"geometry.normal_type={self.cfg.normal_type}; choices: {', '.join(choices)}, null")
        size = tuple(self.cfg.grid_size)
        self.grid = nn.Parameter(torch.zeros(1, self.cfg.n_feature_dims + 1, *size))
        # a grid that starts from a blob learns deviations; one that starts flat learns its overall scale too
        if isinstance(self.cfg.density_bias, str):
            self.density_scale: Tensor
            self.register_buffer("density_scale", torch.zeros(1))
        else:
            self.density_scale = nn.Parameter(torch.zeros(1))
        if self.cfg.normal_type == "pred":
            self.normal_grid = nn.Parameter(torch.zeros(1, 3, *size))

    def get_trilinear_feature(
        self, points: Float[Tensor, "*N 3"], grid: Float[Tensor, "1 C D H W"]
    ) -> Float[Tensor, "*N C"]:
        """Channels of the grid at world points; x runs along the last axis, beyond the outer nodes values fade to 0."""
        unit = contract_to_unisphere(points, self.bbox, self.unbounded) * 2 - 1
        sampled = F.grid_sample(grid, unit.reshape(1, 1, 1, -1, 3), mode="bilinear", align_corners=False)
        return sampled.reshape(grid.shape[1], -1).T.reshape(*points.shape[:-1], grid.shape[1])

    def _activated(self, points: Tensor, raw: Float[Tensor, "*N 1"]) -> Float[Tensor, "*N 1"]:
        bias = density_bias(self.cfg.density_bias, points, self.cfg.density_blob_scale, self.cfg.density_blob_std)
        return get_activation(self.cfg.density_activation)(raw * self.density_scale.exp() + bias)

    def forward(self, points: Float[Tensor, "*N 3"], output_normal: bool = False) -> dict[str, Float[Tensor, "..."]]:
        """``density`` (*N, 1), ``features`` (*N, Nf) at world points; on demand ``normal`` and ``shading_normal``."""
        raw = self.get_trilinear_feature(points, self.grid)
        density = self._activated(points, raw[..., :1])
        out = {"density": density, "features": raw[..., 1:]}
        if output_normal:
            normal = self._normal(points, density)
            out |= {"normal": normal, "shading_normal": normal}
        return out

    def _normal(self, points: Tensor, density: Tensor) -> Float[Tensor, "*N 3"]:
        kind = self.cfg.normal_type
        if kind is None:
            raise UserError("normals are asked for but geometry.normal_type is null; choose one or use no-material")
        if kind == "pred":
            return F.normalize(self.get_trilinear_feature(points, self.normal_grid), dim=-1)
        return FINITE_DIFFERENCES[kind](self.forward_density, points, density, self.NORMAL_EPS)

    def forward_density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        """Density [1/length] at world points."""
        return self._activated(points, self.get_trilinear_feature(points, self.grid[:, :1]))

    def forward_field(self, points: Float[Tensor, "*N 3"]) -> tuple[Float[Tensor, "*N 1"], None]:
        """Density at world points; a density field deforms no grid."""
        if self.cfg.isosurface_deformable_grid:
            threestudio.warn("geometry.isosurface_deformable_grid has no effect on volume-grid")
        return self.forward_density(points), None

    def forward_level(self, field: Float[Tensor, "*N 1"], threshold: float) -> Float[Tensor, "*N 1"]:
        """threshold - density: negative inside."""
        return threshold - field

    def export(self, points: Float[Tensor, "*N 3"], **kwargs) -> dict[str, Float[Tensor, "*N Nf"]]:
        """``features`` at world points, for the material to turn into textures."""
        return {"features": self.get_trilinear_feature(points, self.grid[:, 1:])} if self.cfg.n_feature_dims else {}
