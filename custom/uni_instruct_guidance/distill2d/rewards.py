"""Rewards of `text.reward` for pictures of many prompts; those of 3D, one prompt each, are the same scorers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .families import Reward

# Rewards that read no prompt have no option for it.
_PROMPTLESS = ("aesthetic", "uni-instruct-aesthetic-reward")


def reward_of_prompts(name: str, options: dict[str, Any]) -> Reward:
    """(images [B, 3, H, W] in 0..1, prompts) ↦ rewards [B].

    Raises:
        UserError: unknown, not to be built, or without a gradient in the pictures; found before anything is trained.
    """
    from ..scoring.rewards import build_reward

    if name not in _PROMPTLESS:
        options = {"view_dependent": True, **options}  # "views" are the prompts of the batch
    try:
        scorer = build_reward(name, options)

        def reward(images: Tensor, prompts: list[str]) -> Tensor:
            told = SimpleNamespace(prompt=prompts[0], prompts_vd=prompts)
            return scorer(images, told, torch.arange(len(prompts), device=images.device))

        probe = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        value = reward(probe, ["a", "b"])
    except ValueError as error:
        raise UserError(str(error).replace("system.guidance.reward", "text.reward")) from error
    if not value.requires_grad:
        raise UserError(f"text.reward={name!r} is not differentiable in the pictures")
    return reward
