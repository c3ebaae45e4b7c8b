"""Training of an EDM network (Karras et al. 2022): denoising at log-normal noise levels, with a moving average."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core import VarianceExploding, denoising_loss, per_sample
from ..teachers.edm import EDMPrecond
from ..teachers.edm.teacher import one_hot_or_none
from ..teachers.randomness import Share, StepRandom
from .base_module import StepModule
from .config import EDMConfig, schedule
from .data import ImageData, to_unit_range


class EDMModule(StepModule):
    """Minimises λ(σ) ‖D(x_0 + σ ε; σ) − x_0‖² with EDM's λ, mean over pixels.

    Args:
        cfg: configuration. data: training images. network: with fresh weights.
    """

    title = "EDM training"

    def __init__(self, cfg: EDMConfig, data: ImageData, network: EDMPrecond):
        super().__init__(cfg, data, network)
        self.network = network.train()
        self.process, self.noise = VarianceExploding(), cfg.noise.build()
        self.lr = schedule("lr", cfg.lr)
        self.shape = (network.img_channels, network.img_resolution, network.img_resolution)

    def shipped(self) -> EDMPrecond:
        return self.network

    def configure_optimizers(self):
        return self.adam(self.network.parameters(), self.cfg.lr)

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        share = self.share()
        micro = share.micro(self.cfg.micro_batch)
        self.accumulate(self._losses(images, labels, micro, self.random("edm")), micro)
        self.guarded_step("network", self.optimizers(), self.lr)

    def _losses(self, images: Tensor, labels: Tensor, micro: list[Share], random: StepRandom) -> Iterator[Tensor]:
        first, classes = micro[0].first, self.network.label_dim
        for share in micro:
            mine = slice(share.first - first, share.first - first + share.count)
            x0 = to_unit_range(images[mine])
            drawn = self.noise.sample(self.process, share.total, self.done_steps, random.generator("sigma"))
            sigma = share.of(drawn.sigma).to(self.device)
            x_t = x0 + per_sample(sigma, x0) * random.normal("eps", share, self.shape)
            predicted = self.network(x_t, sigma, one_hot_or_none(labels[mine] if classes else None, classes))
            loss = denoising_loss(
                predicted, x0, torch.ones_like(sigma), sigma, "edm", sigma_data=self.network.sigma_data
            ).mean()
            self.add_scalars({"loss/denoising": loss}, share.count / self.cfg.batch)
            yield loss
