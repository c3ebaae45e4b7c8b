"""A signed distance field from an encoding and small networks: DMTet's shape as a function (Fantasia3D's geometry)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import threestudio
from threestudio.models.geometry.encoded import EncodedGeometry
from threestudio.models.geometry.shape_init import SHAPES, shape_level
from threestudio.utils.errors import UserError
from threestudio.utils.typing import Float, Tensor

#: Fit of the networks to ``shape_init``: steps of Adam, points of each in the cube of side 2, learning rate.
FIT_STEPS, FIT_POINTS, FIT_RATE = 1000, 10_000, 1e-3

NORMAL_TYPES = ("finite_difference", "finite_difference_laplacian", "pred", "analytic")


@threestudio.register("implicit-sdf")
class ImplicitSDF(EncodedGeometry):
    """s(x) = sdf_network(encoding(x)) + bias(x), negative inside; features = feature_network(encoding(x)).

    Args of :class:`Config` beyond the base's:
        shape_init, shape_init_params, shape_init_mesh_up, shape_init_mesh_front: shape that the networks are fitted to
            by :meth:`initialize_shape`; see :mod:`threestudio.models.geometry.shape_init`.
        sdf_bias, sdf_bias_params: a number, ``sphere`` (radius) or ``ellipsoid`` (half axes), added to the network.
        normal_type, finite_difference_normal_eps: as in ``implicit-volume``.
        isosurface_deformable_grid: a network of its own moves the vertices of the grid.
    """

    @dataclass
    class Config(EncodedGeometry.Config):
        normal_type: str | None = "finite_difference"
        shape_init: str | None = None
        shape_init_params: Any = None
        shape_init_mesh_up: str = "+z"
        shape_init_mesh_front: str = "+x"
        force_shape_init: bool = False
        sdf_bias: float | str = 0.0
        sdf_bias_params: Any = None
        # a distance field has no specks
        isosurface_remove_outliers: bool = False

    cfg: Config

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        if cfg.normal_type is not None and cfg.normal_type not in NORMAL_TYPES:
            raise UserError(f"geometry.normal_type={cfg.normal_type}; choices: {', '.join(NORMAL_TYPES)}, null")
        if isinstance(cfg.sdf_bias, str):
            if cfg.sdf_bias not in SHAPES:
                raise UserError(f"geometry.sdf_bias={cfg.sdf_bias}; choices: a float, {', '.join(SHAPES)}")
            self._bias = SHAPES[cfg.sdf_bias](cfg.sdf_bias_params)
        else:
            self._bias = lambda points: cfg.sdf_bias
        if cfg.isosurface_deformable_grid and cfg.isosurface_method != "mt":
            raise UserError(
                f"geometry.isosurface_deformable_grid=true needs isosurface_method=mt, not {cfg.isosurface_method}"
            )
        self.add_networks(
            sdf_network=1,
            feature_network=cfg.n_feature_dims,
            normal_network=3 if cfg.normal_type == "pred" else 0,
            deformation_network=3 if cfg.isosurface_deformable_grid else 0,
        )

    def initialize_shape(self) -> None:
        """Fit the networks to ``shape_init``; nothing to do without it, or when weights are given."""
        cfg = self.cfg
        if cfg.shape_init is None or (cfg.weights is not None and not cfg.force_shape_init):
            return
        if cfg.sdf_bias != 0.0:
            threestudio.warn("geometry.shape_init and sdf_bias are both given; the networks start from their sum")
        level = shape_level(cfg)
        trained = [*self.encoding.parameters(), *self.sdf_network.parameters()]
        optimizer = torch.optim.Adam(trained, lr=FIT_RATE)
        with torch.enable_grad():
            for _ in range(FIT_STEPS):
                points = torch.rand(FIT_POINTS, 3, device=self.bbox.device) * 2 - 1
                loss = F.mse_loss(self.forward_sdf(points), level(points))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        threestudio.info(f"geometry starts as {cfg.shape_init}: mean error {loss.item() ** 0.5:.3g}")

    # ------------------------------------------------------------------------------------------------- the field
    def _sdf(self, points: Tensor, encoded: Tensor) -> Float[Tensor, "*N 1"]:
        return self.sdf_network(encoded).view(*points.shape[:-1], 1) + self._bias(points)

    def forward_sdf(self, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N 1"]:
        """Signed distance at world points, negative inside."""
        return self._sdf(points, self._encode(points))

    def forward(self, points: Float[Tensor, "*N Di"], output_normal: bool = False) -> dict[str, Float[Tensor, "..."]]:
        """``sdf`` and ``features``; with ``output_normal`` also ``sdf_grad``, ``normal`` and ``shading_normal``."""
        keep_graph = torch.is_grad_enabled()
        differentiate = output_normal and self.cfg.normal_type == "analytic"
        with torch.set_grad_enabled(keep_graph or differentiate):
            if differentiate and not points.requires_grad:
                points = points.detach().requires_grad_(True)
            encoded = self._encode(points)
            out = {"sdf": self._sdf(points, encoded)}
            if output_normal:
                slope = self._slope(points, encoded, out["sdf"], keep_graph)
                normal = F.normalize(slope, dim=-1)
                out |= {"normal": normal, "shading_normal": normal, "sdf_grad": slope}
        out |= self._features(points, encoded)
        return out if keep_graph else {key: value.detach() for key, value in out.items()}

    def _slope(self, points: Tensor, encoded: Tensor, sdf: Tensor, keep_graph: bool) -> Float[Tensor, "*N 3"]:
        """Gradient of the field, which points out of the object."""
        kind, eps = self.cfg.normal_type, self.finite_difference_normal_eps
        if kind is None:
            raise UserError("normals are asked for but geometry.normal_type is null; choose one")
        if kind == "pred":
            return F.normalize(self.normal_network(encoded).view(*points.shape[:-1], 3), dim=-1)
        if kind == "analytic":
            return torch.autograd.grad(sdf.sum(), points, create_graph=keep_graph, retain_graph=True)[0]
        steps = eps * torch.eye(3, device=points.device, dtype=points.dtype)
        radius = self.cfg.radius
        if kind == "finite_difference":
            ahead = self.forward_sdf((points[..., None, :] + steps).clamp(-radius, radius))[..., 0]
            return (ahead - sdf) / eps
        both = (points[..., None, None, :] + torch.stack([steps, -steps])).clamp(-radius, radius)
        ahead, behind = self.forward_sdf(both)[..., 0].unbind(-2)
        return (ahead - behind) / (2 * eps)

    def forward_field(self, points: Float[Tensor, "*N Di"]) -> tuple[Float[Tensor, "*N 1"], Tensor | None]:
        """Signed distance, and with ``isosurface_deformable_grid`` the deformation of the grid there."""
        encoded = self._encode(points)
        deformation = None
        if self.cfg.isosurface_deformable_grid:
            deformation = self.deformation_network(encoded).view(*points.shape[:-1], 3)
        return self._sdf(points, encoded), deformation

    def forward_level(self, field: Float[Tensor, "*N 1"], threshold: float) -> Float[Tensor, "*N 1"]:
        """field - threshold: negative inside."""
        return field - threshold
