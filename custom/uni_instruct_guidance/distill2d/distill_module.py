"""Algorithm 1 of Uni-Instruct (arXiv 2505.20755) as a Lightning module: student, fake score and discriminator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from ..core import (
    Method,
    RatioWarmup,
    TimeSample,
    VarianceExploding,
    check_by_parts,
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
from ..teachers.edm import EDMPrecond, build_network
from ..teachers.sampling import one_step
from .bank import TeacherBank, frozen, one_hot_or_none
from .base_module import StepModule
from .config import DistillConfig, schedule
from .data import ImageData, to_unit_range
from .discriminator import DiscriminatorHead
from .methods import one_step_method
from .randomness import Share, StepRandom

Reward = Callable[[Tensor], Tensor]


class DistillModule(StepModule):
    """Trains g(z) = D(init_sigma z; init_sigma) against a frozen teacher.

    Each step: `fake_updates` updates of fake score and discriminator, then one of the student.

    Args:
        cfg: configuration.
        teacher: EDM network, predicts x̂0.
        data: real images for the discriminator; None where none are needed or the teacher's samples serve.
        student, fake: networks to start from; None: copies of the teacher.
        reward: differentiable [B, C, H, W] ↦ [B], for methods with a reward.

    Attributes:
        method: the row with the configuration's options.
        bank: where the teacher's ODE samples come from; set before training when the method or `real` needs them.
    """

    title = "distillation"

    def __init__(
        self,
        cfg: DistillConfig,
        teacher: EDMPrecond,
        data: ImageData | None,
        student: EDMPrecond | None = None,
        fake: EDMPrecond | None = None,
        reward: Reward | None = None,
    ):
        student = trainable_copy(student or teacher, cfg.dropout)
        super().__init__(cfg, data, student)
        self.method: Method = one_step_method(cfg.method, reward is not None)
        self.student = student
        self.fake = trainable_copy(fake or teacher, cfg.dropout)
        self.uses_discriminator = self.method.needs_discriminator
        if self.uses_discriminator:
            # Its own random numbers: every process, and every run with this seed, starts with the same head.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(cfg.seed)
                self.head = DiscriminatorHead(teacher.feature_channels)
        self._unsaved = {"teacher": frozen(teacher), "reward": reward}
        self.process = VarianceExploding()
        self.student_noise, self.fake_noise = cfg.student_noise.build(), cfg.fake_noise.build()
        self.ratio_warmup = RatioWarmup(cfg.warmup.student + cfg.warmup.ratio, cfg.warmup.ramp)
        for stage in (self.method, *(self.method.at(at) for at, _ in self.method.schedule)):
            check_by_parts(stage.objective, self.process, self.student_noise, lambda option: f"method.{option}")
        self.lr = schedule("lr", cfg.lr)
        self.fake_lr = schedule("fake_lr", cfg.lr if cfg.fake_lr is None else cfg.fake_lr)
        self.shape = (teacher.img_channels, teacher.img_resolution, teacher.img_resolution)
        self.label_dim = teacher.label_dim
        self.frequencies = class_frequencies(teacher, data)
        self.bank: TeacherBank | None = None
        self._warned = False

    # --- what is needed ---------------------------------------------------------------------------------------------

    @property
    def teacher(self) -> EDMPrecond:
        """Frozen, and neither saved nor exchanged between processes."""
        return self._unsaved["teacher"]

    @property
    def needs_bank(self) -> bool:
        """Whether the teacher's ODE samples are used."""
        stages = [self.method, *(self.method.at(step) for step, _ in self.method.schedule)]
        regresses = any(stage.auxiliary.get("regression") for stage in stages)
        return regresses or (self.uses_discriminator and self.cfg.real == "teacher")

    def shipped(self) -> EDMPrecond:
        return self.student

    def networks(self) -> list[EDMPrecond]:
        return [self.student, self.fake, self.teacher]

    def updates_with_data(self) -> int:
        return self.method.fake_updates if self.uses_discriminator else 0

    def configure_optimizers(self):
        critic = [*self.fake.parameters(), *(self.head.parameters() if self.uses_discriminator else [])]
        fake_lr = self.cfg.lr if self.cfg.fake_lr is None else self.cfg.fake_lr
        return [self.adam(self.student.parameters(), self.cfg.lr), self.adam(critic, fake_lr)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.teacher.to(self.device)
        self.ema.eval()
        if self.bank is not None:
            self.bank.make(self.trainer.global_rank, self.trainer.world_size, self.device)
            self.trainer.strategy.barrier()
            self.bank.load()
            if self.cfg.real == "teacher":
                self.data = self.bank.as_data()

    # --- one step ---------------------------------------------------------------------------------------------------

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        student_optimizer, fake_optimizer = self.optimizers()
        share, step = self.share(), self.done_steps
        method = self.method.at(step)
        for update in range(self.method.fake_updates):
            real = None
            if self.uses_discriminator:
                mine = slice(update * share.count, (update + 1) * share.count)
                real = images[mine], labels[mine]
            micro = share.micro(self.cfg.micro_batch)
            self.accumulate(self._fake_losses(micro, real, self.random(f"fake{update}")), micro)
            self.guarded_step("fake_score", fake_optimizer, self.fake_lr)
        if step < self.cfg.warmup.student:
            return
        micro = share.micro(self.cfg.micro_batch)
        critics = [self.fake, *([self.head] if self.uses_discriminator else [])]
        for critic in critics:
            critic.requires_grad_(False)
        self.accumulate(self._student_losses(micro, method, self.random("student")), micro)
        for critic in critics:
            critic.requires_grad_(True)
        self.guarded_step("student", student_optimizer, self.lr)

    def _draw(self, random: StepRandom, share: Share) -> tuple[Tensor, Tensor | None]:
        """Unit noise z and one-hot labels of student samples."""
        labels = None
        if self.label_dim:
            labels = one_hot_or_none(random.labels("labels", share, self.frequencies).to(self.device), self.label_dim)
        return random.normal("z", share, self.shape), labels

    def _levels(self, sampler, random: StepRandom, share: Share, boundary: float | None = None) -> TimeSample:
        """Noise levels, [share.count] each, on the device; drawn for the whole batch."""
        generator = random.generator("sigma")
        drawn = sampler.sample(self.process, share.total, self.done_steps, generator, boundary=boundary)
        return drawn.map(lambda values: share.of(values).to(self.device))

    def _fake_losses(self, micro: list[Share], real, random: StepRandom) -> Iterator[Tensor]:
        """Denoising loss on student samples, and cross-entropy against real images at the same noise levels."""
        scale, first = self.cfg.loss_scale, micro[0].first
        for share in micro:
            z, labels = self._draw(random, share)
            with torch.no_grad():
                x0 = one_step(self.student, z, labels, self.cfg.init_sigma)
            sigma = self._levels(self.fake_noise, random, share).sigma
            x_t = x0 + per_sample(sigma, x0) * random.normal("eps", share, self.shape)
            x0_fake, features = self.fake.forward_with_features(x_t, sigma, labels)
            denoising = denoising_loss(
                x0_fake, x0, torch.ones_like(sigma), sigma, "edm", sigma_data=self.teacher.sigma_data
            ).mean()
            loss, log = scale.fake_score * denoising, {"loss/fake_score": denoising}
            if self.uses_discriminator:
                mine = slice(share.first - first, share.first - first + share.count)
                images = to_unit_range(real[0][mine])
                classes = one_hot_or_none(real[1][mine] if self.label_dim else None, self.label_dim)
                real_t = images + per_sample(sigma, images) * random.normal("real_eps", share, self.shape)
                logit_real = self.head(self.fake.encode_features(real_t, sigma, classes))
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
            z, labels = self._draw(random, share)
            x0 = one_step(self.student, z, labels, self.cfg.init_sigma)
            loss, log = self._objective_and_gan(x0, labels, method, random, share)
            if method.auxiliary.get("regression"):
                regression = self._regression(random, share)
                loss = loss + method.auxiliary["regression"] * regression
                log["loss/regression"] = regression
            if method.auxiliary.get("reward"):
                reward = reward_loss(x0, self._unsaved["reward"]).mean()
                loss = loss + method.auxiliary["reward"] * reward
                log["loss/reward"] = reward
            self.add_scalars({"loss/student": loss, **log}, share.count / self.cfg.batch)
            yield loss

    def _objective_and_gan(self, x0, labels, method, random, share) -> tuple[Tensor, dict[str, Tensor]]:
        """One pass of teacher and fake score at x_t gives the score gap, log r and the adversarial term."""
        scale, ready = self.cfg.loss_scale, self.ratio_warmup.factor(self.done_steps)
        estimator = self.ratio_warmup.in_force(method.objective, self.done_steps)
        weight = scale.student / (x0[0].numel() if scale.per_pixel else 1)
        gan = method.auxiliary.get("gan", 0.0) * ready
        needs_ratio = bool(weight and ready) and estimator.needs_ratio
        through_networks = bool(weight) and estimator.needs_jacobian
        every = self.cfg.calibrate_every
        calibrate = needs_ratio and bool(every) and self.done_steps % every == 0
        levels = self._levels(self.student_noise, random, share, estimator.boundary_share)
        sigma = levels.sigma
        x_t = x0 + per_sample(sigma, x0) * random.normal("eps", share, self.shape)
        loss, log = 0.0 * x0.sum(), {}
        with torch.set_grad_enabled(through_networks or gan > 0 or calibrate):
            if weight:
                x0_fake, features = self.fake.forward_with_features(x_t, sigma, labels)
            elif gan:
                features = self.fake.encode_features(x_t, sigma, labels)
            logit = self.head(features) if gan or needs_ratio else None
        if weight:
            with torch.set_grad_enabled(through_networks):
                x0_teacher = self.teacher(x_t, sigma, labels)
            out = objective(
                estimator, x0=x0, x0_teacher=x0_teacher, x0_fake=x0_fake, alpha=levels.alpha, sigma=sigma,
                log_r=self.ratio_warmup(logit, self.done_steps) if needs_ratio else None,
                log_snr_density=levels.log_snr_density, slopes=levels.slopes,
            )  # fmt: skip
            loss = loss + weight * out.loss.mean()
            log = {"objective": out.value.mean(), "rejected": out.diagnostics["rejected"]}
            if needs_ratio:
                log |= {name: value for name, value in out.diagnostics.items() if name.startswith("log_r/")}
            if len(out.terms) > 1:
                log |= {name: value for name, value in out.diagnostics.items() if name.startswith("norm/")}
            if calibrate:
                # The student's samples of this step are new to the critic.
                (slope,) = torch.autograd.grad(logit.sum(), x_t, retain_graph=True)
                log["critic/slope"] = critic_slope(slope, x0_teacher, x0_fake, levels.alpha, sigma)
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
        labels = one_hot_or_none(bank.labels[which].to(self.device), self.label_dim)
        generated = one_step(self.student, bank.noise[which].to(self.device), labels, self.cfg.init_sigma)
        return regression_loss(generated, bank.x0[which].to(self.device)).mean()


def trainable_copy(network: EDMPrecond, dropout: float) -> EDMPrecond:
    """A copy with gradients, in training mode, with its own dropout."""
    copy = build_network(network.config, dropout=dropout)
    copy.load_state_dict(network.state_dict())
    return copy.to(next(network.parameters()).device).requires_grad_(True).train()


def class_frequencies(teacher: EDMPrecond, data: ImageData | None) -> Tensor | None:
    """Class probabilities of student samples: the data's, uniform without data, None for an unconditional teacher."""
    if not teacher.label_dim:
        return None
    found = None if data is None else data.class_frequencies()
    return torch.full((teacher.label_dim,), 1 / teacher.label_dim) if found is None else found
