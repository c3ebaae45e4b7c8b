"""The registered three-stage system and its regularisers."""

from . import uni_instruct

__all__ = ["uni_instruct"]
