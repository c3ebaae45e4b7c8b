"""From scene to images."""

from . import base, nerf_volume_renderer, nvdiff_rasterizer

__all__ = ["base", "nerf_volume_renderer", "nvdiff_rasterizer"]
