"""Differentiable triangle rasteriser in plain torch, for any device.

A stand-in for the torch functions of nvdiffrast (Laine et al. 2020, "Modular Primitives for High-Performance
Differentiable Rendering"): the same names, argument order, tensor layouts and image orientation (row 0 is y = -1 in
clip space), so that ``import backends.raster as dr`` replaces ``import nvdiffrast.torch as dr``.

Beyond nvdiffrast: every output has gradients on every device, z/w carries gradients too, and float64 works.
Not covered: depth peeling, cube maps, higher-order gradients of texture mip selection.
"""

from .antialias import antialias, antialias_construct_topology_hash
from .rasterize import RasterizeCudaContext, RasterizeGLContext, RasterizeTorchContext, interpolate, rasterize
from .texture import texture, texture_construct_mip

__all__ = [
    "RasterizeCudaContext",
    "RasterizeGLContext",
    "RasterizeTorchContext",
    "antialias",
    "antialias_construct_topology_hash",
    "interpolate",
    "rasterize",
    "texture",
    "texture_construct_mip",
]
