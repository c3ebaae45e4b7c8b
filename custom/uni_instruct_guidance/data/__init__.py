"""The registered data modules."""

from . import random_multiview

__all__ = ["random_multiview"]
