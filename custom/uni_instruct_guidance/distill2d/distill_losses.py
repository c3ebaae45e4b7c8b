"""What one step of Algorithm 1 (Uni-Instruct, arXiv 2505.20755) minimises: two losses of samples g(z)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from ..core import (
    Method,
    NoiseProcess,
    TimeSample,
    critic_slope,
    denoising_loss,
    discriminator_loss,
    generator_loss,
    objective,
    per_sample,
    poor_calibration,
    regression_loss,
    reward_loss,
)
from ..teachers.contract import Conditions, DiffusionTeacher, guided
from ..teachers.randomness import Share, StepRandom
from .base_module import StepModule
from .families import Family


class DistillLosses(StepModule):
    """Losses of the fake score with its discriminator, and of the student; `DistillModule` sets up what they read."""

    @property
    def teacher(self) -> DiffusionTeacher:
        """Frozen, and neither saved nor exchanged between processes."""
        return self._unsaved["teacher"]

    @property
    def process(self) -> NoiseProcess:
        """The teacher's, on the CPU."""
        return self._unsaved["process"]

    @property
    def conditions(self) -> Conditions:
        """What samples are asked for."""
        return self._unsaved["conditions"]

    @property
    def family(self) -> Family:
        return self._unsaved["family"]

    def generate(self, network: nn.Module, z: Tensor, condition) -> Tensor:
        """g(z) of a network, differentiable."""
        return self.start(lambda *inputs: network.denoise(*inputs)[0], z, condition)

    def _draw(self, random: StepRandom, share: Share) -> tuple[Tensor, Tensor]:
        """Unit noise z of student samples, and the rows they are asked for."""
        rows = torch.zeros(share.count, dtype=torch.long)
        if self.conditions.count:
            rows = random.labels("labels", share, self.conditions.frequencies)
        return random.normal("z", share, self.teacher.shape), rows

    def _null(self, rows: Tensor, *scales: float):
        """The unconditional branch, where a guidance scale asks for it."""
        return self.conditions.null(rows, self.device) if set(scales) != {1.0} else None

    def _levels(self, sampler, random: StepRandom, share: Share, boundary: float | None = None) -> TimeSample:
        """Noise levels, [share.count] each, on the device; drawn for the whole batch."""
        generator = random.generator("sigma")
        drawn = sampler.sample(self.process, share.total, self.done_steps, generator, boundary=boundary)
        return drawn.map(lambda values: share.of(values).to(self.device))

    def _diffuse(self, x0: Tensor, levels: TimeSample, random: StepRandom, share: Share, name: str = "eps") -> Tensor:
        eps = random.normal(name, share, self.teacher.shape)
        return per_sample(levels.alpha, x0) * x0 + per_sample(levels.sigma, x0) * eps

    def _fake_losses(self, micro: list[Share], real, random: StepRandom) -> Iterator[Tensor]:
        """Denoising loss on student samples, and cross-entropy against real samples at the same noise levels."""
        scale, first = self.cfg.loss_scale, micro[0].first
        guidance = self.method.at(self.done_steps).guidance.fake_train
        for share in micro:
            z, rows = self._draw(random, share)
            condition, null = self.conditions.of(rows, self.device), self._null(rows, guidance)
            with torch.no_grad():
                x0 = self.generate(self.student, z, condition)
            levels = self._levels(self.fake_noise, random, share)
            x_t = self._diffuse(x0, levels, random, share)
            x0_fake, features = guided(self.fake.denoise, x_t, levels.t, condition, null, guidance, self.features)
            denoising = denoising_loss(x0_fake, x0, levels.alpha, levels.sigma, **self.teacher.denoising).mean()
            loss, log = scale.fake_score * denoising, {"loss/fake_score": denoising}
            if self.uses_discriminator:
                mine = slice(share.first - first, share.first - first + share.count)
                drawn = random.generator("encode", share.first)
                images = self.family.real(real[0][mine], self.teacher, drawn)
                asked = self.conditions.of(real[1][mine] if self.conditions.count else None, self.device)
                real_t = self._diffuse(images, levels, random, share, "real_eps")
                logit_real = self.head(self.fake.read_features(real_t, levels.t, asked, self.features))
                logit_fake = self.head(features)
                adversarial = discriminator_loss(logit_real, logit_fake).mean()
                loss = loss + scale.discriminator * adversarial
                log |= {"loss/discriminator": adversarial, "logit/real": logit_real.mean()}
                log |= {"logit/fake": logit_fake.mean()}
            self.add_scalars(log, share.count / self.cfg.batch)
            yield loss

    def _student_losses(self, micro: list[Share], method: Method, random: StepRandom) -> Iterator[Tensor]:
        """The method's objective and what it adds."""
        for share in micro:
            z, rows = self._draw(random, share)
            condition = self.conditions.of(rows, self.device)
            x0 = self.generate(self.student, z, condition)
            loss, log = self._objective_and_gan(x0, rows, condition, method, random, share)
            if method.auxiliary.get("regression"):
                regression = self._regression(random, share)
                loss = loss + method.auxiliary["regression"] * regression
                log["loss/regression"] = regression
            if method.auxiliary.get("reward"):
                reward = reward_loss(x0, partial(self._reward, rows=rows)).mean()
                loss = loss + method.auxiliary["reward"] * reward
                log["loss/reward"] = reward
            self.add_scalars({"loss/student": loss, **log}, share.count / self.cfg.batch)
            yield loss

    def _reward(self, x0: Tensor, rows: Tensor) -> Tensor:
        """A text-to-image reward sees pictures and prompts, an EDM one the samples themselves."""
        reward = self._unsaved["reward"]
        return reward(self.teacher.decode(x0), self.conditions.texts(rows)) if self.family.text else reward(x0)

    def _objective_and_gan(self, x0, rows, condition, method, random, share) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass of teacher and fake score at x_t gives the score gap, log r and the adversarial term."""
        scale, ready = self.cfg.loss_scale, self.ratio_warmup.factor(self.done_steps)
        estimator, guidance = self.ratio_warmup.in_force(method.objective, self.done_steps), method.guidance
        weight = scale.student / (x0[0].numel() if scale.per_pixel else 1)
        gan = method.auxiliary.get("gan", 0.0) * ready
        needs_ratio = bool(weight and ready) and estimator.needs_ratio
        through_networks = bool(weight) and estimator.needs_jacobian
        every = self.cfg.calibrate_every
        calibrate = needs_ratio and bool(every) and self.done_steps % every == 0
        levels = self._levels(self.student_noise, random, share, estimator.boundary_share)
        null = self._null(rows, guidance.teacher, guidance.fake)
        x_t = self._diffuse(x0, levels, random, share)
        loss, log = 0.0 * x0.sum(), {}
        with torch.set_grad_enabled(through_networks or gan > 0 or calibrate):
            asked = x_t, levels.t, condition
            if weight:
                x0_fake, features = guided(self.fake.denoise, *asked, null, guidance.fake, self.features)
            elif gan:
                features = self.fake.read_features(*asked, self.features)
            logit = self.head(features) if gan or needs_ratio else None
        if weight:
            with torch.set_grad_enabled(through_networks):
                x0_teacher = self.teacher.guided(*asked, null, guidance.teacher)
            out = objective(
                estimator, x0=x0, x0_teacher=x0_teacher, x0_fake=x0_fake, alpha=levels.alpha, sigma=levels.sigma,
                log_r=self.ratio_warmup(logit, self.done_steps) if needs_ratio else None,
                log_snr_density=levels.log_snr_density, slopes=levels.slopes,
            )  # fmt: skip
            loss = loss + weight * out.loss.mean()
            self._judged, self._rejected = self._judged + len(x0), self._rejected + out.diagnostics["rejected"]
            log = {"objective": out.value.mean(), "rejected": out.diagnostics["rejected"]}
            if needs_ratio:
                log |= {name: value for name, value in out.diagnostics.items() if name.startswith("log_r/")}
            if len(out.terms) > 1:
                log |= {name: value for name, value in out.diagnostics.items() if name.startswith("norm/")}
            if calibrate:
                # The student's samples of this step are new to the critic.
                (slope,) = torch.autograd.grad(logit.sum(), x_t, retain_graph=True)
                log["critic/slope"] = critic_slope(slope, x0_teacher, x0_fake, levels.alpha, levels.sigma)
                slope = float(log["critic/slope"])
                self._warn_once(poor_calibration(slope, estimator, "method.gradient", "warmup.student"))
        if gan:
            adversarial = generator_loss(logit).mean()
            loss = loss + gan * adversarial
            log["loss/adversarial"] = adversarial
        return loss, log

    def _warn_once(self, line: str | None) -> None:
        if line and not self._warned:
            self._warned = True
            rank_zero_warn(f"step {self.done_steps}: {line}")

    def _regression(self, random: StepRandom, share: Share) -> Tensor:
        """Mean distance of g(z) to the teacher's ODE solution from the same noise (DMD)."""
        bank = self.bank
        drawn = torch.randint(len(bank.x0), (share.total,), generator=random.generator("pairs"))
        which = share.of(drawn)
        condition = self.conditions.of(bank.rows[which] if self.conditions.count else None, self.device)
        generated = self.generate(self.student, bank.noise[which].to(self.device), condition)
        return regression_loss(generated, bank.x0[which].to(self.device)).mean()
