"""`uni-instruct-guidance`: one step of Algorithm 2 (arXiv 2505.20755) for whatever 3D model rendered the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule
from threestudio.utils.misc import C

from ..core import (
    GradientScale,
    Method,
    TimeSampler,
    check_by_parts,
    critic_slope,
    get_method,
    objective,
    per_sample,
    poor_calibration,
    reference_score,
)
from ..core.errors import require_writable
from ..core.groups import Groups
from ..core.ranges import check
from ..core.ratio import RatioWarmup, generator_loss
from ..scoring.rewards import REWARDS, build_reward
from ..teachers.beside import Beside
from ..teachers.stable_diffusion.memory import save_memory
from ..teachers.stable_diffusion.networks import Condition, Networks
from ..teachers.stable_diffusion.teacher import Teacher
from .bank import SampleBank
from .batch import ReadsBatch
from .config import GuidanceFields, build_method, parse_blocks
from .group_bank import GroupBank
from .learning import LearningLosses, Noised, Real, SharedPass, noised
from .pictures import DrawsPictures
from .prompts import direction_indices
from .ranges import GUIDANCE
from .rejections import Rejections
from .views import check_views

#: Latents of an untouched asset from the same cameras, and what the networks are told about it.
Untouched = tuple[Tensor, Condition]


@dataclass
class LastAnswer:
    """x̂0 of teacher and fake score [B, C, h, w] (None: conditional score), and the noise level α, σ [B]."""

    x0_teacher: Tensor
    x0_fake: Tensor | None
    alpha: Tensor
    sigma: Tensor


@threestudio.register("uni-instruct-guidance")
class UniInstructGuidance(ReadsBatch, DrawsPictures, BaseModule):
    """Score distillation with any row of the methods table.

    Called with renderings and prompts, returns a dict: `loss_uni_instruct` (its gradient in the latents is the
    method's), `loss_fake_score`, `loss_discriminator` (what trains the learned networks), scalars to log.

    With a teacher that draws n views at once, n consecutive renderings are one sample: one noise level, one norm, one
    weight, one ratio for all of them, and a view that is not finite rejects its group. Losses stay means over views,
    so that the weights in `system.loss` mean what they mean for single views.
    """

    @dataclass
    class Config(BaseModule.Config, GuidanceFields):
        """See config.py."""

    cfg: Config

    # every loss this guidance can return; `system.loss.lambda_<name>` weights it
    losses = ("uni_instruct", "fake_score", "discriminator", "reward")
    # side of the pictures that the teacher encodes (None: its own), and whether it follows perpendicular negatives; the
    # twins of threestudio's guidances set them to what these do
    encode_size: int | None = None
    perp_neg = True
    # what the networks said in the last step, for losses in the picture
    last_answer: LastAnswer | None = None

    def configure(self) -> None:
        check(GUIDANCE, OmegaConf.to_container(self.cfg, throw_on_missing=False), "system.guidance.")
        self.blocks = parse_blocks(self.cfg)
        require_writable("system.guidance.bank_dir", self.cfg.bank_dir)
        self.method = build_method(self.cfg, self.cfg.with_reference)
        self.warmup_method = get_method(self.blocks.warmup.method)
        if self.blocks.warmup.steps and self.warmup_method.learns_fake_score:
            raise ValueError(
                f"system.guidance.warmup.method={self.blocks.warmup.method!r} must not learn a fake score: sds"
            )
        self.ratio_warmup = RatioWarmup(self.blocks.discriminator.warmup_steps, self.blocks.discriminator.warmup_ramp)
        size = self.blocks.gradient_size
        self.gradient_scale = GradientScale(size.scale, size.target, max_ratio=size.max_ratio or None)
        # Its own: the size of the warm-up's gradient says nothing about the method's, and a mean over a hundred steps
        # would carry it far into the run.
        self.warmup_scale = GradientScale(size.scale, size.target, max_ratio=size.max_ratio or None)
        self.teacher = Teacher.load(
            self.cfg.pretrained_model_name_or_path,
            self.device,
            self.cfg.half_precision_weights,
            self.cfg.cache_dir,
        )
        self.groups = Groups(self.teacher.n_views)
        self.beside = Beside(self.cfg.side_by_side and self.method.learns_fake_score, self.device)
        self.networks = Networks(
            self.teacher,
            self.method.fake_score if self.method.learns_fake_score else None,
            self.blocks.fake_score,
            self.method.needs_discriminator,
            self.blocks.discriminator,
            self.beside,
        )
        save_memory(self.blocks.memory, self.teacher, None if self.networks.fake is None else self.networks.fake.unet)
        self.learning = LearningLosses(self.networks, self.teacher.process)
        self.reward = build_reward(self.cfg.reward_type, self.cfg.reward)
        if self.reward is None and any(row.auxiliary.get("reward") for row in self._rows()):
            raise ValueError(
                f"system.guidance.method={self.cfg.method!r} needs a reward; set system.guidance.reward "
                f"({' | '.join(REWARDS)} | FILE.py:FUNCTION) or system.guidance.auxiliary.reward=0"
            )
        self._check_by_parts()
        self._warned = False
        self.rejections = Rejections(self.cfg.max_rejected_steps)
        self.bank: SampleBank | GroupBank | None = None
        # Set by the system when fake_score.updates_per_step > 1: takes one optimiser step on a loss.
        self.inner_step: Callable[[Tensor], None] | None = None
        self.update_step(0, 0)
        threestudio.info(
            f"uni-instruct-guidance: method {self.cfg.method}, fake score {self.method.fake_score}, divergence "
            f"{self.method.objective.divergence.name}, gradient {self.method.objective.gradient}, "
            f"teacher {self.teacher.name} ({self.teacher.dtype}, {self.device}"
            f"{f', {self.groups.n} views at once' if self.groups.n > 1 else ''})"
        )

    def _rows(self) -> list[Method]:
        """The method as it is at each step of its schedule."""
        return [self.method, *(self.method.at(step) for step, _ in self.method.schedule)]

    def _check_by_parts(self) -> None:
        """Refuse a mixture that is none; say what `gradient: by_parts` follows over all noise levels ever visited."""
        for row in self._rows():
            if row.objective.boundary_share is None:
                continue
            ends = (self.cfg.min_step_percent, self.cfg.max_step_percent)
            low, high = (end if isinstance(end, (int, float)) else list(end) for end in ends)
            sampler = TimeSampler(self.cfg.time_sampler, low, high)
            threestudio.info(
                check_by_parts(row.objective, self.teacher.process, sampler, lambda name: f"system.guidance.{name}")
            )

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Follow every schedule: noise range, guidance scale, method in force, bank."""
        self.step = global_step
        self.in_warmup = global_step < self.blocks.warmup.steps
        self.current: Method = self.warmup_method if self.in_warmup else self.method.at(global_step)
        self.min_fraction = float(C(self.cfg.min_step_percent, epoch, global_step))
        self.max_fraction = float(C(self.cfg.max_step_percent, epoch, global_step))
        self.sampler = TimeSampler(self.cfg.time_sampler, self.min_fraction, self.max_fraction)
        clip = self.cfg.grad_clip
        self.grad_clip = None if clip is None else float(C(clip, epoch, global_step))
        scale = self.cfg.guidance_scale
        self.guidance_scale = self.current.guidance.teacher if scale is None else float(C(scale, epoch, global_step))
        if self.in_warmup:
            self.guidance_scale = self.blocks.warmup.guidance_scale
        own = self.blocks.fake_score
        self.fake_scale = self.current.guidance.fake if own.guidance_scale is None else own.guidance_scale
        train_scale = self.method.guidance.fake_train if own.cfg_train is None else own.cfg_train
        self.learning.train_scale = train_scale
        if self.bank is not None:
            self.bank.update(global_step)

    # --- one step -----------------------------------------------------------------------------------------------

    def forward(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        rgb_as_latents: bool = False,
        reference: tuple[Float[Tensor, "B H W C"], Any] | None = None,
        **batch,
    ) -> dict[str, Tensor]:
        """Losses and what to log.

        Args:
            rgb: renderings in 0..1 (or latents with `rgb_as_latents`).
            prompt_utils: threestudio's PromptProcessorOutput.
            elevation, azimuth: degrees. camera_distances, batch: the data module's cameras.
            reference: renderings of the untouched asset from the same cameras, and its prompts (method dds).

        Raises:
            ValueError: cameras that a multi-view teacher cannot take, naming the key.
        """
        cameras = {"elevation": elevation, "azimuth": azimuth, "camera_distances": camera_distances, **batch}
        check_views(cameras, self.groups.n, self.teacher.name)
        condition = self._condition(prompt_utils, cameras)
        image = rgb.permute(0, 3, 1, 2)
        untouched = None
        if reference is not None:
            with torch.random.fork_rng(devices=[image.device] if image.device.type == "cuda" else []), torch.no_grad():
                # the very noise that the encoder draws for the other picture
                as_it_was = self._latents(reference[0].permute(0, 3, 1, 2), rgb_as_latents)
            untouched = (as_it_was, self._condition(reference[1], cameras))
        latents = self._latents(image, rgb_as_latents)
        real = self._real(prompt_utils, cameras, condition)
        losses, grad, log = self._one_step(latents.detach(), real, condition, untouched)
        self.rejections.count(int(log["rejected"]), self.groups.count(len(latents)), self.step)
        losses["loss_uni_instruct"] = (latents * grad).sum() / len(latents)
        weight = 0.0 if self.in_warmup else self.current.auxiliary.get("reward", 0.0)
        if weight:
            # a reward model reads plain English only
            views = direction_indices(prompt_utils, cameras, view_dependent=True, words_only=True)
            score = self.reward(image, prompt_utils, views)
            losses["loss_reward"] = -weight * score.mean()
            log["reward"] = score.detach().mean()
        log |= {"grad_norm": grad.flatten(1).norm(dim=1).mean(), "rejected_steps": float(self.rejections.steps)}
        log |= {"min_step": self.min_fraction * self.teacher.process.steps}
        log |= {"max_step": self.max_fraction * self.teacher.process.steps, "guidance_scale": self.guidance_scale}
        return losses | log

    def _one_step(
        self, latents: Tensor, real: Real | None, condition: Condition, untouched: Untouched | None
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Losses of what learns, the method's gradient in the latents, diagnostics.

        Of several updates of what learns all but the last are taken first, by passes of their own. The last one's
        losses and the gradient are of the same weights, whether one pass gives both or not.
        """
        learns = self.networks.fake is not None or self.networks.head is not None
        for _ in range(self._updates() - 1 if learns else 0):
            if self.inner_step is None:
                raise ValueError(
                    "system.guidance.fake_score.updates_per_step > 1 needs a system that lends its optimiser: "
                    "uni-instruct-system"
                )
            drop_camera = self.learning.drops_camera()
            self.inner_step(sum(self.learning(latents, real, condition, self.sampler, drop_camera).values()))
        drop_camera = self.learning.drops_camera()
        if self.learning.shares(self.step) and not drop_camera:
            grad, log, shared = self._gradient(latents, condition, record=True, real=real)
            losses = self.learning(latents, real, condition, self.sampler, shared=shared)
        else:
            losses = self.learning(latents, real, condition, self.sampler, drop_camera)
            grad, log, _ = self._gradient(latents, condition, untouched=untouched)
        return self.beside.losses(losses), grad, log

    def _updates(self) -> int:
        return self.blocks.fake_score.updates_per_step or self.method.fake_updates

    def _gradient(
        self,
        latents: Tensor,
        condition: Condition,
        record: bool = False,
        untouched: Untouched | None = None,
        real: Real | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], SharedPass | None]:
        """The method's gradient in the latents [B, C, h, w], diagnostics, and with `record` the pass itself, with
        `real` in it."""
        method = self.current
        estimator = self.ratio_warmup.in_force(method.objective, self.step)
        ratio_ready = not self.in_warmup and self.ratio_warmup.factor(self.step) > 0
        gan_weight = method.auxiliary.get("gan", 0.0) if ratio_ready else 0.0
        with_ratio = ratio_ready and estimator.needs_ratio
        every = self.blocks.discriminator.calibrate_every
        calibrate = with_ratio and bool(every) and self.step % every == 0
        groups = self.groups
        x0 = groups.fold(latents).clone().requires_grad_(True)
        with torch.enable_grad():
            at = noised(self.teacher.process, x0, self.sampler, groups, estimator.boundary_share)
            times = at.times
            answer = self.networks.answer(
                at.x_t,
                at.t,
                condition,
                guidance_scale=self.guidance_scale,
                fake_guidance_scale=self.fake_scale,
                guidance_rescale=self.cfg.guidance_rescale,
                with_logit=with_ratio or gan_weight > 0,
                with_jacobian=estimator.needs_jacobian,
                with_logit_gradient=gan_weight > 0 or calibrate,
                use_fake=method.learns_fake_score,
                record=record,
                record_reference=record and self.learning.train_scale != 1.0,
                real=None if real is None else (self.learning.noised_real(real, at), real.condition),
            )
            if method.fake_score == "teacher_reference":
                answer.x0_fake = self._reference_score(latents, at, untouched)
            logit = None if answer.logit is None else groups.mean(answer.logit)
            x0_teacher = groups.fold(answer.x0_teacher)
            x0_fake = x0.detach() if answer.x0_fake is None else groups.fold(answer.x0_fake)
            out = objective(
                estimator,
                x0=x0,
                x0_teacher=x0_teacher,
                x0_fake=x0_fake,
                alpha=times.alpha,
                sigma=times.sigma,
                log_r=self.ratio_warmup(logit, self.step) if with_ratio else None,
                log_snr_density=times.log_snr_density,
                slopes=times.slopes,
            )
            log = {}
            if calibrate:
                # The critic has not yet taken a step on these renderings.
                (slope,) = torch.autograd.grad(logit.sum(), at.x_t, retain_graph=True)
                log["critic_slope"] = critic_slope(groups.fold(slope), x0_teacher, x0_fake, times.alpha, times.sigma)
                self._warn_once(
                    poor_calibration(
                        float(log["critic_slope"]), estimator, "system.guidance.gradient",
                        "system.guidance.discriminator.warmup_steps",
                    )
                )  # fmt: skip
            total = out.loss.sum()
            if gan_weight:
                total = total + gan_weight * (generator_loss(logit) * out.valid).sum()
            # of x0 alone: what learns has its own losses, though a shared pass keeps the graph to its weights
            (grad,) = torch.autograd.grad(total, x0, retain_graph=record)
        fake = None if answer.x0_fake is None else answer.x0_fake.detach()
        levels = groups.rows(times.alpha), groups.rows(times.sigma)
        self.last_answer = LastAnswer(answer.x0_teacher.detach(), fake, *levels)
        # a network may also answer NaN on the way back alone
        valid = out.valid & grad.isfinite().flatten(1).all(1)
        grad = torch.where(per_sample(valid, grad), grad, torch.zeros_like(grad))
        log |= {name.replace("/", "_"): value.float() for name, value in out.diagnostics.items()}
        log["rejected"] = (~valid).sum().float()
        log["objective_value"] = out.value.mean()
        if logit is not None:
            log["logit_mean"] = logit.detach().mean()
        grad = groups.split((self.warmup_scale if self.in_warmup else self.gradient_scale)(grad))
        grad = grad if self.grad_clip is None else grad.clamp(-self.grad_clip, self.grad_clip)
        return grad, log, SharedPass(at, answer.learned) if record else None

    @torch.no_grad()
    def _reference_score(self, x0: Tensor, at: Noised, untouched: Untouched | None) -> Tensor:
        """The teacher's answer to the untouched asset at the same ε and t, its own prompt, the same guidance."""
        if untouched is None:
            raise ValueError(f"system.guidance.method={self.cfg.method!r} needs system.reference, a finished asset")
        latents, condition = untouched
        alpha = per_sample(self.teacher.process.alpha(at.t), x0)
        answer = self.networks.answer(
            at.x_t + alpha * (latents - x0),  # the very ε of x_t
            at.t,
            condition,
            guidance_scale=self.guidance_scale,
            fake_guidance_scale=1.0,
            guidance_rescale=self.cfg.guidance_rescale,
            with_logit=False,
            with_jacobian=False,
            with_logit_gradient=False,
            use_fake=False,
        )
        return reference_score(x0, latents, answer.x0_teacher)

    def _warn_once(self, line: str | None) -> None:
        if line and not self._warned:
            self._warned = True
            threestudio.warn(f"step {self.step}: {line}")
