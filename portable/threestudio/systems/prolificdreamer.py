"""``prolificdreamer-system``: NeRF, mesh geometry and texture in three runs (arXiv 2305.16213)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from threestudio import register
from threestudio.systems.text_to_3d import TextTo3DSystem
from threestudio.utils.errors import UserError


class Stage(NamedTuple):
    """What one stage shows the guidance, how it renders, and which regularisers it uses."""

    guided_output: str
    render_args: dict[str, Any]
    regularisers: tuple[str, ...]


STAGES = {
    "coarse": Stage("comp_rgb", {}, ("orient", "sparsity", "opaque", "z_variance")),
    "geometry": Stage("comp_normal", {"render_rgb": False}, ("normal_consistency", "laplacian_smoothness")),
    "texture": Stage("comp_rgb", {}, ()),
}


@register("prolificdreamer-system")
class ProlificDreamer(TextTo3DSystem):
    """Variational score distillation in the stages ``coarse``, ``geometry`` and ``texture``."""

    @dataclass
    class Config(TextTo3DSystem.Config):
        """Fields as in BaseLift3DSystem, and these."""

        stage: str = "coarse"
        # at validation, also save samples of the teacher and of the fake score
        visualize_samples: bool = False

    cfg: Config

    def configure(self) -> None:
        if self.cfg.stage not in STAGES:
            raise UserError(f"unknown system.stage '{self.cfg.stage}'; choices: {', '.join(STAGES)}")
        self.guided_output, self.render_args, self.regularisers = STAGES[self.cfg.stage]
        super().configure()

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras as the stage needs it."""
        return dict(self.renderer(**batch, **self.render_args))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save pictures and, if asked for, samples."""
        super().validation_step(batch, batch_idx)
        if not self.cfg.visualize_samples or not hasattr(self, "guidance"):
            return
        step, index = self.true_global_step, int(batch["index"][0])
        for kind in ("sample", "sample_lora"):
            images = getattr(self.guidance, kind)(self.prompt_utils, **batch, seed=step)
            picture = {"type": "rgb", "img": images[0], "kwargs": {"data_format": "HWC"}}
            name = f"validation_step_{kind}"
            self.save_image_grid(f"it{step}-{index}-{kind}.png", [picture], name=name, step=step)
