"""Everything a system is built from. Importing a package registers what it offers."""

from . import background, geometry, materials, renderers

__all__ = ["background", "geometry", "materials", "renderers"]
