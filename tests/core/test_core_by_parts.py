"""The gradient by parts against the exact form by quadrature, and what it is under which weights."""

import dataclasses
import math
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
    return dataclasses.replace(levels.slopes, end=torch.full_like(levels.slopes.end, end))


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
    assert differences[1].abs().max() < 1e-4
    assert ((4 * differences[1] - differences[0]) / 3).abs().max() < 1e-6


# --- boundary off: the mixture it claims to be ------------------------------------------------------------------------


def weight_and_level(process, sampler, weighting, log_snr):
    """w = p W / SNR, α and σ at λ [N], from the rows' third columns in weighting.py."""
    high, low = process.log_snr(process.at_fraction(f64([sampler.min_fraction, sampler.max_fraction])))
    at = sampler._at_log_snr(process, log_snr, low, high, torch.zeros_like(log_snr), False)
    factor = {"epsilon": at.alpha / at.sigma, "x0": torch.ones_like(log_snr), "sigma2": at.alpha * at.sigma}[weighting]
    return at.log_snr_density * factor * torch.exp(-log_snr), at.alpha, at.sigma


def divergence_gradient(name, alpha, sigma):
    """∂θ D_f(q_λ‖p_λ), the density integral differentiated on a grid."""
    theta, reach = f64([0.2, 0.6]).requires_grad_(), 14 * (alpha + sigma)
    x = torch.linspace(-reach, reach, 4001, dtype=torch.float64)[:, None]
    variance = alpha**2 * theta[1] ** 2 + sigma**2
    log_p = -0.5 * torch.log(2 * math.pi * variance) - 0.5 * (x[:, 0] - alpha * theta[0]) ** 2 / variance
    log_q = oracle_teacher().log_density(x, alpha, sigma)
    value = torch.trapezoid(log_p.exp() * get_divergence(name).f_log(log_q - log_p), x[:, 0])
    return torch.autograd.grad(value, theta)[0]


@pytest.mark.parametrize(("weighting", "sampler_name"), PAIRS)
@pytest.mark.parametrize("process_name", PROCESSES)
def test_without_its_boundary_it_is_a_mixture_of_divergences(process_name, weighting, sampler_name):
    """∫ (−w') D_f(q_λ‖p_λ) dλ with −w' by finite differences and D_f differentiated as an integral over x."""
    process, sampler, inside, probability, _ = continuous(process_name, sampler_name)
    log_snr = 2 * torch.log(inside.levels.alpha / inside.levels.sigma)
    step = 1e-4
    later, sooner = (weight_and_level(process, sampler, weighting, log_snr + s)[0] for s in (step, -step))
    falling = (sooner - later) / (2 * step)
    assert (falling > 0).all()
    mass = falling / inside.levels.log_snr_density * probability
    for name in ("js", "chi2"):
        expected = sum(
            m * divergence_gradient(name, float(a), float(s))
            for m, a, s in zip(mass, inside.levels.alpha, inside.levels.sigma)
        )
        config = ObjectiveConfig(name, "by_parts", weighting=weighting, log_r_clamp=None)
        torch.testing.assert_close(inside.gradient(config, probability), expected, rtol=1e-6, atol=0)


# --- which rows it is, and under which weights ------------------------------------------------------------------------


def batch(sampler, process):
    """One batch of made-up predictions, and the gradient in x_0 of any configuration on it."""
    size = 6
    drawn = TimeSampler(sampler, 0.05, 0.9).sample(process, size, boundary=0.0)
    x0 = torch.randn(size, 4, dtype=torch.float64).requires_grad_()
    teacher, fake = torch.randn(2, size, 4, dtype=torch.float64)
    log_r = torch.randn(size, dtype=torch.float64)

    def gradient(config):
        out = objective(
            config, x0=x0, x0_teacher=teacher, x0_fake=fake, alpha=drawn.alpha.double(), sigma=drawn.sigma.double(),
            log_r=log_r, log_snr_density=drawn.log_snr_density.double(), slopes=drawn.slopes,
        )  # fmt: skip
        return torch.autograd.grad(out.loss.sum(), x0)[0]

    return gradient


@pytest.mark.parametrize(
    ("row", "sampler", "weighting", "factor"),
    [
        ("diff_instruct", "edm_rho", "uniform", 1 / 14),  # the 2D trainer's own sampler: p ∝ e^(−λ/14)
        ("f_distill", "edm_rho", "uniform", 1 / 14),
        ("f_distill", "uniform_t", "uniform", 1 / 14),  # fractions of EDM's process are that schedule
        ("dmd", "uniform_log_snr", "x0_normalised", 1.0),
        ("dmd2", "edm_rho", "x0_normalised", 15 / 14),
        ("vsd", "uniform_log_snr", "sigma2", 1.5),
    ],
)
def test_kl_based_rows_are_by_parts(row, sampler, weighting, factor):
    """What these rows send into a sample is w ∝ e^(−cλ) by parts, its boundary left out, up to the constant c."""
    gradient = batch(sampler, VarianceExploding())
    method = get_method(row, weighting=weighting).objective
    by_parts = ObjectiveConfig(
        method.divergence, "by_parts", weighting=weighting, batch_normalise=method.batch_normalise
    )
    torch.testing.assert_close(gradient(by_parts), factor * gradient(method), rtol=1e-5, atol=0)


def test_score_based_rows_are_by_parts_with_its_boundary():
    """SiD at α = ½, and SIM with ‖·‖² plus the path term that it leaves out, in expectation over samples and levels."""
    _, _, inside, probability, ends = continuous("edm", "edm_rho")
    end_weights = {1: f64([1, 0]), -1: f64([0, 1])}
    found = by_parts_gradient("rkl", "x0", inside, probability, ends, end_weights)
    sid = get_method("sid", kappa=2 * (1 - 0.5), weighting="x0").objective
    torch.testing.assert_close(inside.gradient(sid, probability), found, rtol=1e-6, atol=0)
    sim = get_method("sim", distance="l2").objective
    path = inside.gradient(sim.replace(kappa=1.0, lambda_sim=0.0), probability)
    without_path = inside.gradient(sim, probability)
    torch.testing.assert_close(without_path + path, found, rtol=1e-6, atol=0)
    assert (path.abs() > 0.05 * found.abs()).any()  # SIM as it ships is another method


def test_under_theory_only_the_boundary_is_left():
    """w = 1: D_f at the least noise less D_f at the most, whatever the sampler."""
    process, sampler, inside, probability, ends = continuous("vp", "uniform_t")
    found = by_parts_gradient("hellinger", "theory", inside, probability, ends, {1: f64([1, 0]), -1: f64([0, 1])})
    least, most = ((float(a), float(s)) for a, s in zip(ends.levels.alpha, ends.levels.sigma))
    expected = divergence_gradient("hellinger", *least) - divergence_gradient("hellinger", *most)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="weighting='theory'.*w is constant.*set boundary above 0"):
        check_by_parts(ObjectiveConfig(gradient="by_parts", weighting="theory"), process, sampler)


# --- sampling, naming, refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [ContinuousVP(), VarianceExploding(), DiscreteVP(torch.linspace(1e-4, 0.02, 1000))])
def test_the_ends_get_their_share(process):
    sampler = TimeSampler("uniform_t", 0.1, 0.7)
    drawn = sampler.sample(process, 4000, boundary=0.3)
    end, log_snr = drawn.slopes.end, process.log_snr(drawn.t)
    assert (end > 0).float().mean().item() == pytest.approx(0.15, abs=0.03)
    assert (end < 0).float().mean().item() == pytest.approx(0.15, abs=0.03)
    edges = process.log_snr(process.at_fraction(torch.tensor([0.7, 0.1])))
    width = 0.05 if process.discrete else 1e-4
    assert (log_snr[end > 0] - edges[1]).abs().max() < width and (log_snr[end < 0] - edges[0]).abs().max() < width
    assert log_snr[end == 0].std() > 0.2
    plain, asked = (
        sampler.sample(process, 9, generator=torch.Generator().manual_seed(1), boundary=b) for b in (None, 0.0)
    )
    assert plain.slopes is None and torch.equal(plain.t, asked.t)  # nothing else is drawn where the boundary is off


def test_terms_are_named():
    drawn = TimeSampler("log_normal", 0.1, 0.9).sample(VarianceExploding(), 64, boundary=0.5)
    x0, teacher, fake = torch.randn(3, 64, 2)
    given = dict(x0=x0, x0_teacher=teacher, x0_fake=fake, alpha=drawn.alpha, sigma=drawn.sigma, log_r=torch.zeros(64))
    config = ObjectiveConfig("js", "by_parts", weighting="epsilon", boundary=0.5)
    out = objective(config, **given, log_snr_density=drawn.log_snr_density, slopes=drawn.slopes)
    assert list(out.terms) == ["mixture", "mixture_negative", "boundary"]
    assert all(out.diagnostics[f"norm/{name}"] > 0 for name in out.terms)
    at_end = drawn.slopes.end != 0
    assert (out.terms["boundary"][~at_end] == 0).all() and (out.terms["mixture"][at_end] == 0).all()
    off = objective(config.replace(boundary=0.0), **given, slopes=drawn.slopes)
    assert list(off.terms) == ["mixture"]


def test_a_negative_mixture_is_refused_or_split():
    process, sampler = VarianceExploding(), TimeSampler("log_normal", 0.1, 0.9)
    config = ObjectiveConfig("js", "by_parts", weighting="epsilon")
    with pytest.raises(ValueError, match=r"sampler 'log_normal': −w' < 0 for σ/α in \[1\.\d+, .*set boundary above 0"):
        check_by_parts(config, process, sampler)
    assert "mixture_negative" in check_by_parts(config.replace(boundary=0.2), process, sampler)
    uniform = TimeSampler("uniform_log_snr", 0.1, 0.9)
    assert "positive mixture" in check_by_parts(config, process, uniform)
    assert "weighted integral" in check_by_parts(config.replace(boundary=0.2), process, uniform)
    assert "positive mixture" in check_by_parts(config.replace(weighting="x0_normalised"), process, uniform)
    assert check_by_parts(config.replace(gradient="exact"), process, sampler) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(gradient="by_parts", distance="pseudo_huber"), "gradient='by_parts' holds for distance=l2"),
        (dict(gradient="by_parts", boundary=1.5), "boundary=1.5 must be at least 0 and at most 1"),
        (dict(gradient="exact", boundary=0.2), "boundary=0.2 belongs to gradient=by_parts, got 'exact'"),
        (dict(log_r_clamp="form"), "log_r_clamp='form' must be above 0 .*or one of auto, or null"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**options)


def test_missing_slopes_are_named():
    x = torch.zeros(2, 3)
    given = dict(x0=x, x0_teacher=x, x0_fake=x, alpha=torch.ones(2), sigma=torch.ones(2))
    with pytest.raises(ValueError, match="needs slopes: TimeSampler.sample"):
        objective(ObjectiveConfig(gradient="by_parts"), **given)
    drawn = TimeSampler().sample(VarianceExploding(), 2, boundary=0.5)
    with pytest.raises(ValueError, match="boundary terms need log_snr_density"):
        objective(ObjectiveConfig(gradient="by_parts", boundary=0.5), **given, slopes=drawn.slopes)


def test_where_log_r_is_cut_belongs_to_the_form():
    assert ObjectiveConfig(gradient="exact").clamp == 30 and ObjectiveConfig(gradient="by_parts").clamp == 10
    assert ObjectiveConfig(gradient="exact", log_r_clamp=5.0).clamp == 5
    assert ObjectiveConfig(gradient="exact", log_r_clamp=None).clamp is None
