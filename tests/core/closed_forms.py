"""Closed-form worlds for the tests: a mixture teacher and a Gaussian student, in any dimension, in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

ORACLES = json.loads((Path(__file__).parent / "data" / "gradient_oracles.json").read_text())
ORACLE_NAMES = {
    "fkl": "forward_kl",
    "rkl": "reverse_kl",
    "jkl": "jeffreys_kl",
    "chi2": "chi_square",
    "js": "jensen_shannon",
}


def f64(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


class Mixture:
    """Isotropic Gaussian mixture; weights [K], means [K, D], stds [K]."""

    def __init__(self, weights, means, stds):
        self.weights, self.means, self.stds = f64(weights), f64(means), f64(stds)

    def log_density(self, x, alpha=1.0, sigma=0.0):
        """log q_t at x [N, D] after x_t = α x_0 + σ ε."""
        variance = alpha**2 * self.stds**2 + sigma**2
        square = (x[:, None] - alpha * self.means).square().sum(-1)
        log_norm = -0.5 * x.shape[1] * torch.log(2 * math.pi * variance)
        return torch.logsumexp(self.weights.log() + log_norm - 0.5 * square / variance, 1)

    def score(self, x, alpha, sigma):
        """∇log q_t, differentiable in x by the closed form."""
        variance = alpha**2 * self.stds**2 + sigma**2
        offset = alpha * self.means - x[:, None]
        log_norm = -0.5 * x.shape[1] * torch.log(2 * math.pi * variance)
        posterior = torch.softmax(self.weights.log() + log_norm - 0.5 * offset.square().sum(-1) / variance, 1)
        return (posterior[..., None] * offset / variance[:, None]).sum(1)

    def denoise(self, x, alpha, sigma):
        """x̂0 = (x_t + σ² s)/α."""
        return (x + sigma**2 * self.score(x, alpha, sigma)) / alpha


def gaussian(mu, std) -> Mixture:
    return Mixture([1.0], [list(mu)], [std])


def oracle_teacher() -> Mixture:
    teacher = ORACLES["teacher"]
    return Mixture(teacher["weights"], [[m] for m in teacher["means"]], teacher["stds"])


def hermite(nodes: int):
    """Nodes and weights of E under N(0, 1)."""
    import numpy as np

    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    return f64(z), f64(w / math.sqrt(2 * math.pi))
