"""The density ratio r = q_t/p_t from a discriminator on noisy samples, its losses and its calibration.

Theorem A.1: the discriminator that minimises binary cross-entropy between diffused real samples (label 1) and diffused
student samples (label 0) has logit log q_t/p_t. The logit *is* log r; a loss value never is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .errors import require_shape
from .objective import ObjectiveConfig


def discriminator_loss(logit_real: Tensor, logit_fake: Tensor) -> Tensor:
    """Binary cross-entropy −log D(real) − log(1 − D(fake)), Eq. A.49; logits [B], result [B] unreduced."""
    require_shape("logit_fake", logit_fake, logit_real.shape)
    return softplus(-logit_real) + softplus(logit_fake)


def generator_loss(logit_fake: Tensor) -> Tensor:
    """Non-saturating −log D(fake) [B]; differentiate it through the discriminator into the sample."""
    return softplus(-logit_fake)


def gradient_penalty(logit: Tensor, x_t: Tensor) -> Tensor:
    """R1: ‖∇_x logit‖² [B]. `x_t` [B, ...] must require grad and `logit` [B] be computed from it.

    The exact logit's gradient is s_q − s_p, so the penalty bounds the score gap that the ratio may claim.
    """
    if not x_t.requires_grad:
        raise ValueError("x_t must require grad before the discriminator sees it")
    (slope,) = torch.autograd.grad(logit.sum(), x_t, create_graph=True)
    return slope.flatten(1).square().sum(1)


@dataclass(frozen=True)
class RatioWarmup:
    """r ≡ 1 for `steps` steps, then log r grows to its full size over `ramp` steps (0: at once)."""

    steps: int = 0
    ramp: int = 0

    def __post_init__(self):
        if self.steps < 0 or self.ramp < 0:
            raise ValueError(f"ratio warm-up needs steps >= 0 and ramp >= 0, got {self.steps}, {self.ramp}")

    def factor(self, step: int) -> float:
        """What multiplies log r at a training step, in [0, 1]."""
        if step < self.steps:
            return 0.0
        return min(1.0, (step - self.steps + 1) / (self.ramp + 1))

    def in_force(self, config: ObjectiveConfig, step: int) -> ObjectiveConfig:
        """The estimator at a training step: reverse KL for as long as r ≡ 1, where the form needs a calibrated ratio.

        r ≡ 1 is the worst calibration for terms that cancel only with ∇log r = s_q − s_p; reverse KL has none of them.
        """
        if self.factor(step) > 0 or not config.needs_calibration:
            return config
        return config.replace(divergence="rkl")

    def __call__(self, logit: Tensor, step: int) -> Tensor:
        """log r [B] to hand to the objective, detached."""
        return logit.detach() * self.factor(step)


# Below it a form whose terms cancel only with ∇log r = s_q − s_p had better wait (docs/method.md, section 3).
POOR_SLOPE = 0.5


def critic_slope(log_r_gradient: Tensor, x0_teacher: Tensor, x0_fake: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Calibration slope of a critic where the true ratio is unknown: how much of s_q − s_p is in ∇_x log r.

    Least squares over a held-out batch, each level weighted with σ² as in Theorem 3.1: 1 is calibrated, below 1 the
    critic is too timid. It agrees with `CalibrationReport.slope` where log r is off by a factor.

    Args:
        log_r_gradient: [B, ...] ∇_x of the logit at samples that the critic has not learned from.
        x0_teacher, x0_fake: [B, ...] x̂0 there. alpha, sigma: [B].
    Returns:
        Scalar, detached; 0 where teacher and fake score agree everywhere.
    """
    require_shape("log_r_gradient", log_r_gradient, x0_teacher.shape)
    claimed = (log_r_gradient.detach().flatten(1) * sigma[:, None]).double()
    gap = ((x0_teacher - x0_fake).detach().flatten(1) * (alpha / sigma)[:, None]).double()
    square = gap.square().sum()
    return torch.where(square > 0, (claimed * gap).sum() / square.clamp_min(1e-30), torch.zeros_like(square)).float()


def poor_calibration(slope: float, config: ObjectiveConfig, gradient: str, patience: str) -> str | None:
    """One line for the user if a critic of this slope is too poor for the estimator, else None.

    Args:
        gradient, patience: how the user's configuration calls the form and the steps that only the critic learns.
    """
    if slope >= POOR_SLOPE or not config.needs_calibration:
        return None
    return (
        f"the critic's calibration slope is {slope:.2g} (1 is calibrated); below {POOR_SLOPE} "
        f"{gradient}={config.gradient} can point the wrong way: train the critic first ({patience}) or take "
        f"{gradient}=by_parts"
    )


@dataclass(frozen=True)
class CalibrationReport:
    """How far a discriminator is from a known ratio.

    Attributes:
        expected_calibration_error: mean |D − true posterior| over probability bins, weighted by their counts.
        mean_abs_error: mean |log r − true log r|.
        bias: mean of log r − true log r.
        slope: least-squares slope of log r on true log r; below 1 the discriminator is too timid.
    """

    expected_calibration_error: float
    mean_abs_error: float
    bias: float
    slope: float


def calibration(log_r: Tensor, true_log_r: Tensor, bins: int = 20) -> CalibrationReport:
    """Compare log r [N] with the truth [N] on samples, half of them real and half the student's."""
    require_shape("true_log_r", true_log_r, log_r.shape)
    if log_r.ndim != 1 or not len(log_r) or bins < 1:
        raise ValueError(f"calibration needs log_r [N] with N > 0 and bins > 0, got {list(log_r.shape)}, {bins}")
    log_r, true_log_r = log_r.detach().double(), true_log_r.detach().double()
    probability, posterior = log_r.sigmoid(), true_log_r.sigmoid()
    which = (probability * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64, device=log_r.device).index_add_(0, which, probability - posterior)
    error, centred = log_r - true_log_r, true_log_r - true_log_r.mean()
    return CalibrationReport(
        expected_calibration_error=float(sums.abs().sum() / len(log_r)),
        mean_abs_error=float(error.abs().mean()),
        bias=float(error.mean()),
        slope=float((centred * log_r).mean() / centred.square().mean().clamp_min(1e-12)),
    )
