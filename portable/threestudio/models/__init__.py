"""Everything a system is built from. Importing a package registers what it offers."""

from . import background, exporters, geometry, materials, prompt_processors, renderers

__all__ = ["background", "exporters", "geometry", "materials", "prompt_processors", "renderers"]
