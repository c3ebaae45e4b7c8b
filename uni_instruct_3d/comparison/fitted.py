"""A rung that no method can pass: the NeRF fitted to pictures of the world's own object instead of distilled.

What separates it from ground truth is lost in renderer, grid, cameras and conversion; what separates a method from it
is lost in the teacher and in the distillation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import threestudio
from uni_instruct_guidance.systems.regularisers import regularise
from uni_instruct_guidance.systems.uni_instruct import UniInstructSystem

from ..shapes_world.render import Instance, render_c2w
from ..world_metrics import asked_by
from .assets import WorldObject

BLACK = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


class WorldPictures(nn.Module):
    """Pictures of one object of the world from the cameras of a batch; it learns nothing."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self.instance = instance

    def forward(self, batch: dict[str, Any]) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 1"]]:
        """Colour on black (premultiplied by coverage) and coverage."""
        poses, fovy = batch["c2w"].cpu().numpy(), torch.rad2deg(batch["fovy"]).tolist()
        drawn = [render_c2w(self.instance, *view, int(batch["height"]), background=BLACK) for view in zip(poses, fovy)]
        image, mask = (torch.stack([torch.from_numpy(view[key]) for view in drawn]) for key in ("image", "mask"))
        return image.to(batch["c2w"].device), mask[..., None].to(batch["c2w"].device)


@threestudio.register("shapes-world-fitting-system")
class WorldFittingSystem(UniInstructSystem):
    """`uni-instruct-system` whose pictures are compared with the world's own from the same cameras.

    The object is the one of the column ``ground_truth`` for the prompt and the seed. No teacher is loaded.
    """

    @dataclass
    class Config(UniInstructSystem.Config):
        """object_seed: proportions of the object. lambda_fit, lambda_mask: weights of the mean squared errors of
        colour and of coverage."""

        object_seed: int = 0
        lambda_fit: float = 10.0
        lambda_mask: float = 10.0

    cfg: Config

    def setup(self, stage: str) -> None:
        """Draw the object; there is no guidance to build.

        Raises:
            ValueError: the prompt names no class of the world; a stage that shows no colours.
        """
        if stage != "fit" or getattr(self, "guidance", None) is not None:
            return
        if self.cfg.stage == "geometry":
            raise ValueError("system.stage 'geometry' has no pictures to be fitted; choices: ['coarse', 'texture']")
        prompt = self.cfg.prompt_processor.prompt
        self.guidance = WorldPictures(WorldObject(asked_by(prompt), self.cfg.object_seed).instance)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        out = self(batch)
        colour, mask = self.guidance(batch)
        # one background behind both, so that white in front of white has no gradient and in front of grey it has
        behind = (out["comp_rgb_bg"] if "comp_rgb_bg" in out else torch.zeros_like(colour)).detach()
        loss = self.cfg.lambda_fit * (out["comp_rgb"] - colour - (1 - mask) * behind).square().mean()
        loss = loss + self.cfg.lambda_mask * (out["opacity"] - mask).square().mean()
        self.log("train/loss_fit", loss)
        weights = {name: self.C(self.cfg.loss[f"lambda_{name}"]) for name in self.regulariser_names}
        for name, value in regularise(out, weights).items():
            loss = loss + value * weights[name]
        return {"loss": loss}

