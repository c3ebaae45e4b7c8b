"""An extension for the tests: a system that draws from every global generator, and can die or diverge at a step."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass

import numpy as np
import torch

import threestudio
from threestudio.systems.base import BaseSystem


@threestudio.register("toy-system")
class ToySystem(BaseSystem):
    """Fits a small network to noise."""

    @dataclass
    class Config(BaseSystem.Config):
        kill_at: int = -1
        non_finite_from: int = -1
        non_finite_until: int = -1
        width: int = 4
        # -1: never; a step that Ctrl-C hits, and one that takes a minute
        interrupt_at: int = -1
        sleep_at: int = -1

    def configure(self):
        self.net = torch.nn.Sequential(
            torch.nn.Linear(3, self.cfg.width), torch.nn.Dropout(0.5), torch.nn.Linear(self.cfg.width, 1)
        )
        self.net.eval()  # to see that training puts it back
        self.register_buffer("seen", torch.zeros(()))

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.seen.fill_(global_step)

    def training_step(self, batch, batch_idx):
        step = self.true_global_step
        if step == self.cfg.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.cfg.interrupt_at:
            raise KeyboardInterrupt
        if step == self.cfg.sleep_at:
            time.sleep(60)
        noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002 - the global generator is the point
        loss = (self.net(batch["rays_d"].reshape(-1, 3)) - noise).square().mean() * self.C(self.cfg.loss.lambda_fit)
        if self.cfg.non_finite_from <= step < self.cfg.non_finite_until:
            loss = loss * float("nan")
        self.log("train/loss_fit", loss)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        torch.rand(7)  # validation may draw as well
        self.save_rgb_image(f"it{self.true_global_step}-{batch_idx}.png", torch.rand(4, 4, 3))

    def test_step(self, batch, batch_idx):
        self.save_rgb_image(f"it{self.true_global_step}-test/{batch_idx}.png", torch.rand(16, 16, 3))

    def on_test_epoch_end(self):
        folder = f"it{self.true_global_step}-test"
        self.save_img_sequence(folder, folder, r"(\d+)\.png")
