"""Prompt processors. Importing the package registers them."""

from . import base, stable_diffusion_prompt_processor

__all__ = ["base", "stable_diffusion_prompt_processor"]
