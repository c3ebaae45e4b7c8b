"""The gradient by parts against the exact form by quadrature, and what it is under which weights."""

from functools import cache

import numpy as np
import pytest
import torch
from closed_forms import f64, gaussian, hermite, oracle_teacher
from test_core_objective import pearson_skewed

from uni_instruct_guidance.core import (
    ContinuousVP,
    DiscreteVP,
    ObjectiveConfig,
    TimeSampler,
    VarianceExploding,
    check_by_parts,
    get_divergence,
    get_method,
    objective,
)

DIVERGENCES = ("fkl", "rkl", "jkl", "chi2", "js", "hellinger", pearson_skewed)
PROCESSES = {"vp": (ContinuousVP(), 0.12, 0.55), "edm": (VarianceExploding(), 0.25, 0.6)}
# All three samplers change p, all weightings W: w = p W / SNR is another function of λ in each pair.
PAIRS = (("epsilon", "uniform_log_snr"), ("x0", "uniform_t"), ("sigma2", "edm_rho"))
SHARE = 0.25


def slopes_of(levels, end):
    """The same levels, said to be at an end of the range (±1) or inside (0)."""
    return levels.slopes.map(lambda x: x) if end == 0 else type(levels.slopes)(
        levels.slopes.log_alpha, levels.slopes.log_density, torch.full_like(levels.slopes.end, end)
    )  # fmt: skip


class World:
    """Teacher and Gaussian student at some noise levels: x_t by Gauss-Hermite, and what is left of x_0 given x_t."""

    def __init__(self, levels):
        self.levels, self.count = levels, len(levels.alpha)
        self.theta = f64([0.2, 0.6]).requires_grad_()
        teacher, student = oracle_teacher(), gaussian([0.2], 0.6)
        (u, wu), (v, wv) = hermite(200), hermite(4)  # every term is at most quadratic in v
        u, v = (grid.reshape(-1) for grid in torch.meshgrid(u, v, indexing="ij"))
        self.weights = (wu[:, None] * wv).reshape(-1)
        self.nodes = len(u)
        self.alpha, self.sigma = (x.double().repeat_interleave(self.nodes) for x in (levels.alpha, levels.sigma))
        total = (self.alpha**2 * 0.36 + self.sigma**2).sqrt()
        cos, sin = 0.6 * self.alpha / total, self.sigma / total
        u, v = u.repeat(self.count), v.repeat(self.count)
        self.x0 = (self.theta[0] + self.theta[1] * (cos * u + sin * v))[:, None]
        x_t = self.alpha[:, None] * self.x0 + (self.sigma * (sin * u - cos * v))[:, None]
        ends = self.alpha[:, None], self.sigma[:, None]
        self.teacher, self.fake = (self._denoise(mixture, x_t, *ends) for mixture in (teacher, student))
        with torch.no_grad():
            self.log_r = self._log_density(teacher, x_t) - self._log_density(student, x_t)

    def _parts(self, mixture, x, alpha, sigma):
        variance = alpha**2 * mixture.stds**2 + sigma**2
        offset = alpha * mixture.means[:, 0] - x
        return mixture.weights.log() - 0.5 * torch.log(variance) - 0.5 * offset**2 / variance, offset / variance

    def _denoise(self, mixture, x, alpha, sigma):
        logits, slope = self._parts(mixture, x, alpha, sigma)
        return (x + sigma**2 * (logits.softmax(1) * slope).sum(1, keepdim=True)) / alpha

    def _log_density(self, mixture, x):
        return self._parts(mixture, x, self.alpha[:, None], self.sigma[:, None])[0].logsumexp(1)

    def gradient(self, config, level_weights, end=0):
        """∂θ Σ level_weights E[surrogate]."""
        slopes = slopes_of(self.levels, end).map(lambda x: x.double().repeat_interleave(self.nodes))
        out = objective(
            config, x0=self.x0, x0_teacher=self.teacher, x0_fake=self.fake, alpha=self.alpha, sigma=self.sigma,
            log_r=self.log_r, slopes=slopes,
            log_snr_density=self.levels.log_snr_density.double().repeat_interleave(self.nodes),
        )  # fmt: skip
        loss = (out.loss.reshape(self.count, -1) * self.weights).sum(1) @ level_weights
        return torch.autograd.grad(loss, self.theta, retain_graph=True)[0]


@cache
def continuous(process_name, sampler_name):
    """Gauss-Legendre over λ with the probability of each node, and both ends."""
    process, low_fraction, high_fraction = PROCESSES[process_name]
    sampler = TimeSampler(sampler_name, low_fraction, high_fraction)
    high, low = process.log_snr(process.at_fraction(f64([low_fraction, high_fraction])))
    nodes, weights = (f64(x) for x in np.polynomial.legendre.leggauss(32))
    inside = sampler._at_log_snr(process, low + (high - low) * (nodes + 1) / 2, low, high, torch.zeros(32), True)
    ends = sampler._at_log_snr(process, torch.stack([high, low]), low, high, torch.zeros(2), True)
    probability = weights / 2 * (high - low) * inside.log_snr_density
    assert probability.sum().item() == pytest.approx(1, abs=1e-6)
    return process, sampler, World(inside), probability, World(ends)


def by_parts_gradient(divergence, weighting, inside, probability, ends, end_weights):
    """The mean over a sampler that spends SHARE of its samples on the ends."""
    config = ObjectiveConfig(divergence, "by_parts", weighting=weighting, log_r_clamp=None, boundary=SHARE)
    found = inside.gradient(config, (1 - SHARE) * probability)
    for end, weights in end_weights.items():
        found = found + ends.gradient(config, weights * SHARE / 2, end)
    return found


@pytest.mark.parametrize(("weighting", "sampler"), PAIRS)
@pytest.mark.parametrize("process", PROCESSES)
def test_with_its_boundary_it_is_the_exact_gradient(process, weighting, sampler):
    _, _, inside, probability, ends = continuous(process, sampler)
    end_weights = {1: f64([1, 0]), -1: f64([0, 1])}
    for divergence in DIVERGENCES:
        exact = ObjectiveConfig(divergence, "exact", kappa=1.0, weighting=weighting, log_r_clamp=None)
        expected = inside.gradient(exact, probability)
        found = by_parts_gradient(divergence, weighting, inside, probability, ends, end_weights)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        # The test has power: neither part is the whole.
        without = inside.gradient(
            ObjectiveConfig(divergence, "by_parts", weighting=weighting, log_r_clamp=None), probability
        )
        assert ((without - expected).abs() > 1e-2 * expected.abs()).any()


@cache
def discrete(sampler_name, steps):
    betas = torch.linspace(1e-4**0.5, 0.02**0.5, steps, dtype=torch.float64) ** 2 * (1000 / steps)
    process = DiscreteVP(betas)
    sampler = TimeSampler(sampler_name, 0.2, 0.6)
    levels = sampler.grid(process)
    first, last = sampler._indices(process, 0.2, 0.6)
    table = sampler._table(process, first, last)
    at = torch.tensor([first - 1, first, last, last + 1])
    ends = sampler._at_indices(process, table, at, torch.zeros(4), True)
    return World(levels), table[0][first : last + 1].double(), World(ends)


@pytest.mark.parametrize(("weighting", "sampler"), PAIRS)
def test_on_a_discrete_chain_to_the_order_of_its_steps(weighting, sampler):
    """Sums over indices are integrals to second order in the step; with that order taken out they agree."""
    differences = []
    for steps in (250, 500):
        inside, probability, ends = discrete(sampler, steps)
        end_weights = {1: f64([0.5, 0.5, 0, 0]), -1: f64([0, 0, 0.5, 0.5])}
        exact = ObjectiveConfig("js", "exact", kappa=1.0, weighting=weighting, log_r_clamp=None)
        expected = inside.gradient(exact, probability)
        found = by_parts_gradient("js", weighting, inside, probability, ends, end_weights)
        differences.append((found - expected) / expected.abs().max())
    print(differences, differences[0]/differences[1])
    assert differences[1].abs().max() < 1e-4
    assert ((4 * differences[1] - differences[0]) / 3).abs().max() < 1e-6
