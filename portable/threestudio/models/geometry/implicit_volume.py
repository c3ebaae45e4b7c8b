"""Density and features from an encoding and two small networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import threestudio
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.geometry.density import FINITE_DIFFERENCES, density_bias
from threestudio.models.geometry.encoded import EncodedGeometry
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_activation
from threestudio.utils.typing import Float, Tensor


@threestudio.register("implicit-volume")
class ImplicitVolume(EncodedGeometry):
    """σ(x) = activation(density_network(encoding(x)) + bias(x)), features = feature_network(encoding(x)).

    Args of :class:`Config` beyond the base's:
        density_bias: a float, ``blob_magic3d`` or ``blob_dreamfusion`` (``density_blob_scale``, ``density_blob_std``).
        normal_type: ``finite_difference`` (3 more queries), ``finite_difference_laplacian`` (6), ``analytic``
            (differentiates the field), ``pred`` (a third network), or None.
        anneal_density_blob_std_config: ``min_anneal_step, max_anneal_step, start_val, end_val`` of the blob's std.
    """

    @dataclass
    class Config(EncodedGeometry.Config):
        density_activation: str | None = "softplus"
        density_bias: float | str = "blob_magic3d"
        density_blob_scale: float = 10.0
        density_blob_std: float = 0.5
        normal_type: str | None = "finite_difference"
        isosurface_threshold: float | str = 25.0
        anneal_density_blob_std_config: dict | None = None

    cfg: Config

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        choices = ("analytic", "pred", *FINITE_DIFFERENCES)
        if cfg.normal_type is not None and cfg.normal_type not in choices:
            raise UserError(f"geometry.normal_type={cfg.normal_type}; choices: {', '.join(choices)}, null")
        self.add_networks(
            density_network=1, feature_network=cfg.n_feature_dims, normal_network=3 if cfg.normal_type == "pred" else 0
        )
        self.density_blob_std = cfg.density_blob_std

    def get_activated_density(
        self, points: Float[Tensor, "*N Di"], density: Float[Tensor, "*N 1"]
    ) -> tuple[Float[Tensor, "*N 1"], Float[Tensor, "*N 1"]]:
        """Raw density with the bias at world points added, and its activation."""
        bias = density_bias(self.cfg.density_bias, points, self.cfg.density_blob_scale, self.density_blob_std)
        raw = density + bias
        return raw, get_activation(self.cfg.density_activation)(raw)

    def forward(self, points: Float[Tensor, "*N Di"], output_normal: bool = False) -> dict[str, Float[Tensor, "..."]]:
        """``density`` (*N, 1) and ``features`` (*N, Nf) at world points; with ``output_normal`` also ``normal`` and
        ``shading_normal`` (*N, 3), unit length, pointing out of the object."""
        differentiate = output_normal and self.cfg.normal_type == "analytic"
        keep_graph = torch.is_grad_enabled()
        with torch.set_grad_enabled(keep_graph or differentiate):
            if differentiate and not points.requires_grad:
                points = points.detach().requires_grad_(True)
            encoded = self._encode(points)
            raw = self.density_network(encoded).view(*points.shape[:-1], 1)
            _, density = self.get_activated_density(points, raw)
            out = {"density": density}
            if output_normal:
                normal = self._normal(points, encoded, density, keep_graph)
                out |= {"normal": normal, "shading_normal": normal}
        out |= self._features(points, encoded)
        return out if keep_graph else {key: value.detach() for key, value in out.items()}

    def _normal(self, points: Tensor, encoded: Tensor, density: Tensor, keep_graph: bool) -> Float[Tensor, "*N 3"]:
        kind = self.cfg.normal_type
        if kind is None:
            raise UserError("normals are asked for but geometry.normal_type is null; choose one or use no-material")
        if kind == "pred":
            return F.normalize(self.normal_network(encoded).view(*points.shape[:-1], 3), dim=-1)
        if kind == "analytic":
            slope = torch.autograd.grad(density.sum(), points, create_graph=keep_graph, retain_graph=True)[0]
            return -F.normalize(slope, dim=-1)
        return FINITE_DIFFERENCES[kind](self.forward_density, points, density, self.finite_difference_normal_eps)

    def forward_density(self, points: Float[Tensor, "*N Di"]) -> Float[Tensor, "*N 1"]:
        """Density [1/length] at world points."""
        raw = self.density_network(self._encode(points)).view(*points.shape[:-1], 1)
        return self.get_activated_density(points, raw)[1]

    def forward_field(self, points: Float[Tensor, "*N Di"]) -> tuple[Float[Tensor, "*N 1"], None]:
        """Density at world points; a density field deforms no grid."""
        if self.cfg.isosurface_deformable_grid:
            threestudio.warn("geometry.isosurface_deformable_grid has no effect on implicit-volume")
        return self.forward_density(points), None

    def forward_level(self, field: Float[Tensor, "*N 1"], threshold: float) -> Float[Tensor, "*N 1"]:
        """threshold - density: negative inside."""
        return threshold - field

    @staticmethod
    @torch.no_grad()
    def create_from(other: BaseGeometry, cfg: dict | None = None, copy_net: bool = True, **kwargs) -> ImplicitVolume:
        """New volume with ``cfg`` and, unless ``copy_net`` is false, the networks of another implicit volume.

        Raises:
            TypeError: ``other`` is of another kind.
        """
        if not isinstance(other, ImplicitVolume):
            raise TypeError(f"implicit-volume can start from an implicit-volume, not from a {type(other).__name__}")
        instance = ImplicitVolume(other.cfg if cfg is None else cfg, **kwargs)
        if copy_net:
            for name, network in instance.named_children():
                if name in dict(other.named_children()) and name != "isosurface_helper":
                    network.load_state_dict(other.get_submodule(name).state_dict())
        return instance

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        anneal = self.cfg.anneal_density_blob_std_config
        if anneal is not None:
            progress = (global_step - anneal.min_anneal_step) / (anneal.max_anneal_step - anneal.min_anneal_step)
            progress = min(max(progress, 0.0), 1.0)
            self.density_blob_std = anneal.start_val + (anneal.end_val - anneal.start_val) * progress
        super().update_step(epoch, global_step, on_load_weights)
