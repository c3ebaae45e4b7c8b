"""The registered three-stage system, its regularisers and background."""

from . import backgrounds, uni_instruct

__all__ = ["backgrounds", "uni_instruct"]
