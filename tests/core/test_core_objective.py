"""The estimator against quadrature oracles, its own quadrature, Theorem 3.1 and Monte Carlo."""

import math

import pytest
import torch
from closed_forms import ORACLE_NAMES, ORACLES, Mixture, f64, gaussian, hermite, oracle_teacher

from uni_instruct_guidance.core import ObjectiveConfig, get_divergence, objective

LEVELS = [(row["alpha"], row["sigma"]) for row in ORACLES["divergences"]["forward_kl"]["rows"]]


def pearson_skewed(r):
    """A convex f that no row has: (r − 1)²/(r + 1), triangular discrimination."""
    return (r - 1) ** 2 / (r + 1)


def expected_gradient(config, alpha, sigma):
    """∇_(μ,s) of E[surrogate] in the units of E[h‖Δ‖²], by Gauss-Hermite quadrature over (x_0, ε)."""
    teacher, mu, std = oracle_teacher(), f64(0.2).requires_grad_(), f64(0.6).requires_grad_()
    z, w = hermite(180)
    z_x0, z_eps = (grid.reshape(-1, 1) for grid in torch.meshgrid(z, z, indexing="ij"))
    x0 = mu + std * z_x0
    x_t = alpha * x0 + sigma * z_eps
    student = gaussian([0.2], 0.6)
    with torch.no_grad():
        log_r = teacher.log_density(x_t, alpha, sigma) - student.log_density(x_t, alpha, sigma)
    size = (len(x0),)
    out = objective(
        config,
        x0=x0,
        x0_teacher=teacher.denoise(x_t, alpha, sigma),
        x0_fake=student.denoise(x_t, alpha, sigma),
        alpha=torch.full(size, alpha, dtype=torch.float64),
        sigma=torch.full(size, sigma, dtype=torch.float64),
        log_r=log_r,
    )
    # weighting "uniform" is ½ SNR in x̂0 units; ‖Δ‖² = (α²/σ⁴)‖δ‖², hence the factor 2/σ².
    loss = ((w[:, None] * w).reshape(-1) * out.loss).sum() * 2 / sigma**2
    return torch.stack(torch.autograd.grad(loss, [mu, std]))


def quadrature_gradient(divergence, alpha, sigma):
    """∇_(μ,s) of E_{p_t}[h(r)‖Δ‖²] with everything, ratio and student score included, differentiated on a grid."""
    mu, std = f64(0.2).requires_grad_(), f64(0.6).requires_grad_()
    x = torch.linspace(-14, 14, 8001, dtype=torch.float64)[:, None]
    teacher, variance = oracle_teacher(), alpha**2 * std**2 + sigma**2
    log_p = -0.5 * torch.log(2 * math.pi * variance) - 0.5 * (x[:, 0] - alpha * mu) ** 2 / variance
    gap = -(x[:, 0] - alpha * mu) / variance - teacher.score(x, alpha, sigma)[:, 0]
    log_r = teacher.log_density(x, alpha, sigma) - log_p
    value = torch.trapezoid(log_p.exp() * _h_of(divergence, log_r) * gap**2, x[:, 0])
    return torch.stack(torch.autograd.grad(value, [mu, std]))


def _h_of(divergence, log_r):
    closed = {
        "hellinger": lambda l: 0.5 * torch.exp(l / 2),
        pearson_skewed: lambda l: 8 * l.exp() ** 2 / (l.exp() + 1) ** 3,
    }
    return closed[divergence](log_r)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("name", ORACLE_NAMES)
def test_exact_form_is_the_gradient(name, level):
    oracle = ORACLES["divergences"][ORACLE_NAMES[name]]["rows"][level]
    config = ObjectiveConfig(name, "exact", kappa=1.0, log_r_clamp=None)
    found = expected_gradient(config, *LEVELS[level])
    torch.testing.assert_close(found, f64(oracle["grad_true"]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("name", ORACLE_NAMES)
def test_paper_form_is_the_printed_column(name, level):
    oracle = ORACLES["divergences"][ORACLE_NAMES[name]]["rows"][level]
    found = expected_gradient(ObjectiveConfig(name, "paper", log_r_clamp=None), *LEVELS[level])
    torch.testing.assert_close(found, f64(oracle["grad_paper_form_eq3.3"]), rtol=1e-6, atol=0)
    assert not torch.allclose(found, f64(oracle["grad_true"]), rtol=0.05)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("divergence", ["hellinger", pearson_skewed])
def test_exact_form_by_own_quadrature(divergence, level):
    config = ObjectiveConfig(divergence, "exact", kappa=1.0, log_r_clamp=None)
    expected = quadrature_gradient(divergence, *LEVELS[level])
    torch.testing.assert_close(expected_gradient(config, *LEVELS[level]), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*ORACLE_NAMES, "hellinger"])
def test_theorem_3_1(name):
    """∫½g² E[h‖Δ‖²]dt = D_f: the objective's value under weighting `theory`, summed over λ and x_t."""
    teacher, student, row = oracle_teacher(), gaussian([0.2], 0.6), get_divergence(name)
    x0 = torch.linspace(-16, 16, 4001, dtype=torch.float64)[:, None]
    r = torch.exp(teacher.log_density(x0) - student.log_density(x0))
    direct = torch.trapezoid(student.log_density(x0).exp() * row.f(r), x0[:, 0])
    if name in ORACLE_NAMES:
        assert direct.item() == pytest.approx(ORACLES["divergences"][ORACLE_NAMES[name]]["D_f"], rel=1e-6)
    log_snrs = torch.linspace(-10, 14, 97, dtype=torch.float64)
    slices = torch.stack([_expected_value(name, teacher, student, log_snr) for log_snr in log_snrs])
    # Cutting λ to [-10, 14] leaves out less than 1e-4 of every divergence here.
    assert torch.trapezoid(slices, log_snrs).item() == pytest.approx(direct.item(), rel=1e-3)


def _expected_value(name, teacher, student, log_snr):
    alpha, sigma = log_snr.sigmoid().sqrt().item(), (-log_snr).sigmoid().sqrt().item()
    x_t = torch.linspace(-16, 16, 4001, dtype=torch.float64)[:, None]
    ones = torch.ones(len(x_t), dtype=torch.float64)
    log_p = student.log_density(x_t, alpha, sigma)
    out = objective(
        ObjectiveConfig(name, "exact", jacobian="none", weighting="theory", log_r_clamp=None),
        x0=torch.zeros_like(x_t),
        x0_teacher=teacher.denoise(x_t, alpha, sigma),
        x0_fake=student.denoise(x_t, alpha, sigma),
        alpha=alpha * ones,
        sigma=sigma * ones,
        log_r=teacher.log_density(x_t, alpha, sigma) - log_p,
        log_snr_density=ones,
    )
    return torch.trapezoid(log_p.exp() * out.value, x_t[:, 0])


TEACHER_2D = Mixture([0.4, 0.6], [[-1.0, 0.5], [0.8, -0.3]], [0.5, 0.7])


@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("name", ["fkl", "rkl", "jkl", "js"])
def test_monte_carlo_in_2d(name, kappa):
    """Mean of per-sample gradients within three standard errors of a grid quadrature."""
    alpha, sigma, mu, std = 0.9, 0.6, f64([0.1, -0.2]), 0.8
    count = 100_000
    x0 = (mu + std * torch.randn(count, 2, dtype=torch.float64)).requires_grad_()
    student = gaussian(mu.tolist(), std)
    x_t = alpha * x0 + sigma * torch.randn(count, 2, dtype=torch.float64)
    with torch.no_grad():
        log_r = TEACHER_2D.log_density(x_t, alpha, sigma) - student.log_density(x_t, alpha, sigma)
    ones = torch.ones(count, dtype=torch.float64)
    out = objective(
        ObjectiveConfig(name, "exact", kappa=kappa, log_r_clamp=None),
        x0=x0,
        x0_teacher=TEACHER_2D.denoise(x_t, alpha, sigma),
        x0_fake=student.denoise(x_t, alpha, sigma),
        alpha=alpha * ones,
        sigma=sigma * ones,
        log_r=log_r,
    )
    (grad,) = torch.autograd.grad(out.loss.sum() * 2 / sigma**2, x0)
    # x_0 = μ + s z: the columns are d/dμ (2) and d/ds.
    per_sample = torch.cat([grad, (grad * (x0.detach() - mu) / std).sum(1, keepdim=True)], 1)
    error = per_sample.std(0) / count**0.5
    expected = _grid_gradient_2d(name, kappa, alpha, sigma, mu, std)
    assert (error < 0.2 * expected.abs().max()).all()  # the test has power
    assert ((per_sample.mean(0) - expected).abs() < 3 * error).all()


def _grid_gradient_2d(name, kappa, alpha, sigma, mu, std):
    """d/d(μ, s) of E[h‖Δ‖²] on a grid, less (1 − κ) times the path term's gradient."""
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2).requires_grad_()
    cell, row = (axis[1] - axis[0]) ** 2, get_divergence(name)
    mu, std = mu.clone().requires_grad_(), f64(std).requires_grad_()
    variance = alpha**2 * std**2 + sigma**2
    log_p = -torch.log(2 * math.pi * variance) - 0.5 * (x - alpha * mu).square().sum(1) / variance
    gap = -(x - alpha * mu) / variance - TEACHER_2D.score(x, alpha, sigma)
    log_r = TEACHER_2D.log_density(x, alpha, sigma) - log_p
    square, density = gap.square().sum(1), log_p.exp()
    h = {"fkl": log_r.exp(), "rkl": torch.ones_like(log_r), "jkl": log_r.exp() + 1, "js": log_r.sigmoid()}[name]
    value = (density * h * square).sum() * cell
    d_mu, d_std = torch.autograd.grad(value, [mu, std], retain_graph=True)
    (slope,) = torch.autograd.grad(square.sum(), x)
    with torch.no_grad():
        path = ((row.h(log_r) - row.rh_prime(log_r)) * density * cell)[:, None] * slope * alpha
        mean_z = alpha * std * (x - alpha * mu) / variance  # E[z | x_t]
        d_path = torch.cat([path.sum(0), (path * mean_z).sum().reshape(1)])
    return torch.cat([d_mu, d_std.reshape(1)]) - (1 - kappa) * d_path
