"""3D models beyond threestudio's stock ones, registered in either host: geometries, lit material, exporter of .glb."""

from . import geometry, material, mesh_exporter

__all__ = ["geometry", "material", "mesh_exporter"]
