"""Noise processes x_t = α_t x_0 + σ_t ε, and the one contract for every network: predict x̂0.

`t` is what the network takes: an integer index (discrete VP), a time in (0, 1] (continuous VP) or σ itself
(VE/EDM). A *fraction* in [0, 1] walks along every process from its least to its largest noise.
λ = log α²/σ² is the log-SNR. One time measure belongs to each process: ½g²(t) = −½σ² dλ/dt (per index step for
the discrete one), so that ∫½g² dt becomes ½∫σ² dλ whatever the schedule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .errors import choose


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] → [B, 1, ..., 1] so that it broadcasts over `like` [B, ...]."""
    return values.reshape(-1, *([1] * (like.ndim - 1)))


class NoiseProcess(nn.Module, ABC):
    """Base: α, σ, λ and ½g² at times `t` [B]. Buffers move with `.to(device)` and are not saved."""

    discrete = False

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = log α²/σ²."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t [B]. Variance preserving unless a process says otherwise: α² = sigmoid(λ)."""
        log_snr = self.log_snr(t)
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        """α_t [B]."""
        return self.alpha_sigma(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t [B]."""
        return self.alpha_sigma(t)[1]

    def log_alpha_slope(self, t: Tensor) -> Tensor:
        """d log α/dλ [B]. Variance preserving unless a process says otherwise: ½σ²."""
        return 0.5 * self.sigma(t).square()

    @abstractmethod
    def log_snr_rate(self, t: Tensor) -> Tensor:
        """|dλ/dt| [B] > 0, per unit of `t`."""

    def half_g2(self, t: Tensor) -> Tensor:
        """½g²(t) = ½σ²|dλ/dt| [B]."""
        return 0.5 * self.sigma(t).square() * self.log_snr_rate(t)

    @abstractmethod
    def at_fraction(self, fraction: Tensor) -> Tensor:
        """`t` at a fraction in [0, 1] of the process, 1 being the most noise."""

    @abstractmethod
    def fraction(self, t: Tensor) -> Tensor:
        """The inverse of `at_fraction` (for an index: its left edge)."""

    @abstractmethod
    def fraction_rate(self, t: Tensor) -> Tensor:
        """|dt/dfraction| [B] at `t`."""

    @abstractmethod
    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        """`t` at which λ(t) = log_snr (nearest index for a discrete process)."""

    def diffuse(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = α_t x_0 + σ_t ε; x0, eps [B, ...], t [B]."""
        alpha, sigma = self.alpha_sigma(t)
        return per_sample(alpha, x0).to(x0.dtype) * x0 + per_sample(sigma, x0).to(x0.dtype) * eps


class DiscreteVP(NoiseProcess):
    """Variance-preserving chain α_i² = Π(1 − β_j) of N steps; `t` is an index 0 … N−1 (long)."""

    discrete = True

    def __init__(self, betas: Tensor):
        """`betas` [N] in [0, 1]; a last β of exactly 1 (zero terminal SNR) is allowed, α is then 0 there."""
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not ((betas >= 0) & (betas <= 1)).all():
            raise ValueError(f"betas must be a vector of at least two values in [0, 1], got shape {list(betas.shape)}")
        alpha2 = torch.cumprod(1 - betas, 0)
        if not (alpha2 < 1).all():
            raise ValueError("betas must start above 0: the first step adds no noise")
        self.steps = len(betas)
        floor = torch.finfo(torch.float64).tiny
        log_snr = torch.log(alpha2.clamp_min(floor)) - torch.log1p(-alpha2)
        # Width in λ of each index: half the distance to both neighbours, so that Σ_i f(λ_i) Δλ_i ≈ ∫ f dλ.
        edges = torch.cat([log_snr[:1], (log_snr[1:] + log_snr[:-1]) / 2, log_snr[-1:]])
        buffers = {"_log_snr": log_snr, "_alpha": alpha2.sqrt(), "_sigma": (1 - alpha2).sqrt(),
                   "_widths": edges[:-1] - edges[1:]}  # fmt: skip
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.float(), persistent=False)

    @classmethod
    def from_scheduler(cls, scheduler) -> DiscreteVP:
        """From any diffusers scheduler (its `betas`, or `alphas_cumprod` if it has no betas)."""
        if getattr(scheduler, "betas", None) is not None:
            return cls(scheduler.betas)
        alpha2 = getattr(scheduler, "alphas_cumprod", None)
        if alpha2 is None:
            raise ValueError(f"scheduler={type(scheduler).__name__} has neither betas nor alphas_cumprod")
        alpha2 = torch.as_tensor(alpha2, dtype=torch.float64)
        return cls(1 - alpha2 / torch.cat([torch.ones(1, dtype=torch.float64), alpha2[:-1]]))

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self._log_snr.device

    def _index(self, t: Tensor) -> Tensor:
        if t.is_floating_point():
            raise ValueError(f"t must hold integer indices 0..{self.steps - 1} for a discrete process, got {t.dtype}")
        return t

    def log_snr(self, t: Tensor) -> Tensor:
        return self._log_snr[self._index(t)]

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = self._index(t)
        return self._alpha[t], self._sigma[t]

    def log_snr_rate(self, t: Tensor) -> Tensor:
        return self._widths[self._index(t)]

    def at_fraction(self, fraction: Tensor) -> Tensor:
        return (fraction * self.steps).long().clamp(0, self.steps - 1)

    def fraction(self, t: Tensor) -> Tensor:
        return t / self.steps

    def fraction_rate(self, t: Tensor) -> Tensor:
        return torch.full_like(self._log_snr[self._index(t)], self.steps)

    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        return (self._log_snr[None] - log_snr.reshape(-1, 1)).abs().argmin(1).reshape(log_snr.shape)


class ContinuousVP(NoiseProcess):
    """dx = −½β x dt + √β dw with β(t) = β_min + t(β_max − β_min), t in [t_min, 1]; α² = exp(−∫β)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3):
        super().__init__()
        if not (0 < beta_min <= beta_max and 0 < t_min < 1):
            raise ValueError(f"need 0 < beta_min <= beta_max and 0 < t_min < 1, got {beta_min}, {beta_max}, {t_min}")
        self.beta_min, self.beta_max, self.t_min = beta_min, beta_max, t_min

    def _beta_integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self._beta_integral(t)))

    def log_snr_rate(self, t: Tensor) -> Tensor:
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        return -beta / torch.expm1(-self._beta_integral(t))

    def at_fraction(self, fraction: Tensor) -> Tensor:
        return self.t_min + fraction * (1 - self.t_min)

    def fraction(self, t: Tensor) -> Tensor:
        return (t - self.t_min) / (1 - self.t_min)

    def fraction_rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.t_min)

    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        integral, slope = softplus(-log_snr), self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


class VarianceExploding(NoiseProcess):
    """α = 1, `t` is σ itself in [σ_min, σ_max] (EDM); fractions walk along the ρ-schedule of Karras et al. 2022."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0):
        super().__init__()
        if not (0 < sigma_min < sigma_max and rho > 0):
            raise ValueError(f"need 0 < sigma_min < sigma_max and rho > 0, got {sigma_min}, {sigma_max}, {rho}")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * t.log()

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def log_alpha_slope(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_snr_rate(self, t: Tensor) -> Tensor:
        return 2 / t

    def _root_range(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def at_fraction(self, fraction: Tensor) -> Tensor:
        low, high = self._root_range()
        return (low + fraction * (high - low)) ** self.rho

    def fraction(self, t: Tensor) -> Tensor:
        low, high = self._root_range()
        return (t ** (1 / self.rho) - low) / (high - low)

    def fraction_rate(self, t: Tensor) -> Tensor:
        low, high = self._root_range()
        return self.rho * t ** (1 - 1 / self.rho) * (high - low)

    def at_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2)


@dataclass(frozen=True)
class Parameterisation:
    """How one network output relates to x̂0; both take (output or x̂0, x_t, α, σ), broadcastable."""

    to_x0: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    from_x0: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


# Keys as diffusers' `prediction_type` names them, and "score" = ∇log density.
PARAMETERISATIONS: dict[str, Parameterisation] = {
    "epsilon": Parameterisation(lambda e, x_t, a, s: (x_t - s * e) / a, lambda x0, x_t, a, s: (x_t - a * x0) / s),
    "v_prediction": Parameterisation(  # v = α ε − σ x0
        lambda v, x_t, a, s: (a * x_t - s * v) / (a * a + s * s),
        lambda x0, x_t, a, s: (a * x_t - (a * a + s * s) * x0) / s,
    ),
    "sample": Parameterisation(lambda x0, x_t, a, s: x0, lambda x0, x_t, a, s: x0),
    "score": Parameterisation(
        lambda score, x_t, a, s: (x_t + s * s * score) / a, lambda x0, x_t, a, s: (a * x0 - x_t) / (s * s)
    ),
}


def to_x0(output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, kind: str) -> Tensor:
    """x̂0 [B, ...] from a network output of parameterisation `kind`; alpha, sigma [B]."""
    row = choose("prediction_type", kind, PARAMETERISATIONS)
    return row.to_x0(output, x_t, per_sample(alpha, x_t), per_sample(sigma, x_t))


def from_x0(x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, kind: str) -> Tensor:
    """The inverse of `to_x0`: what a network of parameterisation `kind` would output for x̂0 [B, ...]."""
    row = choose("prediction_type", kind, PARAMETERISATIONS)
    return row.from_x0(x0, x_t, per_sample(alpha, x_t), per_sample(sigma, x_t))
