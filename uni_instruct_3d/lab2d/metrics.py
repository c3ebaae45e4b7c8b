"""How good a sample of the plane is, against the analytic target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .targets import Mixture

EXTENT, CELLS = 3.0, 240


@dataclass(frozen=True)
class Quality:
    """One row of the table.

    Attributes:
        modes: modes holding at least 30 % of their fair share within three stds.
        precision: share of samples within three stds of some mode.
        forward_kl, reverse_kl: between target and sample, both blurred by the modes' std; the sample's density is mixed
            with 0.1 % of a uniform one so that an empty mode costs a finite amount.
        sliced_w1: mean Wasserstein-1 distance of projections, against the target's analytic distribution function.
    """

    modes: int
    precision: float
    forward_kl: float
    reverse_kl: float
    sliced_w1: float


def assess(samples: Tensor, target: Mixture) -> Quality:
    """Quality of samples [N, 2]; a sample that is not finite counts as far away."""
    samples = torch.nan_to_num(samples.detach(), nan=1e3, posinf=1e3, neginf=-1e3)
    distance = torch.cdist(samples, target.means)
    nearest, which = distance.min(1)
    hit = nearest < 3 * target.std
    counts = torch.bincount(which[hit], minlength=len(target.means))
    modes = int((counts >= 0.3 * len(samples) / len(target.means)).sum())
    forward, reverse = _blurred_kl(samples, target)
    return Quality(modes, float(hit.float().mean()), forward, reverse, _sliced_w1(samples, target))


def _blurred_kl(samples: Tensor, target: Mixture) -> tuple[float, float]:
    """(KL(q‖p), KL(p‖q)) on a grid, both convolved with the modes' std."""
    axis = (torch.arange(CELLS) + 0.5) * (2 * EXTENT / CELLS) - EXTENT
    points = torch.cartesian_prod(axis, axis)
    ones = torch.ones(len(points))
    target_mass = target.log_density(points, ones, target.std * ones).exp().reshape(CELLS, CELLS)
    cell = ((samples + EXTENT) * (CELLS / (2 * EXTENT))).long()
    inside = ((cell >= 0) & (cell < CELLS)).all(1)
    histogram = torch.bincount((cell[:, 0] * CELLS + cell[:, 1])[inside], minlength=CELLS**2)
    kernel = torch.exp(-0.5 * ((axis[:, None] - axis) / target.std) ** 2)
    sample_mass = kernel @ histogram.reshape(CELLS, CELLS).float() @ kernel.T
    # One more cell holds what lies outside the window, where the target has nothing.
    outside = 1 - float(inside.float().mean())
    p = torch.cat(
        [(1 - outside) * (sample_mass / sample_mass.sum().clamp_min(1e-30)).flatten(), torch.tensor([outside])]
    )
    q = torch.cat([(target_mass / target_mass.sum()).flatten(), torch.zeros(1)])
    p, q = (0.999 * mass + 1e-3 / len(mass) for mass in (p, q))
    return float((q * (q / p).log()).sum()), float((p * (p / q).log()).sum())


def _sliced_w1(samples: Tensor, target: Mixture, directions: int = 32) -> float:
    """W1 = ∫|F_p − F_q| of each projection, averaged over directions; samples beyond ±6 count as at ±6."""
    grid = torch.linspace(-6, 6, 2401)
    step = float(grid[1] - grid[0])
    total = 0.0
    for angle in torch.arange(directions) * (torch.pi / directions):
        direction = torch.stack([angle.cos(), angle.sin()])
        projected = (samples @ direction).clamp(-6, 6).sort().values
        empirical = torch.searchsorted(projected, grid, right=True) / len(projected)
        total += float((empirical - target.cdf_along(direction, grid)).abs().sum()) * step
    return total / directions
