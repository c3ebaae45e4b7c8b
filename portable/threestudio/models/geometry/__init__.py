"""Shapes: fields and surfaces."""

from . import base, implicit_sdf, implicit_volume, tetrahedra_sdf_grid, volume_grid

__all__ = ["base", "implicit_sdf", "implicit_volume", "tetrahedra_sdf_grid", "volume_grid"]
