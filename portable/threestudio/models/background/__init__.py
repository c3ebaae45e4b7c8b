"""Colours behind the object."""

from . import base, neural_environment_map_background, solid_color_background

__all__ = ["base", "neural_environment_map_background", "solid_color_background"]
