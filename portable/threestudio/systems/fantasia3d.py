"""``fantasia3d-system``: shape from pictures of normals, then appearance on that shape (arXiv 2303.13873)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import threestudio
from threestudio.systems.text_to_3d import TextTo3DSystem


@threestudio.register("fantasia3d-system")
class Fantasia3D(TextTo3DSystem):
    """Two runs: geometry, and with ``texture`` the material of a shape that stays as it is.

    For its first ``latent_steps`` the geometry shows the teacher normals and mask as if they were latents, which is
    fast and moves the whole shape; afterwards pictures of the normals.
    """

    @dataclass
    class Config(TextTo3DSystem.Config):
        """Fields as in BaseLift3DSystem, and these."""

        latent_steps: int = 1000
        texture: bool = False

    cfg: Config

    def configure(self) -> None:
        self.regularisers = () if self.cfg.texture else ("normal_consistency",)
        super().configure()

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras; colours only for the texture."""
        return dict(self.renderer(**batch, render_rgb=self.cfg.texture))

    def guided_input(self, out: dict[str, Any]) -> tuple[Tensor, bool]:
        """Colours; or normals; or, at first, normals in -1 .. 1 with the mask, to be taken for latents."""
        if self.cfg.texture:
            return out["comp_rgb"], False
        if self.true_global_step < self.cfg.latent_steps:
            return torch.cat([out["comp_normal"] * 2 - 1, out["opacity"]], dim=-1), True
        return out["comp_normal"], False

    def setup(self, stage: str) -> None:
        """A new geometry takes its first shape before training; a resumed one has its own."""
        super().setup(stage)
        if stage == "fit" and not self.cfg.texture and not self.resumed:
            self.geometry.to(self.device)
            self.geometry.initialize_shape()
