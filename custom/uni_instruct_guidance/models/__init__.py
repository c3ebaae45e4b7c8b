"""3D models beyond threestudio's stock ones, registered in either host: geometries, and the exporter of .glb files."""

from . import geometry, mesh_exporter

__all__ = ["geometry", "mesh_exporter"]
