"""The rasteriser behind mesh renderer and exporter: nvdiffrast on CUDA where installed, the torch twin elsewhere."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from backends import raster
from threestudio.utils.errors import UserError
from threestudio.utils.logging import info

CONTEXT_TYPES = ("gl", "cuda")


@functools.cache
def missing_nvdiffrast() -> str | None:
    """Why nvdiffrast cannot be used, None if it can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        importlib.import_module("nvdiffrast.torch")
    except (ImportError, OSError) as error:  # OSError: built for another GPU architecture
        return f"cannot import nvdiffrast: {error}"
    return None


@functools.cache
def _choose(device_type: str) -> ModuleType:
    """The module whose rasterize, interpolate, antialias and texture are used on such a device; said once."""
    if device_type == "cuda" and missing_nvdiffrast() is None:
        info("rasteriser: nvdiffrast")
        return importlib.import_module("nvdiffrast.torch")
    info(f"rasteriser: pure torch on {device_type}")
    return raster


class NVDiffRasterizerContext:
    """Rasteriser operations on batched views of one mesh.

    Args:
        context_type: ``gl`` or ``cuda``; nvdiffrast's two implementations. The torch twin has one and needs no
            OpenGL, and with nvdiffrast ``gl`` is served by its CUDA implementation, which needs no display.
        device: where the tensors live.
    """

    def __init__(self, context_type: str, device: torch.device) -> None:
        if context_type not in CONTEXT_TYPES:
            raise UserError(f"context_type={context_type}; choices: {', '.join(CONTEXT_TYPES)}")
        self.device = torch.device(device)
        self.library = _choose(self.device.type)
        self.ctx = self.library.RasterizeCudaContext(device=self.device)

    def vertex_transform(
        self, verts: Float[Tensor, "Nv 3"], mvp_mtx: Float[Tensor, "B 4 4"]
    ) -> Float[Tensor, "B Nv 4"]:
        """World positions -> clip space of every view."""
        homogeneous = torch.cat([verts, torch.ones_like(verts[:, :1])], dim=-1)
        return torch.matmul(homogeneous, mvp_mtx.to(verts).permute(0, 2, 1))

    def rasterize(
        self, pos: Float[Tensor, "B Nv 4"], tri: Integer[Tensor, "Nf 3"], resolution: int | tuple[int, int]
    ) -> tuple[Float[Tensor, "B H W 4"], Float[Tensor, "B H W 4"]]:
        """Visible triangle, barycentrics and depth per pixel, and their image-space derivatives."""
        size = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        return self.library.rasterize(self.ctx, pos.float(), tri.int(), size, grad_db=True)

    def rasterize_one(
        self, pos: Float[Tensor, "Nv 4"], tri: Integer[Tensor, "Nf 3"], resolution: int | tuple[int, int]
    ) -> tuple[Float[Tensor, "H W 4"], Float[Tensor, "H W 4"]]:
        """:meth:`rasterize` of one view, without the batch axis."""
        rast, rast_db = self.rasterize(pos[None], tri, resolution)
        return rast[0], rast_db[0]

    def antialias(
        self,
        color: Float[Tensor, "B H W C"],
        rast: Float[Tensor, "B H W 4"],
        pos: Float[Tensor, "B Nv 4"],
        tri: Integer[Tensor, "Nf 3"],
    ) -> Float[Tensor, "B H W C"]:
        """Silhouettes blended by coverage; this is what gives positions a gradient from visibility."""
        return self.library.antialias(color.float(), rast, pos.float(), tri.int())

    def interpolate(
        self,
        attr: Float[Tensor, "B Nv C"],
        rast: Float[Tensor, "B H W 4"],
        tri: Integer[Tensor, "Nf 3"],
        rast_db: Float[Tensor, "B H W 4"] | None = None,
        diff_attrs: str | list[int] | None = None,
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W D"]]:
        """Vertex attributes at the pixels, and with ``diff_attrs`` their image-space derivatives."""
        return self.library.interpolate(attr.float(), rast, tri.int(), rast_db=rast_db, diff_attrs=diff_attrs)

    def interpolate_one(
        self,
        attr: Float[Tensor, "Nv C"],
        rast: Float[Tensor, "B H W 4"],
        tri: Integer[Tensor, "Nf 3"],
        rast_db: Float[Tensor, "B H W 4"] | None = None,
        diff_attrs: str | list[int] | None = None,
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W D"]]:
        """:meth:`interpolate` of attributes shared by the views."""
        return self.interpolate(attr[None], rast, tri, rast_db, diff_attrs)
