"""Inverse problems y = A x + σ_y n with a frozen teacher as the prior.

RED-diff (Mardani et al. 2023, arXiv 2305.04391, Algorithm 1) pulls one sample μ to the measurement and to the teacher,

    μ ← Adam step on  ½ mean (y − A(D(μ)))²  +  λ_t mean SG( ε̂(x_t, t) − ε )ᵀ μ,    λ_t = λ σ_t/α_t,  t from T to 0,

with x_t = α μ + σ ε: the row `red_diff` of the methods table and its data term. No network is differentiated but the
decoder D of a latent teacher (of pixels: identity). Both terms are means, so that one λ serves measurements of every
size. With a learned fake score in ε's place (`fake_score: learned`) several particles stand for the posterior: reverse
KL to it is the teacher's KL plus the data term, which holds for no other divergence, so there is none to choose.

Beside it: DPS (Chung et al. 2023, arXiv 2209.14687), which samples and differentiates the network at every step, and
the pseudo-inverse A⁺y, which asks no network at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Method, data_fidelity_loss, denoising_loss, get_method, objective, per_sample
from ..core.errors import UserError, choose
from ..core.operators import Operator
from ..core.ranges import ascending, check, number, or_null, whole
from ..teachers.contract import Condition, DiffusionTeacher
from ..teachers.randomness import generator
from .delta import LAST_RATE, encoded, require_single_views

FAKE_SCORES = ("conditional", "learned")

RANGES = {
    "steps": whole(least=2),
    "lr": number(above=0),
    "prior": or_null(number(least=0)),
    "noise": or_null(ascending(number(least=0, most=1))),
    "sigma_y": number(least=0),
    "guidance_scale": number(least=0),
    "strength": number(above=0),
    "fake_lr": number(above=0),
}


@dataclass(frozen=True)
class RestoreConfig:
    """How to restore.

    Args:
        method: row of `RESTORERS`.
        steps: noise levels, one network call each (two with guidance).
        noise: least and most noise, as fractions of the process; None: the method's row of `NOISE`.
        sigma_y: standard deviation of the measurement's noise; pictures are in −1..1.
        guidance_scale: classifier-free, for teachers that are told a prompt.
        lr: of Adam (red_diff), falling in a straight line to a tenth.
        prior: λ (red_diff); None: `PRIOR` + `PRIOR_PER_VARIANCE` · σ_y².
        fake_score: conditional (red_diff) or learned, then `fake_lr` trains it on all pictures of the batch.
        strength: ζ (dps), in lengths of the gradient of ‖y − A(x̂0)‖.
    """

    method: str = "red_diff"
    steps: int = 80
    noise: tuple[float, float] | None = None
    sigma_y: float = 0.0
    guidance_scale: float = 1.0
    lr: float = 0.2
    prior: float | None = None
    fake_score: str = "conditional"
    fake_lr: float = 1e-3
    strength: float = 1.0

    def __post_init__(self) -> None:
        choose("method", self.method, RESTORERS)
        choose("fake_score", self.fake_score, dict.fromkeys(FAKE_SCORES))
        check(RANGES, self)
        if self.noise is not None and self.noise[0] == self.noise[1]:
            raise ValueError(f"noise={list(self.noise)} must be a range")
        if self.fake_score == "learned" and self.method != "red_diff":
            raise ValueError(f"fake_score='learned' belongs to method='red_diff', got {self.method!r}")

    @property
    def prior_weight(self) -> float:
        """λ."""
        return PRIOR + PRIOR_PER_VARIANCE * self.sigma_y**2 if self.prior is None else self.prior


#: λ where nothing else is said, without noise and what the noise's variance adds.
PRIOR, PRIOR_PER_VARIANCE = 0.025, 10.0

#: Noise levels where nothing else is said: a sampler begins with noise alone, RED-diff with A⁺y, which is nearer.
NOISE = {"red_diff": (0.1, 0.6), "dps": (0.02, 0.98), "pseudo_inverse": (0.02, 0.98)}


@dataclass
class Told:
    """What the teacher is told [B, ...]: a condition (None: nothing can be told), and the unconditional branch."""

    condition: Condition = None
    null: Condition = None

    def first(self, count: int) -> Told:
        """Of the first `count` pictures."""
        return Told(*(part if part is None else part[:count] for part in (self.condition, self.null)))


@dataclass
class Restored:
    """pictures [B, 3, H, W] in 0..1 (or as many channels as the teacher's). residual: root mean square of y − A(x) at
    each step, pictures in −1..1. calls: forward passes of the teacher's network per picture; backward: of these, how
    many were differentiated."""

    pictures: Tensor
    residual: list[float] = field(default_factory=list)
    calls: int = 0
    backward: int = 0


@dataclass
class Problem:
    """Everything a method looks at. seeds: one per measurement; what is drawn depends on them and on nothing else."""

    teacher: DiffusionTeacher
    measurement: Tensor
    operator: Operator
    told: Told
    config: RestoreConfig
    seeds: Sequence[int]
    on_step: Callable[[int, float], None]

    def signal(self, x0: Tensor) -> Tensor:
        """Samples as pictures in −1..1, what operators act on."""
        return 2 * self.teacher.draw(x0) - 1

    def start(self) -> Tensor:
        """A⁺y as a sample [B, C, h, w]."""
        picture = self.operator.pseudo_inverse(self.measurement) / 2 + 0.5
        return encoded(self.teacher, picture.clamp(0, 1), self.seeds).detach()

    def noise(self, step: int, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        """Unit normal [B, *shape]."""
        device = self.measurement.device
        draws = [generator(seed, step, purpose, device=device) for seed in self.seeds]
        return torch.cat([torch.randn((1, *shape), generator=draw, device=device) for draw in draws])

    @property
    def range(self) -> tuple[float, float]:
        """Least and most noise."""
        return self.config.noise or NOISE[self.config.method]

    def levels(self) -> Tensor:
        """`t` of every step, the most noise first, equally spaced."""
        low, high = self.range
        fractions = torch.linspace(high, low, self.config.steps, device=self.measurement.device)
        return self.teacher.process.at_fraction(fractions)

    def x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The teacher's x̂0, guided."""
        told = self.told
        return self.teacher.guided(x_t, t, told.condition, told.null, self.config.guidance_scale)

    @property
    def calls_per_step(self) -> int:
        """Forward passes."""
        return 1 if self.config.guidance_scale == 1.0 else 2


def restore(
    teacher: DiffusionTeacher,
    measurement: Float[Tensor, "B ..."],
    operator: Operator,
    told: Told,
    config: RestoreConfig,
    seeds: Sequence[int],
    on_step: Callable[[int, float], None] = lambda step, residual: None,
) -> Restored:
    """Pictures that a measurement may have come from.

    Args:
        measurement: y, of pictures in −1..1. seeds: one per measurement.
        on_step: is given the step, from 1 on, and the residual; what it raises ends the work.

    Raises:
        UserError: guidance with a teacher that has no unconditional branch; a teacher of several views at once.
    """
    require_single_views(teacher)
    if config.guidance_scale != 1.0 and not teacher.guidable:
        raise UserError(f"guidance_scale={config.guidance_scale}: teacher {teacher.name!r} has no unconditional branch")
    problem = Problem(teacher, measurement, operator, told, config, seeds, on_step)
    return RESTORERS[config.method](problem)


# --- RED-diff ---------------------------------------------------------------------------------------------------------


def red_diff_loss(
    method: Method,
    prior: float,
    mu: Tensor,
    picture: Tensor,
    measurement: Tensor,
    operator: Operator,
    x0_teacher: Tensor,
    x0_fake: Tensor,
    alpha: Tensor,
    sigma: Tensor,
) -> tuple[Tensor, Tensor]:
    """Algorithm 1's loss [B] by the core's objective and data term, and the root mean square residual [B].

    Args:
        mu: [B, ...] differentiable; picture: what it looks like, in −1..1. prior: λ.
    """
    out = objective(
        method.objective, x0=mu, x0_teacher=x0_teacher, x0_fake=x0_fake, alpha=alpha, sigma=sigma
    )  # fmt: skip
    square = data_fidelity_loss(picture, measurement, operator) / measurement[0].numel()
    weight = method.auxiliary["data_fidelity"]
    return 0.5 * weight * square + prior * out.loss / mu[0].numel(), square.detach().sqrt()


def _red_diff(problem: Problem) -> Restored:
    config, teacher = problem.config, problem.teacher
    method = get_method("red_diff")
    fake = None
    if config.fake_score == "learned":
        method = method.replace(fake_score="lora" if teacher.guidable else "full")
        fake = _FakeScore(problem, method.fake_score)
    mu = problem.start().requires_grad_(True)
    optimiser = torch.optim.Adam([mu], config.lr, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, LAST_RATE, config.steps)
    curve = []
    for step, level in enumerate(problem.levels()):
        t = level.expand(len(mu))
        alpha, sigma = teacher.process.alpha_sigma(t)
        with torch.no_grad():
            x_t = teacher.process.diffuse(mu, problem.noise(step, mu.shape[1:]), t)
            x0_teacher = problem.x0(x_t, t)
            x0_fake = mu.detach() if fake is None else fake.x0(x_t, t)  # the conditional score: ε itself
        loss, residual = red_diff_loss(
            method, config.prior_weight, mu, problem.signal(mu), problem.measurement, problem.operator, x0_teacher,
            x0_fake, alpha, sigma,
        )  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        # Adam sees every sample alike, whatever its size; the factor is there for its ε alone
        (loss.sum() * mu[0].numel()).backward()
        optimiser.step()
        falling.step()
        if fake is not None:
            fake.learn(mu.detach(), step)
        curve.append(float(residual.mean()))
        problem.on_step(step + 1, curve[-1])
    return Restored(teacher.decode(mu.detach()), curve, config.steps * problem.calls_per_step)


class _FakeScore:
    """The particles' own score, learned along: one denoising step on them per step of theirs."""

    def __init__(self, problem: Problem, kind: str) -> None:
        self.problem, self.network = problem, problem.teacher.learner(kind)
        learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(learned, problem.config.fake_lr)

    @torch.no_grad()
    def x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.network.denoise(x_t, t, self.problem.told.condition)[0]

    def learn(self, particles: Tensor, step: int) -> None:
        process, draw = self.problem.teacher.process, generator(self.problem.seeds[0], step, "fake levels")
        low, high = self.problem.range
        fraction = low + (high - low) * torch.rand(len(particles), generator=draw)
        t = process.at_fraction(fraction.to(particles.device))
        x_t = process.diffuse(particles, self.problem.noise(step, particles.shape[1:], "fake noise"), t)
        x0 = self.network.denoise(x_t, t, self.problem.told.condition)[0]
        loss = denoising_loss(x0, particles, *process.alpha_sigma(t), **self.problem.teacher.denoising).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


# --- baselines --------------------------------------------------------------------------------------------------------


def ancestral_step(x_t: Tensor, x0: Tensor, now: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], eps: Tensor):
    """A draw of x_s ~ q(x_s | x_t, x0), s < t, from (α, σ) [B] of t (`now`) and of s (`after`).

    Mean (a σ_s²/σ_t²) x_t + (α_s σ_{t|s}²/σ_t²) x0 and variance σ_{t|s}² σ_s²/σ_t², with a = α_t/α_s and
    σ_{t|s}² = σ_t² − a² σ_s².
    """
    alpha_t, sigma_t, alpha_s, sigma_s = (per_sample(part, x_t) for part in (*now, *after))
    ratio = alpha_t / alpha_s
    between = (sigma_t.square() - (ratio * sigma_s).square()).clamp_min(0) / sigma_t.square()
    mean = ratio * (sigma_s / sigma_t).square() * x_t + alpha_s * between * x0
    return mean + between.sqrt() * sigma_s * eps


def _dps(problem: Problem) -> Restored:
    """x_s ← ancestral step from x̂0(x_t), minus ζ ∇_{x_t} ‖y − A(D(x̂0(x_t)))‖.

    The gradient's unit is α² + σ²: variance-exploding processes take the steps of variance-preserving ones.
    """
    config, process = problem.config, problem.teacher.process
    levels = problem.levels()
    ends = [process.alpha_sigma(level.reshape(1)) for level in levels]
    clean = (torch.ones_like(ends[0][0]), torch.zeros_like(ends[0][1]))
    shape, count = problem.teacher.shape, len(problem.measurement)
    alpha, sigma = ends[0]
    x = (alpha.square() + sigma.square()).sqrt() * problem.noise(0, shape, "start")
    curve = []
    for step, (level, (now, after)) in enumerate(zip(levels, pairwise([*ends, clean]))):
        leaf = x.detach().requires_grad_(True)
        x0 = problem.x0(leaf, level.expand(count))
        gap = (problem.measurement - problem.operator(problem.signal(x0))).flatten(1)
        length = gap.square().sum(1).sqrt()
        (grad,) = torch.autograd.grad(length.sum(), leaf)
        rows = [tuple(part.expand(count) for part in end) for end in (now, after)]
        x = ancestral_step(leaf.detach(), x0.detach(), *rows, problem.noise(step, shape))
        x = x - config.strength * (now[0].square() + now[1].square()) * grad
        curve.append(float((length.detach() / gap.shape[1] ** 0.5).mean()))
        problem.on_step(step + 1, curve[-1])
    calls = config.steps * problem.calls_per_step
    return Restored(problem.teacher.decode(x), curve, calls, calls)


def _pseudo_inverse(problem: Problem) -> Restored:
    picture = problem.operator.pseudo_inverse(problem.measurement)
    gap = problem.measurement - problem.operator.forward(picture)
    return Restored((picture / 2 + 0.5).clamp(0, 1), [float(gap.square().mean().sqrt())])


#: name -> what solves a `Problem`.
RESTORERS: dict[str, Callable[[Problem], Restored]] = {
    "red_diff": _red_diff,
    "dps": _dps,
    "pseudo_inverse": _pseudo_inverse,
}
