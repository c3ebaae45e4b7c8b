"""Train R methods side by side: same target, same noise, same start, one stacked network each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from uni_instruct_guidance.core import (
    Method,
    RatioWarmup,
    TimeSampler,
    VarianceExploding,
    critic_slope,
    discriminator_loss,
    generator_loss,
    objective,
    regression_loss,
)

from .networks import Critic, Generator
from .targets import Mixture


@dataclass(frozen=True)
class LabConfig:
    """Everything but the method.

    Attributes:
        steps, batch, width: of training and networks.
        lr, critic_lr: Adam learning rates of generator and of fake score and discriminator; cosine to 5 % at the end.
        sigma_min, sigma_max: visited noise levels (α = 1, uniform in log-SNR).
        critic_updates: updates of fake score and discriminator per generator update, times the method's own number.
        pretrain: critic updates before the generator moves.
        ratio: warm-up of log r.
        calibrate_every: steps between measurements of the critics' calibration slopes on samples they have not seen.
        max_grad: the generator's gradient norm is cut here, per replica.
        ema: decay of the generator's weights that are assessed.
    """

    steps: int = 2500
    batch: int = 256
    width: int = 64
    lr: float = 2e-3
    critic_lr: float = 2e-3
    sigma_min: float = 0.08
    sigma_max: float = 1.5
    critic_updates: int = 1
    pretrain: int = 100
    ratio: RatioWarmup = field(default_factory=RatioWarmup)
    calibrate_every: int = 100
    max_grad: float = 1.0
    ema: float = 0.99


class Trainer:
    """One group of methods on one target. `run` trains; `sample` draws from the averaged generators."""

    def __init__(self, methods: Sequence[Method], target: Mixture, config: LabConfig, seed: int):
        torch.manual_seed(seed)
        self.methods, self.target, self.config = list(methods), target, config
        self.replicas = len(self.methods)
        self.generator = Generator(self.replicas, config.width)
        self.average = Generator(self.replicas, config.width).requires_grad_(False)
        self.average.load_state_dict(self.generator.state_dict())
        self.critic = Critic(self.replicas, config.width)
        self.optimiser = torch.optim.Adam(self.generator.parameters(), config.lr, betas=(0.5, 0.99))
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), config.critic_lr, betas=(0.5, 0.99))
        self.process = VarianceExploding(config.sigma_min, config.sigma_max)
        self.sampler = TimeSampler("uniform_log_snr", 0.0, 1.0)
        # Replicas share their noise levels, so they must agree on how many of them are at the ends of the range.
        shares = {m.at(step).objective.boundary_share for m in methods for step in (0, *(at for at, _ in m.schedule))}
        asked = shares - {None}
        if len(shares if any(asked) else asked) > 1:
            raise ValueError(f"boundary: one group trains with one share of samples at the ends, got {shares}")
        self.boundary = next(iter(asked), None)
        # Without a reader of the density ratio the discriminator is neither trained nor asked.
        self.uses_discriminator = any(method.needs_discriminator for method in methods)
        self.slopes: list[list[float]] = []  # of every replica's critic, at each measurement
        self.pairs = self._ode_pairs() if any("regression" in m.auxiliary for m in methods) else None

    def run(self, on_step: Callable[[int, dict[str, float]], None] | None = None) -> Trainer:
        """Train; `on_step(step, losses)` after each generator update."""
        self.train_critic(self.config.pretrain)
        for step in range(self.config.steps):
            scale = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))
            self._set_lr(scale)
            if self.uses_discriminator and step % self.config.calibrate_every == 0:
                self.slopes.append(self.critic_slopes())
            updates = self.config.critic_updates * max(method.at(step).fake_updates for method in self.methods)
            for _ in range(updates):
                losses = self._critic_step()
            losses["loss"] = self._generator_step(step)
            if on_step is not None:
                on_step(step, losses)
        return self

    def train_critic(self, updates: int) -> None:
        """Updates of fake score and discriminator with the generators at rest."""
        for _ in range(updates):
            self._critic_step()

    def critic_slopes(self) -> list[float]:
        """How much of the score gap each replica's discriminator has learned, on fresh samples of its generator."""
        with torch.random.fork_rng(devices=[]):  # measuring changes no run
            z, eps, drawn = self._noise()
        alpha, sigma = self._levels(drawn)
        with torch.no_grad():
            x_t = torch.nan_to_num(self.generator(z)) + drawn.sigma[:, None] * eps
            teacher, fake = self.target.denoise(x_t, alpha, sigma), self.critic.denoise(x_t, alpha, sigma)
        x_t.requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic.logit(x_t, alpha, sigma).sum(), x_t)
        replicas = zip(gradient, teacher, fake)
        return [float(critic_slope(g, q, p, drawn.alpha, drawn.sigma)) for g, q, p in replicas]

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """[R, count, 2]."""
        z = torch.randn(1, count, 2).expand(self.replicas, -1, -1)
        return self.average(z)

    def _set_lr(self, scale: float) -> None:
        for optimiser, lr in ((self.optimiser, self.config.lr), (self.critic_optimiser, self.config.critic_lr)):
            for group in optimiser.param_groups:
                group["lr"] = lr * scale

    def _noise(self, boundary: float | None = None):
        """z, ε [1, B, 2] and the noise levels [1, B], shared by all replicas."""
        drawn = self.sampler.sample(self.process, self.config.batch, boundary=boundary)
        z, eps = torch.randn(2, 1, self.config.batch, 2)
        return z.expand(self.replicas, -1, -1), eps, drawn

    def _levels(self, drawn) -> tuple[Tensor, Tensor]:
        return drawn.alpha.expand(self.replicas, -1), drawn.sigma.expand(self.replicas, -1)

    def _critic_step(self) -> dict[str, float]:
        """Denoising loss and cross-entropy, one update of both for every replica."""
        z, eps, drawn = self._noise()
        alpha, sigma = self._levels(drawn)
        with torch.no_grad():
            fake = self.generator(z)
        real = self.target.sample(self.config.batch).expand_as(fake)
        # A generator that has diverged must not reach the optimiser's state of the others: replicas are independent.
        x_t = torch.nan_to_num(fake) + drawn.sigma[:, None] * eps
        real_t = real + drawn.sigma[:, None] * eps.roll(1, 1)
        weight = (1 + 1 / drawn.sigma**2)[:, None]
        denoising = (weight * (self.critic.denoise(x_t, alpha, sigma) - fake).square()).mean((1, 2))
        adversarial = torch.zeros_like(denoising)
        if self.uses_discriminator:
            logits = self.critic.logit(torch.cat([real_t, x_t], 1), alpha.repeat(1, 2), sigma.repeat(1, 2))
            adversarial = discriminator_loss(*logits.chunk(2, 1)).mean(1)
        self.critic_optimiser.zero_grad(set_to_none=True)
        (denoising + adversarial).sum().backward()
        self.critic_optimiser.step()
        # Medians: one diverged method must not hide the others.
        return {"fake_score": float(denoising.detach().median()), "discriminator": float(adversarial.detach().median())}

    def _generator_step(self, step: int) -> float:
        z, eps, drawn = self._noise(self.boundary)
        alpha, sigma = self._levels(drawn)
        self.critic.requires_grad_(False)
        x0 = self.generator(z)
        x_t = x0 + drawn.sigma[:, None] * eps
        teacher = self.target.denoise(x_t, alpha, sigma)
        fake = self.critic.denoise(x_t, alpha, sigma)
        logit = self.critic.logit(x_t, alpha, sigma) if self.uses_discriminator else None
        losses = []
        for i, method in enumerate(now.at(step) for now in self.methods):
            conditional = method.fake_score == "conditional"
            out = objective(
                self.config.ratio.in_force(method.objective, step),
                x0=x0[i],
                x0_teacher=teacher[i],
                x0_fake=x0[i] if conditional else fake[i],
                alpha=drawn.alpha,
                sigma=drawn.sigma,
                log_r=self.config.ratio(logit[i], step) if method.objective.needs_ratio else None,
                log_snr_density=drawn.log_snr_density,
                slopes=drawn.slopes,
            )
            loss = out.loss.mean()
            if "gan" in method.auxiliary:
                loss = loss + method.auxiliary["gan"] * generator_loss(logit[i]).mean()
            if "regression" in method.auxiliary:
                loss = loss + method.auxiliary["regression"] * self._regression(i)
            losses.append(loss)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        self.critic.requires_grad_(True)
        self._clip()
        self.optimiser.step()
        with torch.no_grad():
            # A short average at first, so that an early start is forgotten.
            decay = min(self.config.ema, (step + 1) / (step + 10))
            for average, weight in zip(self.average.parameters(), self.generator.parameters()):
                average.lerp_(weight, 1 - decay)
        return float(torch.stack(losses).detach().median())

    def _clip(self) -> None:
        """Cut each replica's gradient norm; a gradient that is not finite becomes zero."""
        grads = [p.grad for p in self.generator.parameters()]
        norm = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
        factor = (self.config.max_grad / norm.clamp_min(1e-12)).clamp(max=1.0)
        bad = ~torch.isfinite(norm)
        for grad in grads:
            grad.mul_(factor[:, None, None])
            grad[bad] = 0

    def _ode_pairs(self, count: int = 2000, steps: int = 60) -> tuple[Tensor, Tensor]:
        """(z, x_0) along the teacher's probability flow from σ_max z, Heun's method on the EDM ρ-schedule."""
        z = torch.randn(count, 2)
        sigmas = self.process.at_fraction(torch.linspace(1, 0, steps))
        x = z * math.sqrt(1 + float(sigmas[0]) ** 2)
        ones = torch.ones(count)
        for now, after in pairwise(sigmas):
            slope = (x - self.target.denoise(x, ones, now * ones)) / now
            ahead = x + (after - now) * slope
            slope_ahead = (ahead - self.target.denoise(ahead, ones, after * ones)) / after
            x = x + (after - now) * 0.5 * (slope + slope_ahead)
        return z, self.target.denoise(x, ones, sigmas[-1] * ones)

    def _regression(self, replica: int) -> Tensor:
        z, x0 = self.pairs
        which = torch.randint(len(z), (self.config.batch,))
        generated = self.generator(z[which].expand(self.replicas, -1, -1))[replica]
        return regression_loss(generated, x0[which]).mean()
