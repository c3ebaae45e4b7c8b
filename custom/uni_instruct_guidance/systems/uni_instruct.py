"""`uni-instruct-system`: the three stages of text-to-3D (Algorithm 2 and Appendix E, arXiv 2505.20755)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import threestudio
from threestudio.systems.base import BaseLift3DSystem

from ..core.errors import require_writable
from ..teachers.stable_diffusion.checks import check_teacher
from .finite_steps import FiniteSteps
from .guided import GuidanceWhileTraining
from .ranges import check_system
from .reference import Reference
from .regularisers import REGULARISERS, regularise

# stage -> what the guidance looks at.
STAGES = {"coarse": "comp_rgb", "geometry": "comp_normal", "texture": "comp_rgb"}


@threestudio.register("uni-instruct-system")
class UniInstructSystem(FiniteSteps, GuidanceWhileTraining, BaseLift3DSystem):
    """NeRF (`coarse`), mesh geometry on normals (`geometry`), texture on the fixed mesh (`texture`).

    The guidance may be any that follows threestudio's contract: each `loss_X` it returns is weighted by
    `system.loss.lambda_X`. Regularisers: `lambda_<row of systems/regularisers.py>`, each a number or a schedule.
    """

    @dataclass
    class Config(BaseLift3DSystem.Config):
        """stage: coarse | geometry | texture.

        visualize_samples: at validation also draw what teacher and fake score would draw for the prompt.
        max_skipped_steps: stop after this many consecutive steps with a non-finite gradient.
        reference: trial folder of a finished asset that this one is an edit of, for method dds: it is rendered from the
            same cameras and stays as it is.
        """

        stage: str = "coarse"
        visualize_samples: bool = False
        max_skipped_steps: int = 50
        reference: str = ""

    cfg: Config

    def configure(self) -> None:
        check_system(self.cfg)
        if self.cfg.stage not in STAGES:
            raise ValueError(f"system.stage {self.cfg.stage!r}; choices: {list(STAGES)}")
        if self.cfg.reference:
            self._expect_reference()
        self.regulariser_names = [name for name in REGULARISERS if f"lambda_{name}" in self.cfg.loss]
        # The teacher is looked at before anything is built, rendered or written.
        for part in (self.cfg.guidance, self.cfg.prompt_processor):
            name = part.get("pretrained_model_name_or_path") if part is not None else None
            if name:
                part.pretrained_model_name_or_path = check_teacher(name)
        bank_dir = (self.cfg.guidance or {}).get("bank_dir")
        if bank_dir and not self.resumed:  # a finished asset is rendered and exported without it
            require_writable("system.guidance.bank_dir", bank_dir)
        super().configure()

    def _expect_reference(self) -> None:
        if self.cfg.stage == "geometry":
            raise ValueError("system.reference belongs to the stages that look at colours: coarse, texture")
        if self.cfg.guidance_type not in ("", "uni-instruct-guidance"):
            raise ValueError(f"system.reference needs uni-instruct-guidance, got {self.cfg.guidance_type!r}")
        if self.cfg.guidance_type:
            self.cfg.guidance.with_reference = True

    def setup(self, stage: str) -> None:
        """The guidance may ask for extra updates of what it learns."""
        super().setup(stage)
        if hasattr(getattr(self, "guidance", None), "inner_step"):
            self.guidance.inner_step = self._inner_step
        self.reference = None
        if self.cfg.reference:
            self.reference = Reference(self.cfg.reference, self.device)
            self.reference_prompts = self.reference.prompts(self.cfg.prompt_processor_type, self.cfg.prompt_processor)

    def _inner_step(self, loss: torch.Tensor) -> None:
        """One extra update of what the guidance learns; parameters without a gradient are left alone by Adam."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def forward(self, batch: dict) -> dict:
        if self.cfg.stage == "geometry":
            return dict(self.renderer(**batch, render_rgb=False))
        return dict(self.renderer(**batch))

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        out = self(batch)
        beside = {}
        if self.reference is not None:
            pictures = self.reference.render(batch, out["comp_rgb_bg"].detach())
            beside["reference"] = (pictures, self.reference_prompts)
        guided = self.guidance(out[STAGES[self.cfg.stage]], self.prompt_utils, **batch, **beside, rgb_as_latents=False)
        if batch_idx == 0:
            self._check_lambdas(guided)
        loss, told = torch.zeros((), device=self.device), self._loggers_write()
        for name, value in guided.items():
            if torch.is_tensor(value) and value.numel() > 1:
                continue
            if told or name.startswith("loss_") or name == "rejected_steps":
                self.log(f"train/{name}", value)
            if name.startswith("loss_"):
                loss = loss + value * self.C(self._weight(name))
        weights = {name: self.C(self.cfg.loss[f"lambda_{name}"]) for name in self.regulariser_names}
        for name, value in regularise(out, weights).items():
            self.log(f"train/loss_{name}", value)
            loss = loss + value * weights[name]
        for name, value in self.cfg.loss.items() if told else ():
            self.log(f"train_params/{name}", self.C(value))
        return {"loss": loss}

    def _loggers_write(self) -> bool:
        """Whether this step is written to the loggers. Telling Lightning of a number costs a third of a millisecond, so
        that in other steps it hears only of what the terminal shows."""
        return (self.trainer.global_step + 1) % max(self.trainer.log_every_n_steps, 1) == 0

    def _check_lambdas(self, guided: dict) -> None:
        """A weight of something that neither the guidance nor the regularisers know is a typing mistake."""
        named = [*getattr(self.guidance, "losses", ()), *(k.removeprefix("loss_") for k in guided if "loss_" in k)]
        known = [f"lambda_{name}" for name in dict.fromkeys([*named, *REGULARISERS])]
        for key in self.cfg.loss:
            if key not in known:
                raise ValueError(f"system.loss has no {key!r}; choices: {', '.join(known)}")

    def _weight(self, loss_name: str):
        key = loss_name.replace("loss_", "lambda_")
        if key not in self.cfg.loss:
            raise ValueError(f"system.loss lacks {key!r}, the weight of the guidance's {loss_name!r}")
        return self.cfg.loss[key]

    # --- pictures -----------------------------------------------------------------------------------------------

    def _save_views(self, pattern: str, batch: dict, name: str) -> None:
        """Colour, normals, opacity of each view side by side, those that the renderer gives; `pattern` has {index}."""
        out = self(batch)
        rgb = {"data_format": "HWC", "data_range": (0, 1)}
        gray = {"cmap": None, "data_range": (0, 1)}
        for item, index in enumerate(batch["index"].tolist()):
            row = [
                {"type": "rgb", "img": out[key][item], "kwargs": rgb}
                for key in ("comp_rgb", "comp_normal")
                if key in out
            ]
            row.append({"type": "grayscale", "img": out["opacity"][item, :, :, 0], "kwargs": gray})
            self.save_image_grid(pattern.format(index=index), row, name=name, step=self.true_global_step)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        step = self.true_global_step
        self._save_views(f"it{step}-{{index}}.png", batch, "validation_step")
        if not self.cfg.visualize_samples or getattr(self, "guidance", None) is None:
            return
        for name, draw in {"sample": self.guidance.sample, "sample_lora": self.guidance.sample_lora}.items():
            images = draw(self.prompt_utils, **batch, seed=step)
            for index, image in zip(batch["index"].tolist(), images):
                row = [{"type": "rgb", "img": image, "kwargs": {"data_format": "HWC", "data_range": (0, 1)}}]
                self.save_image_grid(f"it{step}-{index}-{name}.png", row, name=f"validation_step_{name}", step=step)

    def on_validation_epoch_end(self) -> None:
        pass

    def test_step(self, batch: dict, batch_idx: int) -> None:
        self._save_views(f"it{self.true_global_step}-test/{{index}}.png", batch, "test_step")

    def on_test_epoch_end(self) -> None:
        step = self.true_global_step
        folder = f"it{step}-test"
        self.save_img_sequence(folder, folder, r"(\d+)\.png", save_format="mp4", fps=30, name="test", step=step)
