"""Samples: a teacher along its probability-flow ODE, a student in one step.

EDM networks (t = σ) take Heun's method; discrete chains take a library's fast solver over their own schedule. A network
here is anything called as `network(x [B, C, H, W], t [B], condition or None)` that answers x̂0 [B, C, H, W]. All
randomness comes from generators that the caller gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import VarianceExploding
from ..core.errors import choose

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class HeunSampler:
    """Heun's method along the ρ-schedule of noise levels, with optional churn (Karras et al. 2022, Algorithm 2).

    Attributes:
        steps: noise levels above 0; the last step to σ = 0 is an Euler step, so `nfe` = 2 · steps − 1.
        sigma_min, sigma_max, rho: the schedule's ends and its curvature.
        churn: S_churn; 0 is the deterministic ODE. It adds noise before a step, at most (√2 − 1) σ.
        churn_min, churn_max: noise is added only at levels in this range.
        churn_noise: S_noise, the standard deviation of the added noise relative to the exact one.
    """

    steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = float("inf")
    churn_noise: float = 1.0

    def __post_init__(self):
        if self.steps < 2:
            raise ValueError(f"steps={self.steps!r} must be at least 2")
        if self.churn < 0:
            raise ValueError(f"churn={self.churn!r} must not be negative")
        VarianceExploding(self.sigma_min, self.sigma_max, self.rho)

    @property
    def nfe(self) -> int:
        """Network evaluations of one sample."""
        return 2 * self.steps - 1

    def sigmas(self) -> Float[Tensor, "levels"]:
        """σ_0 = sigma_max > … > σ_{steps−1} = sigma_min, then 0; float64."""
        fractions = torch.linspace(1, 0, self.steps, dtype=torch.float64)
        levels = VarianceExploding(self.sigma_min, self.sigma_max, self.rho).at_fraction(fractions)
        return torch.cat([levels, levels.new_zeros(1)])

    @torch.no_grad()
    def __call__(
        self,
        network: Denoiser,
        noise: Float[Tensor, "B *shape"],
        class_labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B *shape"]:
        """Carry unit noise to samples; the state is kept in float64 where the device has it, as a sum of many steps.

        `generator` is needed for churn only, on the device of `noise`.
        """
        if self.churn and generator is None:
            raise ValueError(f"churn={self.churn} draws noise: give a generator")
        high = torch.float32 if noise.device.type == "mps" else torch.float64

        def slope(x: Tensor, sigma: float) -> Tensor:
            """dx/dσ = (x − x̂0) / σ."""
            level = torch.full((len(x),), sigma, dtype=noise.dtype, device=x.device)
            return (x - network(x.to(noise.dtype), level, class_labels).to(high)) / sigma

        x = noise.to(high) * self.sigma_max
        for now, after in pairwise(self.sigmas().tolist()):
            x, now = self._churned(x, now, generator)
            first = slope(x, now)
            ahead = x + (after - now) * first
            x = x + (after - now) * 0.5 * (first + slope(ahead, after)) if after else ahead
        return x.to(noise.dtype)

    def _churned(self, x: Tensor, sigma: float, generator: torch.Generator | None) -> tuple[Tensor, float]:
        """Raise σ to σ̂ = (1 + γ) σ by adding the noise between them; γ = min(S_churn / steps, √2 − 1)."""
        if not self.churn or not self.churn_min <= sigma <= self.churn_max:
            return x, sigma
        raised = sigma * (1 + min(self.churn / self.steps, 2**0.5 - 1))
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return x + (raised**2 - sigma**2) ** 0.5 * self.churn_noise * eps, raised


# name -> diffusers class and its options; all are deterministic given the starting noise.
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "timestep_spacing": "trailing"}),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "ddim": (
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing"},
    ),
}


def make_solver(scheduler_config: dict, name: str):
    """The named solver over a teacher's own noise schedule, for networks that answer in x̂0.

    Raises:
        ValueError: unknown solver, with the choices.
    """
    import diffusers

    kind, options = choose("solver", name, SOLVERS)
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    config = {key: scheduler_config[key] for key in known if key in scheduler_config}
    return getattr(diffusers, kind)(**config, prediction_type="sample", **options)


@torch.no_grad()
def solve_discrete(
    scheduler_config: dict,
    predict_x0: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, "n C h w"],
    *,
    steps: int,
    solver: str = "dpm++",
) -> Float[Tensor, "n C h w"]:
    """Carry unit noise at the last index to x_0. `predict_x0(x_t, t)` answers for the whole batch."""
    scheduler = make_solver(scheduler_config, solver)
    scheduler.set_timesteps(steps)
    x_t = noise
    for step in scheduler.timesteps:
        t = torch.full((len(noise),), int(step), device=noise.device)
        x_t = scheduler.step(predict_x0(x_t, t), step, x_t).prev_sample
    return x_t


@dataclass(frozen=True)
class Start:
    """Where the one-step generator g(z) = x̂0(scale · z; t) enters the process.

    Attributes:
        t: what the network takes: σ for an EDM network, an index for a discrete chain.
        scale: of the unit noise: σ again, or 1 where the chain preserves variance.
    """

    t: float | int
    scale: float = 1.0

    def __call__(self, network: Denoiser, noise: Float[Tensor, "B *shape"], condition=None) -> Tensor:
        """g(noise), differentiable."""
        dtype = torch.long if isinstance(self.t, int) else noise.dtype
        level = torch.full((len(noise),), self.t, dtype=dtype, device=noise.device)
        return network(self.scale * noise, level, condition)


def one_step(
    network: Denoiser, noise: Float[Tensor, "B *shape"], class_labels: Tensor | None = None, init_sigma: float = 2.5
) -> Float[Tensor, "B *shape"]:
    """The EDM student g(z) = D(init_sigma · z, init_sigma), differentiable."""
    return Start(float(init_sigma), init_sigma)(network, noise, class_labels)


def balanced_labels(count: int, classes: int) -> Int[Tensor, "count"]:
    """0, 1, …, classes − 1, 0, 1, …: every class as often as the others, up to one."""
    return torch.arange(count) % classes


def sample_batches(
    draw: Callable[[Tensor, Tensor | None], Tensor],
    count: int,
    shape: tuple[int, ...],
    *,
    batch: int,
    generator: torch.Generator,
    classes: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Float[Tensor, "B *shape"], Int[Tensor, "B"] | None]]:
    """`count` samples in batches, on the CPU, each with its requested class (None where `classes` is 0).

    Args:
        draw: (unit noise [B, *shape], one-hot class labels [B, classes] or None) -> samples; e.g.
            `partial(HeunSampler(), network)` or `partial(one_step, network, init_sigma=2.5)`.
        generator: on the CPU, so that every device starts from the same noise.
        classes: number of classes; they are requested in turn.
    """
    labels = balanced_labels(count, classes) if classes else None
    for start in range(0, count, batch):
        size = min(batch, count - start)
        noise = torch.randn(size, *shape, generator=generator).to(device)
        requested = None if labels is None else labels[start : start + size]
        one_hot = None if requested is None else torch.nn.functional.one_hot(requested, classes).to(noise)
        with torch.no_grad():
            yield draw(noise, one_hot).cpu(), requested
