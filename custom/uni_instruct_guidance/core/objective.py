"""The one objective: any f-divergence, exact or as printed, and every method of the family.

Theorem 3.1: D_f(q_0‖p_θ) = ∫ ½g²(t) E_{p_t}[ h(r) ‖Δ‖² ] dt with Δ = s_p − s_q and r = q_t/p_t. Its gradient,
networks frozen and the derivative taken through x_t(θ) only (SG = stop-gradient, d(y) = ‖y‖² by default):

    ∂θ E[ SG(h − r h') d(Δ) ]                                             path
    − ∂θ E[ SG(h) d'(Δ)ᵀ(s_p − s_c) ]                                     Grad(SIM)
    + ∂θ E[ SG( C2 d(Δ) Δ + r h' (d'(Δ)ᵀ(s_p − s_c)) Δ )ᵀ x_t ]           Grad(DI): cubic + cross

Everything is computed on x̂0: with δ = x̂0_p − x̂0_q and ρ = x̂0_p − x_0 we have Δ = αδ/σ² and s_p − s_c = αρ/σ², so

    L = ½w [ κ SG(h − r h') d(δ) − λ_SIM SG(h) d'(δ)ᵀρ + λ_DI SG( SNR (C2 d(δ) + r h' d'(δ)ᵀρ) δ )ᵀ x_0 ]
        + w λ_DI SG( c δ )ᵀ x_0                        direct: DI, DMD, SDS, VSD, f-distill; by parts (by_parts.py)

with w from `weighting.py`. No α in a denominator, and nothing is differentiated through the density ratio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .by_parts import level_rates
from .distances import DISTANCES
from .distances import sum_per_sample as _sum
from .divergences import Divergence, get_divergence
from .errors import choose, require_shape
from .gradients import GRADIENTS, FormInputs
from .process import per_sample
from .ranges import check, choice, either, number, or_null
from .timesteps import LevelSlopes
from .weighting import WEIGHTINGS, WeightingInputs

JACOBIANS = ("none", "full")

# Numbers of an ObjectiveConfig, see ranges.py.
RANGES = {
    "kappa": number(),
    "huber_c": number(above=0),
    "lambda_sim": number(least=0),
    "lambda_di": number(least=0),
    "log_r_clamp": or_null(either(number(above=0), choice("auto"))),
    "boundary": number(least=0, most=1),
}


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which estimator.

    Args:
        divergence: name, `Divergence` or convex callable f(r).
        gradient: `exact`, `paper` (Eq. 3.5-3.6), `by_parts` (the exact gradient without Jacobian, C2 and cross term),
            `di` (unit weight) or `di_weighted` (h(r), f-distill).
        kappa: weight of the path term; 1 exact, 0 SIM, 2(1 − α) for SiD's α. `exact` is the gradient only at 1.
        jacobian: `full` differentiates teacher and fake score in x_t; `none` freezes them, another, cheaper method.
        weighting: row of `WEIGHTINGS`.
        distance, huber_c: d(·); `pseudo_huber` is √(‖δ‖² + c²D) − c√D on the x̂0 gap of D elements.
        lambda_sim, lambda_di: factors of Grad(SIM) and of everything that is DI.
        table5_c1: take C1 from the paper's Table 5 where it differs from Eq. 3.4 (`paper` only).
        log_r_clamp: |log r| is cut here; `auto`: where the form of the gradient is safe; None leaves it.
        batch_normalise: divide the r-dependent weights by the batch mean of h(r).
        boundary: share in [0, 1] of the samples drawn at the two ends of the noise range for the boundary terms of
            `by_parts`. 0 leaves these terms out: then it follows ∫ (−w') D_f(q_λ‖p_λ) dλ, a positive mixture of
            divergences, which is not the integral that `exact` follows.
    """

    divergence: str | Divergence | Callable = "rkl"
    gradient: str = "paper"
    kappa: float = 0.0
    jacobian: str = "full"
    weighting: str = "uniform"
    distance: str = "l2"
    huber_c: float = 0.00054
    lambda_sim: float = 1.0
    lambda_di: float = 1.0
    table5_c1: bool = False
    log_r_clamp: float | str | None = "auto"
    batch_normalise: bool = False
    boundary: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "divergence", get_divergence(self.divergence))
        choose("gradient", self.gradient, GRADIENTS)
        choose("jacobian", self.jacobian, dict.fromkeys(JACOBIANS))
        choose("weighting", self.weighting, WEIGHTINGS)
        choose("distance", self.distance, DISTANCES)
        check(RANGES, self)
        form = GRADIENTS[self.gradient]
        if form.distances is not None and self.distance not in form.distances:
            raise ValueError(
                f"gradient={self.gradient!r} holds for distance={' or '.join(form.distances)}, got {self.distance!r}"
            )
        if self.boundary and not form.needs_rates:
            rows = [name for name, row in GRADIENTS.items() if row.needs_rates]
            raise ValueError(
                f"boundary={self.boundary!r} belongs to gradient={' or '.join(rows)}, got {self.gradient!r}"
            )

    @property
    def needs_ratio(self) -> bool:
        """Whether the estimator reads log r."""
        return GRADIENTS[self.gradient].uses_ratio and not self.divergence.constant_h

    @property
    def needs_calibration(self) -> bool:
        """Whether a ratio that is off by a factor can turn the gradient round."""
        return GRADIENTS[self.gradient].needs_calibration and not self.divergence.constant_h

    @property
    def needs_jacobian(self) -> bool:
        """Whether teacher and fake score must be evaluated with autograd."""
        return GRADIENTS[self.gradient].uses_jacobian and self.jacobian == "full"

    @property
    def boundary_share(self) -> float | None:
        """What to ask `TimeSampler.sample` for: the share of samples at the ends; None: no slopes are read."""
        return self.boundary if GRADIENTS[self.gradient].needs_rates else None

    @property
    def clamp(self) -> float | None:
        """Where |log r| is cut."""
        return GRADIENTS[self.gradient].log_r_clamp if self.log_r_clamp == "auto" else self.log_r_clamp

    def replace(self, **overrides) -> ObjectiveConfig:
        """A copy with fields changed."""
        return dataclasses.replace(self, **overrides)


@dataclass
class ObjectiveOutput:
    """What the objective returns, unreduced.

    Attributes:
        loss: [B] surrogate; its gradient in x_0 (and through the networks if jacobian is full) is the estimator.
            Its value means nothing: read `value`.
        value: [B] detached ½w h(r) ‖δ‖²; with weighting `theory` it averages to D_f over the visited noise levels.
        terms: name ↦ [B] surrogate of each term present; they sum to `loss`.
        diagnostics: name ↦ scalar tensors to log (no synchronisation forced): quantiles of log r, share clipped,
            rejected samples, `norm/<term>` = mean norm of what the term sends into x_0 or the score gap.
        valid: [B] bool; False where an input was not finite. Such samples have zero loss and zero gradient.
    """

    loss: Tensor
    value: Tensor
    terms: dict[str, Tensor]
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None


def objective(
    config: ObjectiveConfig,
    *,
    x0: Tensor,
    x0_teacher: Tensor,
    x0_fake: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    log_r: Tensor | None = None,
    log_snr_density: Tensor | None = None,
    slopes: LevelSlopes | None = None,
) -> ObjectiveOutput:
    """Surrogate losses of one batch; sum or average `loss` and call backward.

    Args:
        config: the estimator.
        x0: [B, ...] clean sample, differentiable in θ; both networks saw x_t = α x0 + σ ε.
        x0_teacher: [B, ...] x̂0_q, guidance already composed. With jacobian `full` it must carry the graph from x_t.
        x0_fake: [B, ...] x̂0_p; for the conditional score (SDS) pass x0.detach().
        alpha, sigma: [B].
        log_r: [B] log q_t/p_t at x_t; None if the divergence needs none (rkl) or during warm-up (r ≡ 1).
        log_snr_density: [B] from `TimeSample`, needed by weighting `theory` and by boundary terms.
        slopes: from `TimeSample`, needed by gradient `by_parts`: sample with `boundary=config.boundary_share`.
    Raises:
        ValueError: wrong shapes, an input that the configuration needs and did not get, or jacobian `full` with a
            detached network output.
    """
    _check_inputs(config, x0, x0_teacher, x0_fake, alpha, sigma, log_r, log_snr_density, slopes)
    form, distance, divergence = GRADIENTS[config.gradient], DISTANCES[config.distance], config.divergence
    if not config.needs_jacobian:
        x0_teacher, x0_fake = x0_teacher.detach(), x0_fake.detach()
    log_r = torch.zeros_like(alpha) if log_r is None else log_r.detach()

    # Low-precision networks are welcome; the estimator itself runs in float32 or better.
    precision = torch.promote_types(x0.dtype, torch.float32)
    density = torch.ones_like(alpha) if log_snr_density is None else log_snr_density
    tensors = [x.to(precision) for x in (x0, x0_teacher, x0_fake, alpha, sigma, log_r, density)]
    valid = torch.stack([torch.isfinite(x.detach()).reshape(len(x), -1).all(1) for x in tensors]).all(0)
    x0_masked, x0_teacher, x0_fake, alpha, sigma, raw_log_r, density = (
        torch.where(per_sample(valid, x), x, torch.ones_like(x)) for x in tensors
    )
    if config.needs_jacobian and x0.requires_grad:
        _cut_gradient_of_bad_samples(x0, valid)
    clamp = config.clamp
    log_r = raw_log_r if clamp is None else raw_log_r.clamp(-clamp, clamp)

    with torch.no_grad():
        density = None if log_snr_density is None else density
        inputs = WeightingInputs(alpha, sigma, x0_masked, x0_teacher, density)
        weight = WEIGHTINGS[config.weighting](inputs) * valid
        h = divergence.h(log_r)
        rates = None
        if form.needs_rates:
            rates = level_rates(config.weighting, inputs, slopes.map(lambda x: x.to(precision)), config.boundary)
        coefficients = form.coefficients(FormInputs(divergence, log_r, config.table5_c1, rates))
        count = valid.sum().clamp_min(1)
        scale = weight
        if config.batch_normalise and form.uses_ratio:
            scale = weight / ((h * valid).sum() / count).clamp_min(torch.finfo(precision).tiny)

    gap, residual = x0_fake - x0_teacher, x0_fake - x0_masked
    terms = _terms(config, distance, coefficients, gap, residual, x0_masked, scale, inputs.snr)
    loss = torch.stack([surrogate for surrogate, _ in terms.values()]).sum(0)
    with torch.no_grad():
        value = 0.5 * weight * h * _sum(gap.detach().square())
        diagnostics = _diagnostics(raw_log_r, clamp, valid, count)
        diagnostics |= {f"norm/{name}": (norm * valid).sum() / count for name, (_, norm) in terms.items()}
    return ObjectiveOutput(loss, value, {name: surrogate for name, (surrogate, _) in terms.items()}, diagnostics, valid)


def _cut_gradient_of_bad_samples(x0: Tensor, valid: Tensor) -> None:
    """A network fed with a bad sample answers NaN · 0 on the way back: make it zero where it arrives at x0."""

    def cut(grad: Tensor) -> Tensor:
        if x0.is_leaf:  # a leaf outlives this step, its mask must not
            handle.remove()
        return torch.where(per_sample(valid, grad), grad, torch.zeros_like(grad))

    handle = x0.register_hook(cut)


def _terms(config, distance, coefficients, gap, residual, x0, scale, snr) -> dict[str, tuple[Tensor, Tensor]]:
    """name ↦ (surrogate [B], norm [B] of its cotangent on the score gap or on x_0)."""
    terms = {}
    gap_sg = gap.detach()
    gap_norm = _sum(gap_sg.square()).sqrt()
    pull = None  # SG(δ)ᵀ x_0, shared by every DI term
    if coefficients.direct or config.lambda_di:
        pull = _sum(gap_sg * x0)
    for name, coefficient in coefficients.direct.items():
        factor = config.lambda_di * scale * coefficient
        terms[name] = (factor * pull, factor.abs() * gap_norm)
    if coefficients.sim is None:
        return terms

    slope = distance.slope(gap, config.huber_c)
    along = _sum(slope * residual)
    slope_norm = _sum(slope.detach().square()).sqrt()
    if config.kappa and coefficients.path is not None:
        factor = 0.5 * config.kappa * scale * coefficients.path
        terms["path"] = (factor * distance.value(gap, config.huber_c), factor.abs() * slope_norm)
    if config.lambda_sim:
        factor = 0.5 * config.lambda_sim * scale * coefficients.sim
        terms["sim"] = (-factor * along, factor.abs() * slope_norm)
    if config.lambda_di and coefficients.cubic is not None:
        value = distance.value(gap_sg, config.huber_c)
        factor = 0.5 * config.lambda_di * scale * snr * coefficients.cubic * value
        terms["di_cubic"] = (factor * pull, factor.abs() * gap_norm)
    if config.lambda_di and coefficients.cross is not None:
        factor = 0.5 * config.lambda_di * scale * snr * coefficients.cross * along.detach()
        terms["di_cross"] = (factor * pull, factor.abs() * gap_norm)
    if not terms:
        raise ValueError("nothing to optimise: kappa, lambda_sim and lambda_di are all 0")
    return terms


def _diagnostics(log_r: Tensor, clamp: float | None, valid: Tensor, count: Tensor) -> dict[str, Tensor]:
    # Nearest-rank quantiles; rejected samples count as log r = 0 there, and `rejected` says how many there were.
    ranked = torch.where(valid, log_r, torch.zeros_like(log_r)).sort().values
    low, middle, high = (ranked[round(level * (len(ranked) - 1))] for level in (0.05, 0.5, 0.95))
    outside = torch.zeros_like(log_r) if clamp is None else (log_r.abs() > clamp) * valid
    return {"log_r/q05": low, "log_r/q50": middle, "log_r/q95": high, "log_r/clipped": outside.sum() / count,
            "rejected": (~valid).sum()}  # fmt: skip


def _check_inputs(config, x0, x0_teacher, x0_fake, alpha, sigma, log_r, log_snr_density, slopes) -> None:
    if not isinstance(x0, Tensor) or x0.ndim < 2:
        raise ValueError(f"x0 must be a tensor [B, ...], got {list(x0.shape) if isinstance(x0, Tensor) else x0!r}")
    for argument, tensor in (("x0_teacher", x0_teacher), ("x0_fake", x0_fake)):
        require_shape(argument, tensor, x0.shape)
    for argument, tensor in (("alpha", alpha), ("sigma", sigma)):
        require_shape(argument, tensor, x0.shape[:1])
    for argument, tensor in (("log_r", log_r), ("log_snr_density", log_snr_density)):
        if tensor is not None:
            require_shape(argument, tensor, x0.shape[:1])
    if config.boundary_share is not None:
        if slopes is None:
            raise ValueError(
                "gradient='by_parts' needs slopes: TimeSampler.sample(..., boundary=config.boundary_share)"
            )
        require_shape("slopes.end", slopes.end, x0.shape[:1])
        if config.boundary and log_snr_density is None:
            raise ValueError("boundary terms need log_snr_density, the density with which the noise level was drawn")
    if config.needs_jacobian and x0.requires_grad and torch.is_grad_enabled():
        for argument, tensor in (("x0_teacher", x0_teacher), ("x0_fake", x0_fake)):
            if not tensor.requires_grad:
                raise ValueError(f"jacobian='full' differentiates the networks, but {argument} carries no gradient: "
                                 "evaluate it with autograd from x_t, or choose jacobian='none'")  # fmt: skip
