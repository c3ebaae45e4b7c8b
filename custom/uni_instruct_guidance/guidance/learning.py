"""What trains fake score and discriminator in a step of Algorithm 2: by passes of their own, or by the objective's.

The objective asks the fake score at (x_t, t) for its answer there. The same evaluation, kept with the graph to the fake
score's weights, also holds its denoising loss at (x_t, t) and the features for the discriminator's student half. Both
are taken at the weights of before the step's update, as with passes of their own; the objective sees the answer only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import TimeSampler, classifier_free
from ..core.errors import choose
from ..core.fake_score import denoising_loss
from ..core.groups import Groups
from ..core.process import NoiseProcess
from ..core.ratio import discriminator_loss
from ..core.timesteps import TimeSample
from ..teachers.stable_diffusion.networks import Condition, Learned, Networks
from .prompts import joined, without_camera

# fake_score.shared_pass -> whether the losses of this step are read off the objective's pass.
SHARED_PASSES = {
    "never": lambda step: False,
    "always": lambda step: True,
    "mixed": lambda step: step % 2 == 0,
}
# Passes of its own train the fake score at every noise level, whatever the objective visits.
ALL_LEVELS = TimeSampler("uniform_t", 0.0, 1.0)


@dataclass(frozen=True)
class Noised:
    """x_t = α x_0 + σ ε of a batch of samples, each a view or a group of views.

    Attributes:
        x0: [G, n·C, h, w] samples, the leaf whose gradient is asked for; times: their noise levels [G].
        x_t, t: [B, C, h, w] and [B], the same as rows of single views, which networks take.
    """

    x0: Tensor
    times: TimeSample
    x_t: Tensor
    t: Tensor


@dataclass(frozen=True)
class SharedPass:
    """The objective's noisy latents and what the learned networks said there."""

    at: Noised
    learned: Learned


class Real(NamedTuple):
    """Teacher samples [B, C, h, w], and what the teacher was asked for: it need not be what the renderings show."""

    latents: Tensor
    condition: Condition


def noised(
    process: NoiseProcess, x0: Tensor, sampler: TimeSampler, groups: Groups, boundary: float | None = None
) -> Noised:
    """Noise level and noise of each sample [G, n·C, h, w] by the global generator: the views of a group have one level
    and noise of their own."""
    times = sampler.sample(process, len(x0), device=x0.device, boundary=boundary)
    x_t = process.diffuse(x0, torch.randn_like(x0), times.t)
    return Noised(x0, times, groups.split(x_t), groups.rows(times.t))


class LearningLosses:
    """Losses of what learns, scalars.

    Args:
        networks: fake score, discriminator head or both.
        train_scale: of long-short guidance, set before every step (1: none).
    """

    def __init__(self, networks: Networks, process: NoiseProcess) -> None:
        choose("fake_score.shared_pass", networks.fake.cfg.shared_pass if networks.fake else "never", SHARED_PASSES)
        self.networks, self.process, self.train_scale = networks, process, 1.0
        self.groups = Groups(networks.teacher.n_views)

    def shares(self, step: int) -> bool:
        """Whether the losses of this step are to be read off the objective's pass."""
        return self.networks.fake is not None and SHARED_PASSES[self.networks.fake.cfg.shared_pass](step)

    def drops_camera(self) -> bool:
        """By chance: whether this update of the fake score is not told the camera, for which no pass can be shared."""
        if self.networks.fake is None:
            return False
        share = self.networks.fake.cfg.camera_dropout
        return bool(share) and bool(torch.rand(()) < share)

    def __call__(
        self,
        latents: Tensor,
        real: Real | None,
        condition: Condition,
        sampler: TimeSampler,
        drop_camera: bool = False,
        shared: SharedPass | None = None,
    ) -> dict[str, Tensor]:
        """`loss_fake_score` and `loss_discriminator`, those that there are.

        Args:
            latents: [B, C, h, w] renderings, detached. real: for the discriminator.
            sampler: noise levels of the objective, which the discriminator learns at.
            shared: the objective's pass, else both take passes of their own.
        """
        losses = {}
        if self.networks.fake is not None:
            losses["loss_fake_score"] = self.fake_score(latents, condition, drop_camera, shared)
        if self.networks.head is not None:
            losses["loss_discriminator"] = self.discriminator(latents, real, condition, sampler, shared)
        return losses

    def fake_score(
        self, latents: Tensor, condition: Condition, drop_camera: bool = False, shared: SharedPass | None = None
    ) -> Tensor:
        """Denoising score matching on the renderings: `batch` noise levels each, the shared pass being one of them."""
        fake, groups = self.networks.fake, self.groups
        levels, x0 = fake.cfg.batch, groups.fold(latents)
        errors = []
        if shared is not None:
            levels -= 1
            errors.append(self._error(x0, shared.at.times, shared.learned.x0_fake, shared.learned.x0_reference))
        if levels:
            x0 = x0.repeat_interleave(levels, 0)
            told = condition.map(lambda part: groups.repeat(part, levels))
            if drop_camera:
                told = without_camera(told)
            at = noised(self.process, x0, ALL_LEVELS, groups)
            x0_fake, _ = fake(at.x_t, at.t, told.fake_text, told.fake_camera)
            guided = self.train_scale != 1.0
            reference = self.networks.fake_reference(at.x_t, at.t, told) if guided else None
            errors.append(self._error(x0, at.times, x0_fake, reference))
        return torch.cat(errors).mean()

    def noised_real(self, real: Real, at: Noised) -> Tensor:
        """Teacher samples diffused to the noise levels of renderings [B, C, h, w]."""
        clean = self.groups.fold(real.latents)
        return self.groups.split(self.process.diffuse(clean, torch.randn_like(clean), at.times.t))

    def _error(self, x0: Tensor, times: TimeSample, x0_fake: Tensor, reference: Tensor | None) -> Tensor:
        """Of samples x0 [G, n·C, h, w]; networks answered in rows."""
        if self.train_scale != 1.0:
            x0_fake = classifier_free(x0_fake, reference, self.train_scale)
        x0_fake = self.groups.fold(x0_fake)
        return denoising_loss(x0_fake, x0, times.alpha, times.sigma, self.networks.fake.weighting)

    def discriminator(
        self,
        latents: Tensor,
        real: Real,
        condition: Condition,
        sampler: TimeSampler,
        shared: SharedPass | None = None,
    ) -> Tensor:
        """Cross-entropy of diffused teacher samples against diffused renderings at the same noise levels (Eq. A.49)."""
        train_backbone, groups = self.networks.head_cfg.train_backbone, self.groups
        if shared is None:
            at = noised(self.process, groups.fold(latents), sampler, groups)
            x_t, both = torch.cat([self.noised_real(real, at), at.x_t]), joined(real.condition, condition)
            logits = self.networks.logit(x_t, torch.cat([at.t] * 2), both, encoder_gradient=train_backbone).chunk(2)
        else:
            seen = shared.learned.features
            if not train_backbone:
                seen = {name: feature.detach() for name, feature in seen.items()}
            logits = shared.learned.real_logit(), self.networks.head(seen)
        return discriminator_loss(*map(groups.mean, logits)).mean()
