"""The registered three-stage system, its regularisers and background, and two baselines."""

from . import backgrounds, baselines, uni_instruct

__all__ = ["backgrounds", "baselines", "uni_instruct"]
