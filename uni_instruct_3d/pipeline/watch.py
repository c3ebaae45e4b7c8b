"""What a training stage tells while it goes on, and how it is stopped: a Lightning callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import nn

from threestudio.data.uncond import RandomCameraDataset

from .events import Listener, Preview, StageStart, Step, Stopped

#: Views of a preview, at equal steps around the object; side in pixels at most.
VIEWS, SIDE = 4, 96
#: Seconds between two readings of the losses, which wait for the device.
LOSSES_EVERY = 0.5


class Watch(Callback):
    """Tells of every step, draws a preview at the start and then every `preview_every` steps (0: never), and stops when
    `stop` says so, after writing a checkpoint. It changes nothing in what is trained.

    `checkpoint`: where that checkpoint goes.
    """

    def __init__(
        self, stage: str, tell: Listener, stop: Callable[[], bool], checkpoint: str, preview_every: int = 10
    ) -> None:
        self.stage, self.tell, self.stop, self.checkpoint = stage, tell, stop, checkpoint
        self.preview_every = preview_every
        self._losses: dict[str, float] = {}
        self._read = self._last = 0.0
        self._pace: float | None = None
        self._cameras: RandomCameraDataset | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.tell(StageStart(self.stage, trainer.global_step, trainer.max_steps))
        if self.preview_every:  # the first step may be long: the teacher draws its samples in it
            self.tell(Preview(self.stage, trainer.global_step, self._draw(trainer, pl_module)))
        self._first, self._last = True, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step, steps = trainer.global_step, trainer.max_steps
        left = None if self._pace is None else self._pace * (steps - step)
        self.tell(Step(self.stage, step, steps, self._read_losses(trainer), left))
        if self.preview_every and (step % self.preview_every == 0 or step == steps):
            self.tell(Preview(self.stage, step, self._draw(trainer, pl_module)))
        now = time.monotonic()
        if not self._first:  # the first step holds what is drawn and compiled once
            spent = now - self._last
            self._pace = spent if self._pace is None else 0.95 * self._pace + 0.05 * spent
        self._first, self._last = False, now
        if self.stop():
            trainer.save_checkpoint(self.checkpoint)
            raise Stopped(f"{self.stage} at step {step}")

    def on_test_batch_end(self, *_: Any) -> None:
        if self.stop():  # all steps are trained and in a checkpoint
            raise Stopped(f"{self.stage} at its turntable")

    def _read_losses(self, trainer: pl.Trainer) -> dict[str, float]:
        now = time.monotonic()
        if now - self._read > LOSSES_EVERY:
            self._read, prefix = now, "train/loss_"
            metrics = trainer.callback_metrics.items()
            self._losses = {name.removeprefix(prefix): float(v) for name, v in metrics if name.startswith(prefix)}
        return self._losses

    def _draw(self, trainer: pl.Trainer, system: Any) -> Image.Image:
        if self._cameras is None:
            cfg = OmegaConf.to_container(trainer.datamodule.cfg)
            side = min(SIDE, cfg["eval_height"], cfg["eval_width"])
            view = {"n_val_views": VIEWS, "eval_height": side, "eval_width": side}
            self._cameras = RandomCameraDataset(OmegaConf.create({**cfg, **view}), "val")
        batch = self._cameras.collate([self._cameras[index] for index in range(VIEWS)])
        with looking(system):  # all at once: a mesh is then made once
            out = system({k: v.to(system.device) if torch.is_tensor(v) else v for k, v in batch.items()})
        views = out["comp_rgb" if "comp_rgb" in out else "comp_normal"].clamp(0, 1).float().cpu()
        return Image.fromarray((255 * torch.cat(list(views), dim=1).numpy() + 0.5).astype(np.uint8))


@contextmanager
def looking(system: nn.Module) -> Iterator[None]:
    """Evaluation mode for a look at what is being trained: afterwards modes and random numbers are as before.

    Modes are set one by one: ``train()`` of some modules does more than that.
    """
    modes = [(module, module.training) for module in system.modules()]
    devices = [system.device] if system.device.type == "cuda" else []
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
