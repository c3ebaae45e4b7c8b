"""The gradient by parts: how fast the weight of the noise levels changes, and where its boundary terms are.

De Bruijn's identity, dD_f(q_λ‖p_λ)/dλ = ½σ² E[h‖Δ‖²], and ∂θ D_f(q_λ‖p_λ) = E[h Δᵀ∂θx_t] give for every weight w(λ)

    ∂θ ∫ w ½σ² E[h‖Δ‖²] dλ = ∫ (−w') E[h Δᵀ∂θx_t] dλ + [ w E[h Δᵀ∂θx_t] ] from λ_min to λ_max

A weighting row W (factor on x̂0_p − x̂0_q) and a sampler with density p stand for w = p W / SNR. Drawn from p, the
first term sends −(d log w/dλ) W h δ into x_0; a sample at an end sends ± p W h δ. What W does to a sample beyond its
noise level (`x0_normalised`) is a factor of that sample and no part of w: it is held while W is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .process import NoiseProcess
from .timesteps import LevelSlopes, TimeSampler
from .weighting import WEIGHTINGS, WeightingInputs

# What rounding leaves of a rate that is zero.
ROUNDING = 1e-4


@dataclass(frozen=True)
class LevelRates:
    """Factors of W h δ by parts, [B] each.

    Attributes:
        inside: −d log w/dλ over the probability of a sample inside; 0 at the ends.
        boundary: ±p over the probability of that end, 0 inside; None: the boundary terms are left out.
    """

    inside: Tensor
    boundary: Tensor | None

    def terms(self) -> dict[str, Tensor]:
        """Name ↦ factor. With its boundary the form is a true gradient and may subtract: −w' < 0 has its own name."""
        if self.boundary is None:
            return {"mixture": self.inside}
        negative = self.inside.clamp(max=0)
        return {"mixture": self.inside - negative, "mixture_negative": negative, "boundary": self.boundary}


def level_rates(weighting: str, inputs: WeightingInputs, slopes: LevelSlopes, boundary: float) -> LevelRates:
    """The rates of one batch; `boundary` is the share of samples that was drawn at the ends, 0 for none."""
    rate = 1 - log_weight_slope(weighting, inputs, slopes) - slopes.log_density
    if not boundary:
        return LevelRates(rate, None)
    density = torch.ones_like(rate) if inputs.log_snr_density is None else inputs.log_snr_density
    inside = (slopes.end == 0) * rate / max(1 - boundary, torch.finfo(rate.dtype).tiny)
    return LevelRates(inside, slopes.end * density * (2 / boundary))


def log_weight_slope(weighting: str, inputs: WeightingInputs, slopes: LevelSlopes) -> Tensor:
    """d log W/dλ [B] of a row of `WEIGHTINGS` by forward-mode autodiff, the samples held."""
    row, density = WEIGHTINGS[weighting], inputs.log_snr_density

    def log_weight(alpha: Tensor, sigma: Tensor, density: Tensor) -> Tensor:
        known = None if inputs.log_snr_density is None else density
        return row(WeightingInputs(alpha, sigma, inputs.x0, inputs.x0_teacher, known)).log()

    density = torch.ones_like(inputs.alpha) if density is None else density
    # λ = 2 log α − 2 log σ, so log σ falls by ½ less what log α does.
    primals = (inputs.alpha, inputs.sigma, density)
    rates = (slopes.log_alpha, slopes.log_alpha - 0.5, slopes.log_density)
    return torch.func.jvp(log_weight, primals, tuple(x * rate for x, rate in zip(primals, rates)))[1]


def check_by_parts(config, process: NoiseProcess, sampler: TimeSampler, name: Callable[[str], str] = str) -> str | None:
    """What `gradient: by_parts` follows under an `ObjectiveConfig`, a process and a sampler, in one line.

    Other forms give None.

    Args:
        name: how messages call an option, e.g. with a prefix.
    Raises:
        ValueError: nothing would be left, or the boundary is off and −w' < 0 somewhere.
    """
    if config.boundary_share is None:
        return None
    levels = sampler.grid(process)
    x = torch.ones(len(levels.alpha), 1, dtype=levels.alpha.dtype, device=levels.alpha.device)
    inputs = WeightingInputs(levels.alpha, levels.sigma, x, torch.zeros_like(x), levels.log_snr_density)
    rate = level_rates(config.weighting, inputs, levels.slopes, 0.0).inside
    what = f"{name('gradient')}=by_parts with {name('weighting')}={config.weighting!r} and sampler {sampler.name!r}"
    negative = rate < -ROUNDING
    if negative.any():
        sigma = (levels.sigma / levels.alpha)[negative]
        where = f"−w' < 0 for σ/α in [{float(sigma.min()):.3g}, {float(sigma.max()):.3g}]"
        if not config.boundary:
            raise ValueError(
                f"{what}: {where}, so that without its boundary it is no divergence; set {name('boundary')} above 0, "
                "or choose another weighting, sampler or noise range"
            )
        return f"{what}: {where}, subtracted there under the name mixture_negative"
    if not config.boundary and not (rate > ROUNDING).any():
        raise ValueError(
            f"{what}: w is constant, only the boundary terms are left; set {name('boundary')} above 0 or choose "
            "another weighting"
        )
    follows = (
        "the weighted integral of Theorem 3.1" if config.boundary else "a positive mixture of D_f over noise levels"
    )
    return f"{what}: the gradient of {follows}"
