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
class LevelSlopes:
    """How process and sampler change with λ at each level of a batch, [B] each; what the gradient by parts needs.

    Attributes:
        log_alpha: d log α/dλ (d log σ/dλ is ½ less).
        log_density: d log p/dλ of the sampler's density.
        end: +1 for a sample at λ_max, −1 at λ_min (boundary terms), 0 inside.
    """

    log_alpha: Tensor
    log_density: Tensor
    end: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> LevelSlopes:
        """`change` applied to every tensor: a slice, another device, another precision."""
        return LevelSlopes(change(self.log_alpha), change(self.log_density), change(self.end))


@dataclass(frozen=True)
class TimeSample:
    """Noise levels of one batch, each [B].

    Attributes:
        t: what the network takes (index, time or σ).
        alpha, sigma: of the process at t.
        log_snr_density: probability density in λ with which this level was drawn; at an end, the density inside there.
        slopes: where they were asked for.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    log_snr_density: Tensor
    slopes: LevelSlopes | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> TimeSample:
        """`change` applied to every tensor: a slice, another device."""
        slopes = None if self.slopes is None else self.slopes.map(change)
        return TimeSample(change(self.t), change(self.alpha), change(self.sigma), change(self.log_snr_density), slopes)


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
        self,
        process: NoiseProcess,
        batch: int,
        step: int = 0,
        generator: torch.Generator | None = None,
        device=None,
        boundary: float | None = None,
    ) -> TimeSample:
        """`batch` noise levels at a training step, on `device` (a discrete process draws where its tables are).

        With `boundary` (`ObjectiveConfig.boundary_share`) the slopes come along, and each sample is with that
        probability at an end of the range, at either of them alike.
        """
        levels = self._discrete if process.discrete else self._continuous
        device = process.device if process.discrete else device
        end = torch.zeros(batch, device=device)
        if boundary:
            u = torch.rand(batch, generator=generator, device=device)
            end = (u < boundary / 2).float() - ((u >= boundary / 2) & (u < boundary)).float()
        return levels(process, *self.range(step), batch, end, generator, device, boundary is not None)

    def grid(self, process: NoiseProcess, count: int = 513) -> TimeSample:
        """Levels with slopes that stand for everything the sampler ever visits, λ descending, in float64 [N]."""
        low = min(Schedule.parse(self.min_fraction).values)
        high = max(Schedule.parse(self.max_fraction).values)
        if process.discrete:
            first, last = self._indices(process, low, high)
            table = self._table(process, first, last)
            chosen = torch.arange(first, last + 1, device=process.device)
            return self._at_indices(process, table, chosen, torch.zeros(len(chosen), device=process.device), True)
        ends = process.log_snr(process.at_fraction(torch.tensor([low, high], dtype=torch.float64)))
        log_snr = torch.linspace(*ends.tolist(), count, dtype=torch.float64)
        return self._at_log_snr(process, log_snr, ends[1], ends[0], torch.zeros_like(log_snr), True)

    # --- continuous processes -----------------------------------------------------------------------------------------

    def _continuous(self, process, low_fraction, high_fraction, batch, end, generator, device, slopes) -> TimeSample:
        ends = process.at_fraction(torch.tensor([high_fraction, low_fraction], device=device))
        low, high = process.log_snr(ends)
        v = torch.rand(batch, generator=generator, device=device)
        log_snr = SAMPLERS[self.name].quantile(v, process, low, high, self)
        log_snr = torch.where(end > 0, high, torch.where(end < 0, low, log_snr))
        return self._at_log_snr(process, log_snr, low, high, end, slopes)

    def _at_log_snr(self, process, log_snr, low, high, end, slopes) -> TimeSample:
        law, t = SAMPLERS[self.name], process.at_log_snr(log_snr)
        # The normaliser ∫ density dλ by the trapezoid rule on a fine grid.
        grid = torch.linspace(0, 1, 2049, device=log_snr.device, dtype=torch.float64) * (high - low) + low
        mass = torch.trapezoid(law.density(grid, process, low.double(), high.double(), self), grid)
        density = law.density(log_snr, process, low, high, self) / mass.to(log_snr.dtype)
        found = None
        if slopes:
            at = log_snr.detach().double().requires_grad_()
            with torch.enable_grad():
                log_density = law.density(at, process, low.double(), high.double(), self).log().sum()
            slope = torch.zeros_like(at)
            if log_density.requires_grad:
                (slope,) = torch.autograd.grad(log_density, at)
            found = LevelSlopes(process.log_alpha_slope(t), slope.to(log_snr.dtype), end)
        return TimeSample(t, *process.alpha_sigma(t), density, found)

    # --- discrete processes -------------------------------------------------------------------------------------------

    def _indices(self, process, low_fraction: float, high_fraction: float) -> tuple[int, int]:
        first = math.ceil(low_fraction * process.steps)
        return first, min(max(int(high_fraction * process.steps), first), process.steps - 1)

    def _table(self, process, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Mass and density in λ of every index; the masses of first … last sum to one."""
        t = torch.arange(process.steps, device=process.device)
        log_snr, width = process.log_snr(t), process.log_snr_rate(t)
        mass = SAMPLERS[self.name].density(log_snr, process, log_snr[last], log_snr[first], self) * width
        mass = mass / mass[first : last + 1].sum()
        return mass, mass / width

    def _discrete(self, process, low_fraction, high_fraction, batch, end, generator, device, slopes) -> TimeSample:
        """Index i with probability ∝ density(λ_i) Δλ_i: exact importance weights for the sum over indices."""
        first, last = self._indices(process, low_fraction, high_fraction)
        table = self._table(process, first, last)
        drawn = torch.multinomial(table[0][first : last + 1], batch, replacement=True, generator=generator)
        chosen = first + drawn
        if slopes and end.any():
            # The sum over indices reaches to half-way beyond its last one: the mean of both neighbours of that edge.
            beyond = torch.randint(2, (batch,), generator=generator, device=device)
            least, most = (first - beyond).clamp(min=0), (last + beyond).clamp(max=process.steps - 1)
            chosen = torch.where(end > 0, least, torch.where(end < 0, most, chosen))
        return self._at_indices(process, table, chosen, end, slopes)

    def _at_indices(self, process, table, chosen, end, slopes) -> TimeSample:
        density, found = table[1], None
        if slopes:
            log_density = density.double().log()
            # An index at an end of the process has half a width: its density says nothing about the slope.
            log_density[0] = 2 * log_density[1] - log_density[2]
            log_density[-1] = 2 * log_density[-2] - log_density[-3]
            t = torch.arange(process.steps, device=process.device)
            (slope,) = torch.gradient(log_density, spacing=(process.log_snr(t).double(),))
            found = LevelSlopes(process.log_alpha_slope(chosen), slope[chosen].to(density.dtype), end)
        return TimeSample(chosen, *process.alpha_sigma(chosen), density[chosen], found)
