"""From a trained scene to files."""

from . import base, mesh_exporter

__all__ = ["base", "mesh_exporter"]
