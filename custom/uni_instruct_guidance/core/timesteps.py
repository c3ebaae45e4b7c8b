"""Which noise levels a loss visits, and with what density in log-SNR.

Every sampler is a density over λ = log α²/σ² between two fractions of a process, so the same row serves discrete,
variance-preserving and variance-exploding processes. The density comes back with the sample: importance
weighting by it turns any sampler into the integral of Theorem 3.1 (`theory` in `weighting.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .errors import choose
from .process import NoiseProcess


@dataclass(frozen=True)
class Schedule:
    """A number that may change with the training step: linear between knots, held outside.

    `parse` takes a number, `[start, end, end_step]`, or `[start_step, start, end, end_step]` with further
    (value, step) pairs, as threestudio writes its schedules.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def parse(cls, spec: float | Sequence[float] | Schedule) -> Schedule:
        if isinstance(spec, Schedule):
            return spec
        if isinstance(spec, (int, float)):
            return cls((0,), (float(spec),))
        knots = list(spec)
        if len(knots) == 3:
            knots = [0, *knots]
        if len(knots) < 4 or len(knots) % 2:
            raise ValueError(
                f"schedule={list(spec)!r} must be a number, [start, end, end_step] or "
                "[start_step, start, end, end_step, value, step, ...]"
            )
        steps = (int(knots[0]), *(int(step) for step in knots[3::2]))
        values = (float(knots[1]), *(float(value) for value in knots[2::2]))
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"schedule={list(spec)!r} must have increasing steps, got {list(steps)}")
        return cls(steps, values)

    def __call__(self, step: int) -> float:
        """The value at a training step."""
        if step <= self.steps[0]:
            return self.values[0]
        for (s0, s1), (v0, v1) in zip(pairwise(self.steps), pairwise(self.values)):
            if step < s1:
                return v0 + (v1 - v0) * (step - s0) / (s1 - s0)
        return self.values[-1]


@dataclass(frozen=True)
class LogSnrLaw:
    """One sampler. Both functions take (…, process, low, high, config) with λ kept in [low, high].

    Attributes:
        quantile: v in [0, 1] [B] ↦ λ [B], the inverse distribution function.
        density: λ [B] ↦ density up to a constant.
    """

    quantile: Callable[..., Tensor]
    density: Callable[..., Tensor]


def _uniform_log_snr(v, process, low, high, cfg):
    return low + (high - low) * v


def _edm_rho(v, process, low, high, cfg):
    """σ^(1/ρ) uniform, σ = e^(−λ/2)."""
    root_low, root_high = torch.exp(-high / (2 * cfg.rho)), torch.exp(-low / (2 * cfg.rho))
    return -2 * cfg.rho * torch.log(root_low + (root_high - root_low) * v)


def _log_normal(v, process, low, high, cfg):
    """log σ ~ N(p_mean, p_std²) cut to the range."""
    cdf_low, cdf_high = (torch.special.ndtr((edge / -2 - cfg.p_mean) / cfg.p_std) for edge in (high, low))
    log_sigma = cfg.p_mean + cfg.p_std * torch.special.ndtri(cdf_low + (cdf_high - cdf_low) * v)
    return (-2 * log_sigma).clamp(low, high)


def _uniform_t(v, process, low, high, cfg):
    least, most = (process.fraction(process.at_log_snr(edge)) for edge in (high, low))
    return process.log_snr(process.at_fraction(least + (most - least) * v))


def _uniform_t_density(log_snr, process, low, high, cfg):
    """p(λ) = |dfraction/dλ|."""
    t = process.at_log_snr(log_snr)
    return 1 / (process.log_snr_rate(t) * process.fraction_rate(t))


SAMPLERS: dict[str, LogSnrLaw] = {
    "uniform_t": LogSnrLaw(_uniform_t, _uniform_t_density),
    "uniform_log_snr": LogSnrLaw(_uniform_log_snr, lambda lam, process, low, high, cfg: torch.ones_like(lam)),
    "edm_rho": LogSnrLaw(_edm_rho, lambda lam, process, low, high, cfg: torch.exp(-lam / (2 * cfg.rho))),
    "log_normal": LogSnrLaw(
        _log_normal,
        lambda lam, process, low, high, cfg: torch.exp(-0.5 * ((lam / -2 - cfg.p_mean) / cfg.p_std) ** 2),
    ),
}


@dataclass(frozen=True)
class TimeSample:
    """Noise levels of one batch, each [B].

    Attributes:
        t: what the network takes (index, time or σ).
        alpha, sigma: of the process at t.
        log_snr_density: probability density in λ with which this level was drawn.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    log_snr_density: Tensor


@dataclass(frozen=True)
class TimeSampler:
    """Draws noise levels between two fractions of the process, both schedules over training steps.

    Args:
        name: row of `SAMPLERS`.
        min_fraction, max_fraction: in [0, 1]; numbers or schedules, e.g. `[0.98, 0.5, 5000]` anneals.
        rho: of `edm_rho`. p_mean, p_std: of `log_normal` (log σ/α).
    """

    name: str = "uniform_t"
    min_fraction: float | Sequence[float] = 0.02
    max_fraction: float | Sequence[float] = 0.98
    rho: float = 7.0
    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self):
        choose("sampler", self.name, SAMPLERS)
        for argument in ("min_fraction", "max_fraction"):
            values = Schedule.parse(getattr(self, argument)).values
            if not all(0 <= value <= 1 for value in values):
                raise ValueError(f"{argument}={getattr(self, argument)!r} must stay in [0, 1]")

    def range(self, step: int) -> tuple[float, float]:
        """(min, max) fraction at a training step."""
        low, high = Schedule.parse(self.min_fraction)(step), Schedule.parse(self.max_fraction)(step)
        if not low < high:
            raise ValueError(f"min_fraction={low} must be below max_fraction={high} (step {step})")
        return low, high

    def sample(
        self, process: NoiseProcess, batch: int, step: int = 0, generator: torch.Generator | None = None, device=None
    ) -> TimeSample:
        """`batch` noise levels at a training step, on `device` (a discrete process draws where its tables are)."""
        draw = self._draw_discrete if process.discrete else self._draw_continuous
        t, density = draw(process, batch, *self.range(step), generator, device)
        return TimeSample(t, *process.alpha_sigma(t), density)

    def _draw_continuous(self, process, batch, low_fraction, high_fraction, generator, device):
        law = SAMPLERS[self.name]
        ends = process.at_fraction(torch.tensor([high_fraction, low_fraction], device=device))
        low, high = process.log_snr(ends)
        log_snr = law.quantile(torch.rand(batch, generator=generator, device=device), process, low, high, self)
        # The normaliser ∫ density dλ by the trapezoid rule on a fine grid.
        grid = torch.linspace(0, 1, 2049, device=device, dtype=torch.float64) * (high - low) + low
        mass = torch.trapezoid(law.density(grid, process, low.double(), high.double(), self), grid)
        density = law.density(log_snr, process, low, high, self) / mass.to(log_snr.dtype)
        return process.at_log_snr(log_snr), density

    def _draw_discrete(self, process, batch, low_fraction, high_fraction, generator, device):
        """Index i with probability ∝ density(λ_i) Δλ_i: exact importance weights for the sum over indices."""
        law, device = SAMPLERS[self.name], process.device
        first = math.ceil(low_fraction * process.steps)
        last = min(max(int(high_fraction * process.steps), first), process.steps - 1)
        t = torch.arange(first, last + 1, device=device)
        log_snr, width = process.log_snr(t), process.log_snr_rate(t)
        mass = law.density(log_snr, process, log_snr[-1], log_snr[0], self) * width
        chosen = torch.multinomial(mass, batch, replacement=True, generator=generator)
        return t[chosen], (mass / mass.sum() / width)[chosen]
