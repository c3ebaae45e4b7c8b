"""The guidances that are registered with threestudio, their configuration and prompts."""

from . import camera_prompts, stock, uni_instruct

__all__ = ["camera_prompts", "stock", "uni_instruct"]
