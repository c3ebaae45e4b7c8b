"""From scene to images."""

from . import base, nerf_volume_renderer

__all__ = ["base", "nerf_volume_renderer"]
