"""Training by guidance, and pictures of the result: what the text-to-3D systems share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from threestudio.systems.base import BaseLift3DSystem
from threestudio.systems.losses import REGULARISERS, regulariser
from threestudio.utils.errors import UserError


class TextTo3DSystem(BaseLift3DSystem):
    """Loss = sum of lambda_X loss_X over what the guidance returns and over the regularisers."""

    @dataclass
    class Config(BaseLift3DSystem.Config):
        """Fields as in BaseLift3DSystem."""

    cfg: Config

    #: What the guidance looks at.
    guided_output = "comp_rgb"
    #: Regularisers in use; others in ``system.loss`` have no effect.
    regularisers: tuple[str, ...] = tuple(REGULARISERS)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of cameras."""
        return dict(self.renderer(**batch))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Render, ask the guidance, add the regularisers."""
        out = self(batch)
        picture, as_latents = self.guided_input(out)
        guided = self.guidance(picture, self.prompt_utils, **batch, rgb_as_latents=as_latents)
        loss = torch.zeros((), device=self.device)
        for name, value in guided.items():
            if isinstance(value, Tensor) and value.numel() > 1:
                continue
            self.log(f"train/{name}", value)
            if name.startswith("loss_"):
                loss = loss + value * self.C(self._weight(name))
        for name in self.regularisers:
            weight = self.C(self.cfg.loss.get(f"lambda_{name}", 0.0))
            if weight > 0:
                value = regulariser(name, out)
                self.log(f"train/loss_{name}", value)
                loss = loss + value * weight
        for name, value in self.cfg.loss.items():
            self.log(f"train_params/{name}", float(self.C(value)))
        return {"loss": loss}

    def guided_input(self, out: dict[str, Any]) -> tuple[Tensor, bool]:
        """What the guidance looks at [B, H, W, C], and whether it is to be taken for latents."""
        return out[self.guided_output], False

    def _weight(self, loss_name: str) -> Any:
        key = loss_name.replace("loss_", "lambda_", 1)
        if key not in self.cfg.loss:
            raise UserError(f"system.loss has no {key}, the weight of the guidance's {loss_name}")
        return self.cfg.loss[key]

    # ------------------------------------------------------------------------------------------------- pictures
    def _save_views(self, pattern: str, batch: dict[str, Any], name: str) -> None:
        """Colour, normals and opacity of each view of the batch side by side; ``pattern`` has {index}."""
        out = self(batch)
        for item, index in enumerate(batch["index"].tolist()):
            pictures = [
                {"type": "rgb", "img": out[key][item], "kwargs": {"data_format": "HWC", "data_range": (0, 1)}}
                for key in ("comp_rgb", "comp_normal")
                if key in out
            ]
            opacity = {"cmap": None, "data_range": (0, 1)}
            pictures.append({"type": "grayscale", "img": out["opacity"][item, :, :, 0], "kwargs": opacity})
            self.save_image_grid(pattern.format(index=index), pictures, name=name, step=self.true_global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save pictures."""
        self._save_views(f"it{self.true_global_step}-{{index}}.png", batch, "validation_step")

    def on_validation_epoch_end(self) -> None:
        """Nothing to gather."""

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save frames of the turntable."""
        self._save_views(f"it{self.true_global_step}-test/{{index}}.png", batch, "test_step")

    def on_test_epoch_end(self) -> None:
        """Join the frames."""
        folder = f"it{self.true_global_step}-test"
        self.save_img_sequence(folder, folder, r"(\d+)\.png", save_format="mp4", fps=30)
