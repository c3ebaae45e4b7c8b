"""Shapes: fields and surfaces."""

from . import base, implicit_volume, volume_grid

__all__ = ["base", "implicit_volume", "volume_grid"]
