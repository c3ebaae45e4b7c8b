"""Analytic targets: isotropic Gaussian mixtures in the plane, their diffused densities, scores and posterior means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Equal-weight mixture of K Gaussians with one std; means [K, 2]."""

    name: str
    means: Tensor
    std: float

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """[count, 2]."""
        which = torch.randint(len(self.means), (count,), generator=generator)
        return self.means[which] + self.std * torch.randn(count, 2, generator=generator)

    def _parts(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log of each diffused component's density [..., K] (equal weights left out), and the variance [..., 1]."""
        variance = (alpha**2 * self.std**2 + sigma**2)[..., None]
        # ‖x − αm‖² by expansion: a matrix product instead of a [..., K, 2] tensor.
        square = (
            x_t.square().sum(-1, keepdim=True)
            - 2 * alpha[..., None] * (x_t @ self.means.T)
            + alpha[..., None] ** 2 * self.means.square().sum(1)
        )
        return -0.5 * square / variance - torch.log(2 * math.pi * variance), variance

    def log_density(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log q_t(x_t); x_t [..., 2], alpha and sigma [...]."""
        return torch.logsumexp(self._parts(x_t, alpha, sigma)[0], -1) - math.log(len(self.means))

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x̂0 = E[x_0 | x_t] [..., 2], differentiable in x_t."""
        logits, variance = self._parts(x_t, alpha, sigma)
        mean = torch.softmax(logits, -1) @ self.means
        gain = alpha[..., None] * self.std**2 / variance
        return mean + gain * (x_t - alpha[..., None] * mean)

    def cdf_along(self, direction: Tensor, grid: Tensor) -> Tensor:
        """Distribution function of the projection on a unit `direction` [2] at `grid` [N]."""
        return torch.special.ndtr((grid[:, None] - self.means @ direction) / self.std).mean(1)


def ring8(std: float = 0.07) -> Mixture:
    """Eight modes on a circle; every coordinate has variance about 1."""
    angle = torch.arange(8) * (math.pi / 4)
    return Mixture("ring8", math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1), std)


def grid25(std: float = 0.05) -> Mixture:
    """5 × 5 modes, spacing 1/√2 so that every coordinate has variance about 1: 14 stds between neighbours."""
    axis = torch.arange(-2.0, 3.0) / math.sqrt(2)
    return Mixture("grid25", torch.cartesian_prod(axis, axis), std)


TARGETS = {"ring8": ring8, "grid25": grid25}
