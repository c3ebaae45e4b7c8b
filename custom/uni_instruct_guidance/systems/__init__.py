"""The registered three-stage system, its regularisers, rewards and background."""

from . import backgrounds, rewards, uni_instruct

__all__ = ["backgrounds", "rewards", "uni_instruct"]
