"""Editing by a pair of prompts: delta denoising score (Hertz et al. 2023, arXiv 2304.07090), and SDS beside it.

    z ← z − lr · w(t) [ ε̂(z_t, y, t) − ε̂(ẑ_t, ŷ, t) ]        z_t = α z + σ ε,  ẑ_t = α ẑ + σ ε: the same ε, the same t

ẑ, ŷ are the picture as it is and its prompt, z, y the edited one and the prompt of what it is to become. What the
teacher would change about the untouched picture anyway is in both terms and drops out; SDS has ε in the second one's
place, and it stays in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..core import Method, TimeSampler, get_method, objective, reference_score
from ..core.errors import UserError, choose, require_shape
from ..core.ranges import ascending, check, number, or_null, whole
from ..teachers.contract import Condition, DiffusionTeacher
from ..teachers.randomness import generator

SPACES = ("latents", "pixels")
#: Rows of the methods table that edit a picture: those whose score s_p needs no training.
EDITORS = ("dds", "sds")

#: What is left of the rate at the end: the noise of the last steps stays in the picture.
LAST_RATE = 0.1

RANGES = {
    "steps": whole(least=1),
    "lr": number(above=0),
    "guidance_scale": or_null(number(least=0)),
    "noise": ascending(number(least=0, most=1)),
}


@dataclass(frozen=True)
class EditConfig:
    """How to edit.

    Args:
        method: of `EDITORS`.
        steps: of gradient descent; each asks the teacher twice (dds) or once (sds) about every picture, twice as often
            with guidance.
        lr: of plain gradient descent on what is edited, falling in a straight line to a tenth. (Adam would let what is
            not to change wander as far as what is.)
        guidance_scale: classifier-free, in both terms; None: the row's. The difference of the terms rests at
            z − ẑ = x̂0(z_t) − x̂0(ẑ_t), guided: about as many times the change of colour as the scale says.
        noise: least and most noise, as fractions of the process. Below a half both answers are the pictures that were
            put in, so nothing holds z, and noise and bleaching add up; above nine tenths the object is not seen.
        weighting: row of the core's weightings; None: the row's.
        space: edit the teacher's latents, or pixels through its encoder.
    """

    method: str = "dds"
    steps: int = 40
    lr: float = 0.4
    guidance_scale: float | None = None
    noise: tuple[float, float] = (0.5, 0.9)
    weighting: str | None = None
    space: str = "latents"

    def __post_init__(self) -> None:
        choose("method", self.method, dict.fromkeys(EDITORS))
        choose("space", self.space, dict.fromkeys(SPACES))
        check(RANGES, self)
        if self.noise[0] == self.noise[1]:
            raise ValueError(f"noise={list(self.noise)} must be a range")
        self.row  # noqa: B018  an unknown weighting is found now

    @property
    def row(self) -> Method:
        """Of the methods table, with what is changed here."""
        changes = {}
        if self.weighting is not None:
            changes["weighting"] = self.weighting
        if self.guidance_scale is not None:
            changes |= {"guidance_teacher": self.guidance_scale, "guidance_fake": self.guidance_scale}
        return get_method(self.method, **changes)


@dataclass
class Prompts:
    """What the teacher is told [B, ...] each: of the picture as it is, of what it is to become, and nothing."""

    source: Condition
    target: Condition
    null: Condition


@dataclass
class Edited:
    """pictures [B, 3, H, W] in 0..1; curve: mean norm of the gradient per latent element at each step; calls: forward
    passes of the teacher's network per picture."""

    pictures: Tensor
    curve: list[float] = field(default_factory=list)
    calls: int = 0


def delta_gradient(
    teacher: DiffusionTeacher, method: Method, z: Tensor, reference: Tensor, eps: Tensor, t: Tensor, prompts: Prompts
) -> Tensor:
    """The method's gradient in z [B, C, h, w]: one call of the core's objective, networks frozen.

    Args:
        z, reference: [B, C, h, w] edited and untouched. eps: [B, C, h, w], t: [B], shared by both.
    """
    alpha, sigma = teacher.process.alpha_sigma(t)
    with torch.no_grad():
        x_t = teacher.process.diffuse(z, eps, t)
        x0_teacher = teacher.guided(x_t, t, prompts.target, prompts.null, method.guidance.teacher)
        x0_fake = z.detach()  # the conditional score: ε itself
        if method.fake_score == "teacher_reference":
            reference_t = teacher.process.diffuse(reference, eps, t)
            answer = teacher.guided(reference_t, t, prompts.source, prompts.null, method.guidance.fake)
            x0_fake = reference_score(z, reference, answer)
    leaf = z.detach().requires_grad_(True)
    out = objective(
        method.objective, x0=leaf, x0_teacher=x0_teacher, x0_fake=x0_fake, alpha=alpha, sigma=sigma
    )  # fmt: skip
    return torch.autograd.grad(out.loss.sum(), leaf)[0]


def require_single_views(teacher: DiffusionTeacher) -> None:
    """Raises UserError: a teacher that draws several views of one object at once knows no single pictures."""
    count = getattr(teacher, "n_views", 1)
    if count > 1:
        raise UserError(f"teacher {teacher.name!r} draws {count} views at once; give one of single pictures")


def edit(
    teacher: DiffusionTeacher,
    pictures: Float[Tensor, "B 3 H W"],
    prompts: Prompts,
    config: EditConfig,
    seeds: Sequence[int],
    mask: Float[Tensor, "B 1 H W"] | None = None,
    on_step: Callable[[int, float], None] = lambda step, size: None,
) -> Edited:
    """Pictures changed from what one prompt says to what the other says.

    Args:
        pictures: in 0..1, of the teacher's size. seeds: one per picture; a picture's result does not depend on its
            neighbours in the batch.
        mask: 1 where the picture may change, 0 where it must stay as it is; None: anywhere.
        on_step: is given the step, from 1 on, and the size of its gradient; what it raises ends the work.

    Raises:
        UserError: a teacher without prompts, or of several views at once.
    """
    require_single_views(teacher)
    method, count = config.row, len(pictures)
    if prompts.target is None or prompts.source is None or not teacher.guidable:
        raise UserError(f"teacher {teacher.name!r} reads no prompts; editing needs a Stable-Diffusion-format teacher")
    if mask is not None:
        require_shape("mask", mask, (count, 1, *pictures.shape[2:]))
    reference = encoded(teacher, pictures, seeds)
    in_pixels = config.space == "pixels"
    # a latent may change where any of its pixels may
    part = None if mask is None else mask if in_pixels else F.adaptive_max_pool2d(mask, reference.shape[-2:])
    x = (pictures if in_pixels else reference).clone()
    sampler, curve = TimeSampler("uniform_t", *config.noise), []
    for step in range(config.steps):
        eps, t = _drawn(teacher, sampler, reference.shape[1:], seeds, step, x.device)
        leaf = x.requires_grad_(in_pixels)
        z = encoded(teacher, leaf, seeds) if in_pixels else leaf
        grad = delta_gradient(teacher, method, z, reference, eps, t, prompts)
        size = float(grad.square().mean().sqrt())
        if in_pixels:
            (grad,) = torch.autograd.grad(z, leaf, grad)
        rate = config.lr * (1 - (1 - LAST_RATE) * step / config.steps)
        x = x.detach() - rate * (grad if part is None else part * grad)
        if in_pixels:
            x = x.clamp(0, 1)
        curve.append(size)
        on_step(step + 1, size)
    edited = x if in_pixels else _redrawn(teacher, pictures, reference, x)
    if mask is not None:
        edited = mask * edited + (1 - mask) * pictures
    answers = 2 if method.fake_score == "teacher_reference" else 1
    guided = 2 if method.guidance.teacher != 1.0 else 1
    return Edited(edited, curve, config.steps * answers * guided)


@torch.no_grad()
def _redrawn(teacher: DiffusionTeacher, pictures: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The picture plus what changed between two decoded latents: details that the decoder loses stay."""
    return (pictures + teacher.decode(after) - teacher.decode(before)).clamp(0, 1)


def encoded(teacher: DiffusionTeacher, pictures: Tensor, seeds: Sequence[int]) -> Tensor:
    """Pictures in 0..1 as samples of the teacher, each with an encoder's draw of its own seed."""
    return torch.cat(
        [
            teacher.encode(picture[None], generator(seed, 0, "encoder", device=pictures.device))
            for picture, seed in zip(pictures, seeds)
        ]
    )


def _drawn(teacher, sampler: TimeSampler, shape, seeds: Sequence[int], step: int, device) -> tuple[Tensor, Tensor]:
    """ε [B, ...] and t [B]: each picture's depend on its seed and the step alone."""
    eps, t = [], []
    for seed in seeds:
        source = generator(seed, step, "edit", device=device)
        t.append(sampler.sample(teacher.process, 1, generator=source, device=device).t)
        eps.append(torch.randn((1, *shape), generator=source, device=device))
    return torch.cat(eps), torch.cat(t)
