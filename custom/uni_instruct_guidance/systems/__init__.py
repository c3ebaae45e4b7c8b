"""The registered three-stage system, its regularisers and rewards."""

from . import rewards, uni_instruct

__all__ = ["rewards", "uni_instruct"]
