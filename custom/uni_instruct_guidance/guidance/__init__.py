"""The guidances that are registered with threestudio, their configuration and prompts."""

from . import stock, uni_instruct

__all__ = ["stock", "uni_instruct"]
