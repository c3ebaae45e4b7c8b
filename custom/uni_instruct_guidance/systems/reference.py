"""The untouched asset beside the one being edited: frozen, from the same cameras, before the same background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

import threestudio

from ..scoring.checkpoints import load_scene, trial_of


class Reference:
    """A finished trial that stays as it is. Not a module: it is in nobody's state_dict.

    Args:
        trial: its folder. device: where it renders.

    Raises:
        ValueError: one line naming the file: no finished trial, or one without a prompt.
    """

    def __init__(self, trial: str, device: torch.device) -> None:
        _, config = trial_of(trial)
        # the background is given with every picture
        self.scene = load_scene(trial, (1.0, 1.0, 1.0)).to(device).requires_grad_(False)
        prompts = OmegaConf.load(config).system.get("prompt_processor") or {}
        self.prompt: str = prompts.get("prompt") or ""
        if not self.prompt:
            raise ValueError(f"system.reference={trial!r}: {config.name} has no system.prompt_processor.prompt")

    def prompts(self, kind: str, block: Mapping[str, Any]) -> Any:
        """Its own prompt through a prompt processor of the edited asset's kind and settings."""
        cfg = OmegaConf.merge(block, {"prompt": self.prompt})
        return threestudio.find(kind)(cfg)()

    @torch.no_grad()
    def render(self, batch: Mapping[str, Any], background: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W 3"]:
        """What the cameras of a batch see of it."""
        return self.scene.renderer(**{**batch, "bg_color": background})["comp_rgb"]
