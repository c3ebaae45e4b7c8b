"""The three networks of a step — teacher, fake score, discriminator head — asked together at one noisy latent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...core import classifier_free, perpendicular_negative, rescale_guidance
from ...core.groups import Groups
from ..beside import Beside
from ..discriminator import RANGES, DiscriminatorConfig, DiscriminatorHead
from .fake_score import FakeScore, FakeScoreConfig
from .teacher import Teacher
from .unet_features import captured_features, feature_channels, run_encoder


@dataclass
class Condition:
    """What the networks are told: [B, L, D] texts (conditional, unconditional) for teacher and fake, camera [B, K].

    With perpendicular negative prompts also two negative texts per view [B, 2, L, D] and their weights [B, 2], never
    positive. With a multi-view teacher the cameras of its rows [B, 16], which its fake score is told too.
    """

    text: Tensor
    uncond: Tensor
    fake_text: Tensor
    fake_uncond: Tensor
    camera: Tensor | None = None
    negatives: Tensor | None = None
    negative_weights: Tensor | None = None
    view: Tensor | None = None

    @property
    def fake_camera(self) -> Tensor | None:
        """What the fake score is told of the camera."""
        return self.camera if self.view is None else self.view

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same with every tensor changed."""
        return Condition(*(None if part is None else change(part) for part in vars(self).values()))


@dataclass
class Learned:
    """What the learned networks' own losses need of a pass that the objective asked for.

    Attributes:
        x0_fake: [B, C, h, w] with the graph to the fake score's weights, before any guidance of its own.
        x0_reference: what that guidance is measured against (None: not asked for).
        features: of the discriminator's backbone, as they are in that graph.
        real_logit: waits for the discriminator's answer [B'] to the teacher's samples (None: none were given).
    """

    x0_fake: Tensor
    x0_reference: Tensor | None
    features: dict[str, Tensor]
    real_logit: Callable[[], Tensor] | None = None


@dataclass
class Answer:
    """x0_teacher, x0_fake [B, C, h, w] (fake None: conditional score), the discriminator's logit [B] or None, and with
    `record` what the learned networks' losses need of the same pass."""

    x0_teacher: Tensor
    x0_fake: Tensor | None
    logit: Tensor | None
    learned: Learned | None = None


class Networks(nn.Module):
    """Learned networks as submodules (fake score, head); the frozen teacher is not one.

    Args:
        fake_kind: lora | full | None.
        with_head: whether a discriminator is needed.
        beside: takes passes that need not wait for each other (None: one after the other).
    """

    def __init__(
        self,
        teacher: Teacher,
        fake_kind: str | None,
        fake_cfg: FakeScoreConfig,
        with_head: bool,
        head_cfg: DiscriminatorConfig,
        beside: Beside | None = None,
    ) -> None:
        super().__init__()
        self.teacher, self.head_cfg = teacher, head_cfg
        self.beside = beside or Beside(False, teacher.device)
        self.fake = FakeScore(_base(teacher, fake_cfg), fake_kind, fake_cfg) if fake_kind else None
        self.head = None
        if with_head:
            self._check_head(head_cfg, feature_channels(teacher.unet))
            channels = {name: feature_channels(teacher.unet)[name] for name in head_cfg.features}
            self.head = DiscriminatorHead(channels, head_cfg.width).to(teacher.device)

    def _check_head(self, cfg: DiscriminatorConfig, channels: dict[str, int]) -> None:
        RANGES["backbone"].check("discriminator.backbone", cfg.backbone)
        if cfg.backbone == "fake" and self.fake is None:
            raise ValueError("discriminator.backbone 'fake' needs a learned fake score; choose 'teacher'")
        if cfg.train_backbone and cfg.backbone != "fake":
            raise ValueError("discriminator.train_backbone needs backbone 'fake': the teacher stays frozen")
        unknown = [name for name in cfg.features if name not in channels]
        if unknown or not cfg.features:
            raise ValueError(f"discriminator.features {unknown or '[]'}; choices: {list(channels)}")

    def answer(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, "B"],
        condition: Condition,
        *,
        guidance_scale: float,
        fake_guidance_scale: float,
        guidance_rescale: float = 0.0,
        with_logit: bool,
        with_jacobian: bool,
        with_logit_gradient: bool,
        use_fake: bool = True,
        record: bool = False,
        record_reference: bool = False,
        real: tuple[Tensor, Condition] | None = None,
    ) -> Answer:
        """One pass of each network. Gradients to x_t flow through the scores if `with_jacobian`, and through the logit
        if `with_logit_gradient`; what needs none runs without autograd. With `record` the fake score's pass also keeps
        the graph to its weights (`Answer.learned`), with `record_reference` that of its guidance's reference too; with
        `real`, diffused teacher samples and their condition, the discriminator is asked about them at the same t."""
        wanted = with_logit or (record and self.head is not None)
        names = list(self.head_cfg.features) if wanted else []
        of_fake = self.head_cfg.backbone == "fake"
        ask_fake = self.fake is not None and (use_fake or record)

        def ask_teacher() -> tuple[Tensor, dict[str, Tensor]]:
            with _grad(with_jacobian or (with_logit_gradient and not of_fake)):
                return self._ask_teacher(x_t, t, condition, guidance_scale, guidance_rescale, [] if of_fake else names)

        teacher = self.beside.start(ask_teacher)
        real_logit = None
        if real is not None:
            train = self.head_cfg.train_backbone
            real_logit = self.beside.start(lambda: self.logit(real[0], t, real[1], encoder_gradient=train))
        x0_fake = learned = reference = None
        if ask_fake:
            to_x_t = with_jacobian or (with_logit_gradient and of_fake)
            seen = x_t if to_x_t else x_t.detach()
            with _grad(to_x_t or record):
                x0_own, own = self.fake(seen, t, condition.fake_text, condition.fake_camera, names if of_fake else [])
            guided = use_fake and fake_guidance_scale != 1.0
            if guided or record_reference:
                with _grad(with_jacobian or record_reference):
                    reference = self.fake_reference(seen, t, condition)
            if use_fake:
                x0_fake = classifier_free(x0_own, reference, fake_guidance_scale) if guided else x0_own
                x0_fake = x0_fake if with_jacobian else x0_fake.detach()
        x0_teacher, features = teacher()
        if ask_fake:
            features = own if of_fake else features
            learned = Learned(x0_own, reference, features, real_logit) if record else None
        logit = None
        if with_logit and of_fake and not ask_fake:
            logit = self.logit(x_t, t, condition, encoder_gradient=with_logit_gradient)
        elif with_logit:
            logit = self.head(features)
        return Answer(x0_teacher, x0_fake, logit, learned)

    def _ask_teacher(self, x_t, t, condition, scale, rescale, names) -> tuple[Tensor, dict[str, Tensor]]:
        texts = [condition.text]
        if scale != 1.0 or condition.negatives is not None:
            texts.append(condition.uncond)
        if condition.negatives is not None:
            texts += condition.negatives.unbind(1)
        n, times = len(x_t), len(texts)
        with captured_features(self.teacher.unet, names) as features:
            views = None if condition.view is None else torch.cat([condition.view] * times)
            all_x0 = self.teacher.predict_x0(
                torch.cat([x_t] * times), torch.cat([t] * times), torch.cat(texts), class_labels=views
            )
        cond, *others = all_x0.chunk(times)
        x0 = cond
        if condition.negatives is not None:
            x0 = perpendicular_negative(cond, *others, condition.negative_weights, scale)
        elif others:
            x0 = classifier_free(cond, others[0], scale)
        if rescale:
            views = Groups(self.teacher.n_views)  # the spread is that of a sample, so of all views of a group
            x0 = views.split(rescale_guidance(views.fold(x0), views.fold(cond), rescale))
        return x0, {name: feature[:n] for name, feature in features.items()}

    def fake_reference(self, x_t, t, condition: Condition) -> Float[Tensor, "B C h w"]:
        """What the fake score's own guidance is measured against: the empty prompt's answer, or no camera's."""
        if self.fake.cfg.contrast == "camera":
            return self.fake(x_t, t, condition.fake_text, torch.zeros_like(condition.fake_camera))[0]
        return self.fake(x_t, t, condition.fake_uncond, condition.fake_camera)[0]

    def logit(
        self, x_t: Float[Tensor, "B C h w"], t: Int[Tensor, "B"], condition: Condition, encoder_gradient: bool
    ) -> Float[Tensor, "B"]:
        """The head alone, on an encoder-only pass; without `encoder_gradient` only the head sees a gradient."""
        names = list(self.head_cfg.features)
        with _grad(encoder_gradient):
            if self.head_cfg.backbone == "fake":
                features = self.fake.encode(x_t, t, condition.fake_text, condition.fake_camera, names)
            else:
                dtype = self.teacher.dtype
                told = {"encoder_hidden_states": condition.text.to(dtype)}
                if condition.view is not None:
                    told["class_labels"] = condition.view.to(dtype)
                features = run_encoder(self.teacher.unet, names, x_t.to(dtype), t, **told)
        return self.head(features)


def _base(teacher: Teacher, cfg: FakeScoreConfig) -> Teacher:
    """The model that the fake score starts from."""
    if cfg.base is None or cfg.base == teacher.name:
        return teacher
    base = Teacher.load(cfg.base, teacher.device, half_precision=teacher.dtype != torch.float32)
    for key in ("in_channels", "cross_attention_dim"):
        if base.unet.config[key] != teacher.unet.config[key]:
            raise ValueError(
                f"fake_score.base {cfg.base!r} has {key}={base.unet.config[key]}, the teacher {teacher.name!r} has "
                f"{teacher.unet.config[key]}; they must share latents and text embeddings"
            )
    return base


def _grad(enabled: bool):
    return nullcontext() if enabled else torch.no_grad()
