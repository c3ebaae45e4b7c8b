"""Colours from features."""

from . import base, diffuse_with_point_light_material, no_material, pbr_material

__all__ = ["base", "diffuse_with_point_light_material", "no_material", "pbr_material"]
