"""A surface as the zero of levels on a deformable tetrahedral grid, with a field of features around it (DMTet)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import threestudio
from backends.level_cleanup import clean_levels
from threestudio.models.geometry.base import (
    BaseExplicitGeometry,
    BaseGeometry,
    BaseImplicitGeometry,
    contract_to_unisphere,
)
from threestudio.models.geometry.shape_init import shape_level
from threestudio.models.isosurface import MarchingTetrahedraHelper
from threestudio.models.mesh import Mesh
from threestudio.models.networks import get_encoding, get_mlp, hash_grid, small_mlp
from threestudio.utils.errors import UserError
from threestudio.utils.ops import scale_tensor

LEVEL_QUANTILE = 0.95
"""A converted field is scaled so that this share of the levels next to the surface stays within -1 .. 1."""

SPECK_SHARE = 0.004
"""Loose parts of a converted field that fill less than this share of the object in every picture are specks.

Leaves of a rose fill 1 % and more, dust below 0.2 %."""


@threestudio.register("tetrahedra-sdf-grid")
class TetrahedraSDFGrid(BaseExplicitGeometry):
    """Levels ``sdf`` [Nv, 1] (negative inside) and offsets ``deformation`` [Nv, 3] at the vertices of a grid.

    Args of :class:`Config`:
        isosurface_resolution: vertex layers of the grid along each side of its box.
        isosurface_deformable_grid: let the vertices move, by at most one layer.
        isosurface_remove_outliers, isosurface_outlier_n_faces_threshold: see :meth:`Mesh.remove_outlier`; not while
            the shape is trained.
        pos_encoding_config, mlp_network_config, n_feature_dims: features at points, as in ``implicit-volume``.
        shape_init: ``ellipsoid`` (params: three half axes), ``sphere`` (radius), ``mesh:FILE`` (largest coordinate), or
            None; see :mod:`threestudio.models.geometry.shape_init`. A shape taken from another
            geometry or a checkpoint replaces it, unless :meth:`initialize_shape` is called with ``force_shape_init``.
        geometry_only: no features.
        fix_geometry: the shape is not trained; its mesh is extracted once.
    """

    @dataclass
    class Config(BaseExplicitGeometry.Config):
        isosurface_resolution: int = 128
        isosurface_deformable_grid: bool = True
        isosurface_remove_outliers: bool = False
        isosurface_outlier_n_faces_threshold: int | float = 0.01
        n_input_dims: int = 3
        n_feature_dims: int = 3
        pos_encoding_config: dict = field(default_factory=hash_grid)
        mlp_network_config: dict = field(default_factory=small_mlp)
        shape_init: str | None = None
        shape_init_params: Any = None
        shape_init_mesh_up: str = "+z"
        shape_init_mesh_front: str = "+x"
        force_shape_init: bool = False
        geometry_only: bool = False
        fix_geometry: bool = False

    cfg: Config

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        self.isosurface_bbox: Float[Tensor, "2 3"]
        self.register_buffer("isosurface_bbox", self.bbox.clone())
        self.isosurface_helper = MarchingTetrahedraHelper(cfg.isosurface_resolution)
        n_vertices = len(self.isosurface_helper.grid_vertices)
        self._add("sdf", torch.zeros(n_vertices, 1))
        self.deformation: Tensor | None
        if cfg.isosurface_deformable_grid:
            self._add("deformation", torch.zeros(n_vertices, 3))
        else:
            self.deformation = None
        if not cfg.geometry_only:
            self.encoding = get_encoding(cfg.n_input_dims, cfg.pos_encoding_config)
            self.feature_network = get_mlp(self.encoding.n_output_dims, cfg.n_feature_dims, cfg.mlp_network_config)
        self._fixed_mesh: Mesh | None = None
        self.register_load_state_dict_post_hook(_forget_mesh)
        self.initialize_shape()

    def _add(self, name: str, value: Tensor) -> None:
        """A parameter, or with ``fix_geometry`` a buffer: it is saved either way."""
        if self.cfg.fix_geometry:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    @torch.no_grad()
    def initialize_shape(self) -> None:
        """Start from ``shape_init``; nothing to do without it, or when there already is a shape."""
        if self.cfg.shape_init is None or (self.sdf.any() and not self.cfg.force_shape_init):
            return
        level = shape_level(self.cfg)
        points = scale_tensor(
            self.isosurface_helper.grid_vertices, self.isosurface_helper.points_range, self.isosurface_bbox
        )
        self.sdf.copy_(level(points))
        _forget_mesh(self)

    def isosurface(self) -> Mesh:
        """Closed mesh of the surface, in world coordinates.

        Raises:
            ValueError: the levels have one sign everywhere.
        """
        if self._fixed_mesh is not None and self._fixed_mesh.v_pos.device == self.sdf.device:
            return self._fixed_mesh
        mesh = self.isosurface_helper(self.sdf, deformation=self.deformation)
        if len(mesh.t_pos_idx) == 0:
            raise UserError(
                "geometry tetrahedra-sdf-grid has no surface: give it a shape (system.geometry_convert_from, "
                "geometry.shape_init, or a checkpoint); if it vanished in training, lower the learning rate of the "
                "geometry or the weights of its regularisers"
            )
        mesh.v_pos = scale_tensor(mesh.v_pos, self.isosurface_helper.points_range, self.isosurface_bbox)
        if self.cfg.isosurface_remove_outliers:
            mesh = mesh.remove_outlier(self.cfg.isosurface_outlier_n_faces_threshold)
        if self.cfg.fix_geometry:
            self._fixed_mesh = mesh
        return mesh

    def forward(self, points: Float[Tensor, "*N Di"], output_normal: bool = False) -> dict[str, Tensor]:
        """``features`` [*N, Nf] at world points (nothing with ``geometry_only``); normals belong to the mesh."""
        if output_normal:
            raise UserError("tetrahedra-sdf-grid has normals on its mesh only; render it with nvdiff-rasterizer")
        if self.cfg.geometry_only:
            return {}
        unit = contract_to_unisphere(points, self.bbox, unbounded=False)
        features = self.feature_network(self.encoding(unit.reshape(-1, self.cfg.n_input_dims)))
        return {"features": features.view(*points.shape[:-1], self.cfg.n_feature_dims)}

    def export(self, points: Float[Tensor, "*N Di"], **kwargs) -> dict[str, Tensor]:
        """``features`` at world points, for the material to turn into textures."""
        return self.forward(points)

    def eikonal(self) -> Float[Tensor, ""]:
        """Variation of the levels' slope next to the surface: E[(|∇s| / mean|∇s| - 1)^2], along crossed edges.

        A distance function has slope 1 everywhere (eikonal equation); levels have a scale of their own, so what is
        asked for is the same slope everywhere. Keeps the surface from turning spongy.
        """
        vertices = self.isosurface_helper.grid_vertices
        start, end = self.isosurface_helper.all_edges.unbind(-1)
        s = self.sdf[:, 0]
        crossed = ((s[start] > 0) != (s[end] > 0)).detach()
        start, end = start[crossed], end[crossed]
        slope = (s[end] - s[start]).abs() / (vertices[end] - vertices[start]).norm(dim=-1)
        return (slope / slope.detach().mean().clamp(min=1e-8) - 1).square().mean()

    @staticmethod
    @torch.no_grad()
    def create_from(
        other: BaseGeometry, cfg: dict | None = None, copy_net: bool = True, **kwargs
    ) -> TetrahedraSDFGrid:
        """New grid with ``cfg`` that starts from another one, or from the surface of a field.

        Args:
            copy_net: also take over encoding and feature network (from ``implicit-volume`` and from another grid).

        Raises:
            TypeError: ``other`` is of another kind.
            ValueError: it has no surface, or does not fit ``cfg``.
        """
        for kind, start in _STARTS.items():
            if isinstance(other, kind):
                instance = TetrahedraSDFGrid(other.cfg if cfg is None else cfg, **kwargs)
                if instance.cfg.radius != other.cfg.radius:
                    raise UserError(
                        f"geometry.radius={instance.cfg.radius} differs from the radius {other.cfg.radius} of the "
                        "geometry it starts from; shape and features would not match: make them equal"
                    )
                start(instance.to(other.bbox.device), other)
                if copy_net and not instance.cfg.geometry_only and hasattr(other, "feature_network"):
                    for name in ("encoding", "feature_network"):
                        _take_weights(instance, other, name)
                return instance
        raise TypeError(f"tetrahedra-sdf-grid starts from a field or another grid, not from a {type(other).__name__}")


def _take_weights(instance: TetrahedraSDFGrid, other: BaseGeometry, name: str) -> None:
    try:
        instance.get_submodule(name).load_state_dict(other.get_submodule(name).state_dict())
    except RuntimeError as error:  # names or shapes differ
        raise UserError(
            f"geometry.{name} does not fit the one it starts from: give pos_encoding_config, mlp_network_config and "
            f"n_feature_dims the same values ({str(error).splitlines()[-1].strip()})"
        ) from error


def _start_from_grid(instance: TetrahedraSDFGrid, other: TetrahedraSDFGrid) -> None:
    if instance.sdf.shape != other.sdf.shape:
        raise UserError(
            f"geometry.isosurface_resolution={instance.cfg.isosurface_resolution}, but the grid it starts from has "
            f"{other.cfg.isosurface_resolution}; make them equal"
        )
    instance.isosurface_bbox.copy_(other.isosurface_bbox)
    instance.sdf.copy_(other.sdf)
    if instance.deformation is not None and other.deformation is not None:
        instance.deformation.copy_(other.deformation)


def _start_from_field(instance: TetrahedraSDFGrid, other: BaseImplicitGeometry) -> None:
    wanted = {"isosurface": True, "isosurface_method": "mt"}
    wanted |= {"isosurface_resolution": instance.cfg.isosurface_resolution}
    changed = {key: value for key, value in wanted.items() if other.cfg[key] != value}
    if changed:
        threestudio.info(f"conversion uses {', '.join(f'{key}={value}' for key, value in changed.items())}")
    before = {key: other.cfg[key] for key in wanted}
    helper = other.isosurface_helper
    other.cfg.update(wanted)
    other.isosurface_helper = instance.isosurface_helper
    try:
        mesh = other.isosurface()
    except UserError as error:
        raise UserError(
            f"cannot convert to a mesh: {error}; or set geometry.isosurface_threshold=auto, or train the first stage "
            "longer"
        ) from error
    finally:
        other.cfg.update(before)
        other.isosurface_helper = helper
    bbox, helper = mesh.extras["bbox"], instance.isosurface_helper
    level, n_specks, n_cavities = clean_levels(
        mesh.extras["grid_level"][:, 0],
        scale_tensor(helper.grid_vertices, helper.points_range, bbox),
        helper.all_edges,
        helper.boundary,
        min_share=SPECK_SHARE if other.cfg.isosurface_remove_outliers else 0.0,
    )
    instance.isosurface_bbox.copy_(bbox)
    instance.sdf.copy_(_scaled(level, helper)[:, None])
    if instance.deformation is not None and mesh.extras["grid_deformation"] is not None:
        instance.deformation.copy_(mesh.extras["grid_deformation"])
    _forget_mesh(instance)
    mesh = instance.isosurface()
    box = ", ".join(f"{low:.2f}..{high:.2f}" for low, high in bbox.T.tolist())
    threestudio.info(
        f"converted to a mesh of {len(mesh.v_pos)} vertices, {len(mesh.t_pos_idx)} faces in {box}; "
        f"removed {n_specks} specks, filled {n_cavities} cavities"
    )


def _scaled(level: Tensor, helper: MarchingTetrahedraHelper) -> Tensor:
    """Levels over their size next to the surface, cut to -1 .. 1: the surface stays, far values lose their weight.

    Cutting alone, as is usual, would leave only signs of a steep density and put every vertex half way.
    """
    ends = level[helper.all_edges]
    beside = ends[(ends[:, 0] > 0) != (ends[:, 1] > 0)].abs().flatten().sort().values
    size = beside[int(LEVEL_QUANTILE * (len(beside) - 1))]
    return (level / size.clamp(min=1e-12)).clamp(-1, 1)


_STARTS: dict[type, Callable] = {TetrahedraSDFGrid: _start_from_grid, BaseImplicitGeometry: _start_from_field}


def _forget_mesh(module: TetrahedraSDFGrid, *_: Any) -> None:
    module._fixed_mesh = None
