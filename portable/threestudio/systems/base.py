"""What all systems share: schedules, optimisers, updates per step, finite gradients, resuming; and the 3D scene."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger

import threestudio
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import Updateable, update_end_if_possible, update_if_possible
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import TrainingStoppedError, UserError
from threestudio.utils.misc import C, cleanup, get_device, load_module_weights
from threestudio.utils.rng import seed_step
from threestudio.utils.saving import SaverMixin


class BaseSystem(pl.LightningModule, Updateable, SaverMixin):
    """Lightning module built from a configuration.

    Each training step starts from generators seeded by its number (:mod:`threestudio.utils.rng`), then everything
    updateable follows the step. A step whose gradients are not finite changes nothing, is counted in
    ``skipped_steps`` and logged; too many in a row stop the run.
    """

    @dataclass
    class Config:
        """Fields of every system."""

        # {wandb: {enable: true, project: ..., name: ...}}
        loggers: dict = field(default_factory=dict)
        # lambda_X: weight of loss_X, a number or a schedule
        loss: dict = field(default_factory=dict)
        # name, args, params: see systems.utils.parse_optimizer
        optimizer: dict = field(default_factory=dict)
        scheduler: dict | None = None
        # checkpoint to start from, and modules in it that are left alone
        weights: str | None = None
        weights_ignore_modules: list[str] | None = None
        cleanup_after_validation_step: bool = False
        cleanup_after_test_step: bool = False
        # stop after this many consecutive steps with non-finite gradients (not in the reference)
        max_skipped_steps: int = 50

    cfg: Config

    def __init__(self, cfg: Any, resumed: bool = False) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self._resumed = resumed
        self._evaluated_at: dict[str, int] | None = None
        self.skipped_steps = self._skipped_in_a_row = 0
        self.configure()
        self._check_weights()
        if self.cfg.weights is not None:
            self.load_weights(self.cfg.weights, self.cfg.weights_ignore_modules)
        self.post_configure()

    def _check_weights(self) -> None:
        """A malformed schedule is found now, not at the first step."""
        for name, value in self.cfg.loss.items():
            try:
                self.C(value)
            except (ValueError, TypeError, ArithmeticError) as error:
                raise UserError(f"system.loss.{name}={value}: {error}") from error

    def configure(self) -> None:
        """For subclasses: build the modules."""

    def post_configure(self) -> None:
        """For subclasses: after weights were loaded."""

    def load_weights(self, weights: str, ignore_modules: list[str] | None = None) -> None:
        """Weights of another run; modules that either side lacks keep their values."""
        state_dict, epoch, global_step = load_module_weights(weights, ignore_modules=ignore_modules)
        own = self.state_dict()
        different = sorted(key for key in own.keys() & state_dict.keys() if own[key].shape != state_dict[key].shape)
        if different:
            raise UserError(f"system.weights={weights} does not fit this configuration; differing: {different[0]}")
        self.load_state_dict(state_dict, strict=False)
        self.do_update_step(epoch, global_step, on_load_weights=True)

    # ------------------------------------------------------------------------------------------------- clock
    @property
    def resumed(self) -> bool:
        """The run continues from a checkpoint."""
        return self._resumed

    def set_resume_status(self, current_epoch: int, global_step: int) -> None:
        """Step that a checkpoint was saved at, for evaluation without training (where Lightning counts from 0)."""
        self._evaluated_at = {"current_epoch": current_epoch, "global_step": global_step}

    @property
    def true_global_step(self) -> int:
        """Steps trained so far, also when only evaluating."""
        if self._evaluated_at is not None:
            return self._evaluated_at["global_step"]
        return self.global_step

    @property
    def true_current_epoch(self) -> int:
        """Epochs trained so far, also when only evaluating."""
        if self._evaluated_at is not None:
            return self._evaluated_at["current_epoch"]
        return self.current_epoch

    def C(self, value: Any) -> float:
        """Present value of a scalar or schedule."""
        return C(value, self.true_current_epoch, self.true_global_step)

    # ------------------------------------------------------------------------------------------------- optimisation
    def configure_optimizers(self) -> dict[str, Any]:
        """Optimiser and schedule of the configuration."""
        optimizer = parse_optimizer(self.cfg.optimizer, self)
        if self.cfg.scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": parse_scheduler(self.cfg.scheduler, optimizer)}

    def on_train_start(self) -> None:
        """Lightning since 2.2 leaves modules in the mode it finds them in."""
        self.train()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop gradients that are not finite, all of them: optimisers skip parameters without a gradient."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # a sum is not finite if any of its terms is not, and needs no mask as large as the parameters
        if all(grad.sum().isfinite() for grad in grads):
            self._skipped_in_a_row = 0
            return
        optimizer.zero_grad(set_to_none=True)
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        self.log("train/skipped_steps", float(self.skipped_steps))
        threestudio.warn(f"step {self.true_global_step}: gradients are not finite, step skipped ({self.skipped_steps})")
        if self._skipped_in_a_row >= self.cfg.max_skipped_steps:
            raise TrainingStoppedError(
                f"stopped at step {self.true_global_step}: gradients were not finite in {self._skipped_in_a_row} "
                f"consecutive steps (system.max_skipped_steps); try lower learning rates or a lower guidance_scale"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counters beside the weights."""
        checkpoint["skipped_steps"] = [self.skipped_steps, self._skipped_in_a_row]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counters beside the weights; weights that do not fit are named in one sentence."""
        self.skipped_steps, self._skipped_in_a_row = checkpoint.get("skipped_steps", [0, 0])
        own, saved = self.state_dict(), checkpoint["state_dict"]
        different = sorted({key.partition(".")[0] for key in own.keys() ^ saved.keys()})
        different += sorted(key for key in own.keys() & saved.keys() if own[key].shape != saved[key].shape)
        if different:
            raise UserError(f"the checkpoint does not fit this configuration; differing: {', '.join(different[:8])}")

    # ------------------------------------------------------------------------------------------------- updates
    def preprocess_data(self, batch: dict[str, Any], stage: str) -> None:
        """For subclasses: change a batch before it is used."""

    def _before_batch(self, batch: dict[str, Any], stage: str, loaders: Any) -> None:
        self.preprocess_data(batch, stage)
        for loader in _as_list(loaders):
            update_if_possible(loader.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step(self.true_current_epoch, self.true_global_step)

    def _after_batch(self, loaders: Any) -> None:
        for loader in _as_list(loaders):
            update_end_if_possible(loader.dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step_end(self.true_current_epoch, self.true_global_step)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed, then let everything follow the step."""
        seed_step(self.true_global_step, batch_idx)
        self._before_batch(batch, "train", self.trainer.train_dataloader)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._after_batch(self.trainer.train_dataloader)

    def on_validation_batch_start(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._before_batch(batch, "validation", self.trainer.val_dataloaders)

    def on_validation_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int, *_: Any) -> None:
        self._after_batch(self.trainer.val_dataloaders)
        if self.cfg.cleanup_after_validation_step:
            cleanup()

    def on_test_batch_start(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._before_batch(batch, "test", self.trainer.test_dataloaders)

    def on_test_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int, *_: Any) -> None:
        self._after_batch(self.trainer.test_dataloaders)
        if self.cfg.cleanup_after_test_step:
            cleanup()

    def on_predict_batch_start(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._before_batch(batch, "predict", self.trainer.predict_dataloaders)

    def on_predict_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int, *_: Any) -> None:
        self._after_batch(self.trainer.predict_dataloaders)

    def get_loggers(self) -> list[Logger]:
        """The trainer's loggers that take images."""
        return [logger for logger in self.loggers if isinstance(logger, TensorBoardLogger)]


class BaseLift3DSystem(BaseSystem):
    """A 3D scene: geometry, material, background and renderer; while training, guidance and prompts."""

    @dataclass
    class Config(BaseSystem.Config):
        """Every ``X_type`` is a registered name, ``X`` its configuration."""

        geometry_type: str = ""
        geometry: dict = field(default_factory=dict)
        # start from the geometry of another run's checkpoint, converted to geometry_type
        geometry_convert_from: str | None = None
        # also take its colour network
        geometry_convert_inherit_texture: bool = False
        # keys of the other run's geometry to change before converting, for example isosurface_threshold
        geometry_convert_override: dict = field(default_factory=dict)

        material_type: str = ""
        material: dict = field(default_factory=dict)
        background_type: str = ""
        background: dict = field(default_factory=dict)
        renderer_type: str = ""
        renderer: dict = field(default_factory=dict)
        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)
        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)
        exporter_type: str = "mesh-exporter"
        exporter: dict = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        find, cfg = threestudio.find, self.cfg
        if cfg.geometry_convert_from and not cfg.weights and not self.resumed:
            self.geometry = self._converted_geometry()
        else:
            self.geometry = find(cfg.geometry_type)(cfg.geometry)
        self.material = find(cfg.material_type)(cfg.material)
        self.background = find(cfg.background_type)(cfg.background)
        self.renderer = find(cfg.renderer_type)(
            cfg.renderer, geometry=self.geometry, material=self.material, background=self.background
        )

    def _converted_geometry(self) -> Any:
        """Geometry of another run, as this run's type. Its configuration is read beside its checkpoint."""
        cfg = self.cfg
        threestudio.info(f"geometry from {cfg.geometry_convert_from}")
        path = os.path.join(os.path.dirname(cfg.geometry_convert_from), "../configs/parsed.yaml")
        if not os.path.isfile(path):
            raise UserError(f"system.geometry_convert_from={cfg.geometry_convert_from}: no configuration at {path}")
        previous = OmegaConf.load(path)
        # it may be of another system, with keys of its own
        owner = threestudio.find(previous.system_type) if "system_type" in previous else type(self)
        previous_cfg = parse_structured(owner.Config, previous.system)
        geometry_cfg = OmegaConf.merge(previous_cfg.geometry, cfg.geometry_convert_override)
        previous = threestudio.find(previous_cfg.geometry_type)(geometry_cfg)
        weights, epoch, global_step = load_module_weights(cfg.geometry_convert_from, module_name="geometry")
        previous.load_state_dict(weights, strict=False)
        previous.to(get_device())
        previous.do_update_step(epoch, global_step, on_load_weights=True)
        geometry = threestudio.find(cfg.geometry_type).create_from(
            previous, cfg.geometry, copy_net=cfg.geometry_convert_inherit_texture
        )
        del previous
        cleanup()
        return geometry

    def setup(self, stage: str) -> None:
        """Guidance and prompts exist only for training: a finished asset renders and exports without its teacher."""
        if stage != "fit" or hasattr(self, "guidance") or not self.cfg.guidance_type:
            return
        # prompts first: they are the smaller, and an empty prompt is the commoner mistake
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Without guidance, its saved weights are left alone."""
        if not hasattr(self, "guidance"):
            saved = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in saved.items() if not k.startswith("guidance.")}
        super().on_load_checkpoint(checkpoint)

    # ------------------------------------------------------------------------------------------------- export
    def on_predict_start(self) -> None:
        """Build the exporter."""
        self.exporter = threestudio.find(self.cfg.exporter_type)(
            self.cfg.exporter, geometry=self.geometry, material=self.material, background=self.background
        )

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Render the turntable, if the exporter wants one."""
        if self.exporter.cfg.save_video:
            self.test_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        """Save everything the exporter gives, each with the saver of its type."""
        if self.exporter.cfg.save_video:
            self.on_test_epoch_end()
        for output in self.exporter():
            save = getattr(self, f"save_{output.save_type}", None)
            if save is None:
                raise UserError(f"the exporter gave '{output.save_type}', which no saver takes")
            save(f"it{self.true_global_step}-export/{output.save_name}", **output.params)


def _as_list(loaders: Any) -> list:
    if loaders is None:
        return []
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
