"""What every geometry offers: features at points, an isosurface, what to export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import threestudio
from threestudio.utils.base import BaseModule
from threestudio.utils.errors import UserError
from threestudio.utils.ops import chunk_batch, contract_to_unisphere, scale_tensor
from threestudio.utils.typing import Float, Tensor

__all__ = ["BaseExplicitGeometry", "BaseGeometry", "BaseImplicitGeometry", "contract_to_unisphere"]


class IsosurfaceDisabledError(UserError, NotImplementedError):
    """A surface was asked of a geometry whose configuration says ``isosurface: false``."""


def _marching_tetrahedra(resolution: int) -> nn.Module:
    from threestudio.models.isosurface import MarchingTetrahedraHelper

    return MarchingTetrahedraHelper(resolution, f"load/tets/{resolution}_tets.npz")


def _marching_cubes(resolution: int) -> nn.Module:
    from threestudio.models.isosurface import MarchingCubeCPUHelper

    return MarchingCubeCPUHelper(resolution)


#: ``isosurface_method`` -> extractor on a grid of that resolution. Built when first used: most runs need none.
ISOSURFACE_METHODS: dict[str, Callable[[int], nn.Module]] = {"mt": _marching_tetrahedra, "mc-cpu": _marching_cubes}


class BaseGeometry(BaseModule):
    """A shape with features on it."""

    @staticmethod
    def create_from(other: BaseGeometry, cfg: dict | None = None, **kwargs) -> BaseGeometry:
        """New geometry that starts from ``other``, perhaps of another kind.

        Raises:
            TypeError: there is no way from that kind to this one.
        """
        raise TypeError(f"no geometry of the requested type can start from a {type(other).__name__}")

    def export(self, *args, **kwargs) -> dict[str, Any]:
        """What the exporter needs at surface points: ``features``."""
        return {}


class BaseImplicitGeometry(BaseGeometry):
    """A field in the box [-radius, radius]^3 of the world."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0
        isosurface: bool = True
        isosurface_method: str = "mt"
        isosurface_resolution: int = 128
        isosurface_threshold: float | str = 0.0
        isosurface_chunk: int = 0
        isosurface_coarse_to_fine: bool = True
        isosurface_deformable_grid: bool = False
        isosurface_remove_outliers: bool = True
        isosurface_outlier_n_faces_threshold: int | float = 0.01

    cfg: Config

    def configure(self) -> None:
        radius = self.cfg.radius
        self.bbox: Float[Tensor, "2 3"]
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))
        self.unbounded = False
        self.isosurface_helper: nn.Module | None = None
        if self.cfg.isosurface_method not in ISOSURFACE_METHODS:
            raise UserError(
                f"geometry.isosurface_method={self.cfg.isosurface_method}; choices: {', '.join(ISOSURFACE_METHODS)}"
            )
        threshold = self.cfg.isosurface_threshold
        if isinstance(threshold, str) and threshold != "auto":
            raise UserError(f"geometry.isosurface_threshold={threshold}; choices: a number, auto")

    def forward(self, points: Float[Tensor, "*N Di"], output_normal: bool = False) -> dict[str, Float[Tensor, "..."]]:
        """What is at the points; keys depend on the geometry (``density`` or ``sdf``, ``features``, ``normal``…)."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def forward_field(self, points: Float[Tensor, "*N Di"]) -> tuple[Tensor, Tensor | None]:
        """Field (*N, 1) whose isosurface is the shape, and a deformation (*N, 3) of the grid's vertices or None."""
        raise TypeError(f"{type(self).__name__} has no field")

    def forward_level(self, field: Float[Tensor, "*N 1"], threshold: float) -> Float[Tensor, "*N 1"]:
        """Field -> level function that is negative inside."""
        raise TypeError(f"{type(self).__name__} has no level function")

    def isosurface(self):
        """Mesh of the surface where the field equals ``isosurface_threshold``.

        ``auto`` takes the mean of the field where it is above 1e-5.
        With ``isosurface_coarse_to_fine`` a first pass finds the object's box, a second one fills it with the grid.

        Raises:
            NotImplementedError: ``isosurface`` is false in the configuration.
            ValueError: no surface at this threshold.
        """
        if not self.cfg.isosurface:
            raise IsosurfaceDisabledError("geometry.isosurface=false: this geometry was asked not to make a surface")
        if self.isosurface_helper is None:
            build = ISOSURFACE_METHODS[self.cfg.isosurface_method]
            self.isosurface_helper = build(self.cfg.isosurface_resolution).to(self.bbox.device)
        if not self.cfg.isosurface_coarse_to_fine:
            return self._isosurface(self.bbox)
        with torch.no_grad():
            vertices = self._isosurface(self.bbox).v_pos
        lower, upper = vertices.amin(0), vertices.amax(0)
        margin = 0.1 * (upper - lower)
        box = torch.stack([torch.maximum(lower - margin, self.bbox[0]), torch.minimum(upper + margin, self.bbox[1])])
        return self._isosurface(box, fine_stage=True)

    def _isosurface(self, bbox: Float[Tensor, "2 3"], fine_stage: bool = False):
        """Surface inside ``bbox``; its mesh carries the box as extra ``bbox``."""
        helper = self.isosurface_helper

        def field_of(vertices: Float[Tensor, "N 3"]) -> tuple[Tensor, Tensor | None]:
            return self.forward_field(scale_tensor(vertices, helper.points_range, bbox))

        field, deformation = chunk_batch(field_of, self.cfg.isosurface_chunk, helper.grid_vertices)
        threshold = self.cfg.isosurface_threshold
        if threshold == "auto":
            # empty space is most of the box and says nothing about the object
            occupied = field[field > 1e-5]
            threshold = occupied.mean().item() if len(occupied) else 0.0
            threestudio.info(f"isosurface_threshold=auto: {threshold:.4g}")
        level = self.forward_level(field, threshold)
        if not ((level > 0).any() and (level <= 0).any()):
            raise UserError(
                f"no surface at geometry.isosurface_threshold={self.cfg.isosurface_threshold}: "
                f"choose a value between {field.min().item():.4g} and {field.max().item():.4g}, where the field lies"
            )
        mesh = helper(level, deformation=deformation)
        mesh.v_pos = scale_tensor(mesh.v_pos, helper.points_range, bbox)
        mesh.add_extra("bbox", bbox)
        if self.cfg.isosurface_remove_outliers:
            mesh = mesh.remove_outlier(self.cfg.isosurface_outlier_n_faces_threshold)
        return mesh


class BaseExplicitGeometry(BaseGeometry):
    """A surface in the box [-radius, radius]^3 of the world."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0

    cfg: Config

    def configure(self) -> None:
        radius = self.cfg.radius
        self.bbox: Float[Tensor, "2 3"]
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))
