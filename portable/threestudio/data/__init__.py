"""Data modules. Importing the package registers them."""

from . import uncond

__all__ = ["uncond"]
