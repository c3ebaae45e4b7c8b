"""The ODE sampler against the closed-form flow of a Gaussian, and what a network is asked."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from uni_instruct_guidance.teachers.sampling import HeunSampler, balanced_labels, one_step, sample_batches

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
STD = torch.tensor([0.9, 0.2], dtype=torch.float64)
TURN = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64)


class GaussianTeacher:
    """x_0 ~ N(MEAN, TURN diag(STD²) TURNᵀ): E[x_0 | x_t] = μ + Σ(Σ + σ²)⁻¹(x − μ), counting its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma, class_labels):
        self.calls += 1
        assert sigma.shape == (len(x),) and class_labels is None
        shrink = STD**2 / (STD**2 + sigma[:, None] ** 2)
        return MEAN + ((x - MEAN) @ TURN * shrink) @ TURN.T


def analytic_end(noise, sigma_max):
    """Along each axis of Σ: x − μ ∝ √(s² + σ²), so (x_0 − μ) = s / √(s² + σ_max²) (σ_max z − μ)."""
    start = sigma_max * noise - MEAN
    return MEAN + (start @ TURN * (STD / (STD**2 + sigma_max**2).sqrt())) @ TURN.T


def test_default_schedule_is_edm():
    sampler = HeunSampler()
    sigmas = sampler.sigmas()
    assert len(sigmas) == 19 and sampler.nfe == 35
    assert sigmas[0] == pytest.approx(80.0) and sigmas[-2] == pytest.approx(0.002) and sigmas[-1] == 0
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    torch.testing.assert_close(sigmas[:-1], torch.tensor(expected, dtype=torch.float64))


def test_every_sample_follows_the_analytic_flow_at_second_order():
    """Heun is of second order: twice the steps, a quarter of the error; 35 evaluations are 3 % of a std away."""
    noise = torch.randn(200, 2, dtype=torch.float64)
    errors = []
    for steps in (18, 36, 72):
        teacher, sampler = GaussianTeacher(), HeunSampler(steps=steps)
        end = sampler(teacher, noise)
        assert teacher.calls == sampler.nfe
        errors.append(float((end - analytic_end(noise, 80.0)).square().mean().sqrt()))
    assert errors[0] < 0.04
    for coarse, fine in pairwise(errors):
        assert 3.5 < coarse / fine < 5.0


def test_mean_and_covariance():
    """Against the flow's exact mean and covariance; noise whitened to exact moments leaves only the solver's error."""
    noise = torch.randn(500, 2, dtype=torch.float64)
    noise = noise - noise.mean(0)
    noise = torch.linalg.solve_triangular(torch.linalg.cholesky(noise.T.cov()), noise.T, upper=False).T
    end = HeunSampler(steps=150)(GaussianTeacher(), noise)
    scale = STD / (STD**2 + 80.0**2).sqrt()
    mean = MEAN - (MEAN @ TURN * scale) @ TURN.T
    covariance = TURN @ torch.diag((80.0 * scale) ** 2) @ TURN.T
    torch.testing.assert_close(end.mean(0), mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(end.T.cov(), covariance, atol=1e-3, rtol=0)


def test_churn_keeps_the_distribution_and_repeats_with_its_generator():
    """Added noise must not change mean and covariance: 3 standard errors of 20,000 samples, 1e-3 of the solver."""
    noise = torch.randn(20_000, 2, dtype=torch.float64)
    sampler = HeunSampler(steps=160, churn=30.0)
    draws = [sampler(GaussianTeacher(), noise, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    assert (draws[0] - draws[2]).abs().mean() > 0.1
    torch.testing.assert_close(draws[0].mean(0), MEAN, atol=0.02, rtol=0)
    torch.testing.assert_close(draws[0].T.cov(), TURN @ torch.diag(STD**2) @ TURN.T, atol=0.024, rtol=0)


def test_churn_stays_in_its_range():
    x = torch.zeros(4, 2, dtype=torch.float64)
    sampler = HeunSampler(steps=10, churn=100.0, churn_min=0.1, churn_max=10.0)
    generator = torch.Generator().manual_seed(0)
    assert sampler._churned(x, 0.05, generator)[1] == 0.05
    assert sampler._churned(x, 20.0, generator)[1] == 20.0
    assert sampler._churned(x, 1.0, generator)[1] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 1}, "steps=1"), ({"churn": -1.0}, "churn=-1.0"), ({"sigma_min": 90.0}, "sigma_min")],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        HeunSampler(**options)


def test_churn_without_generator_is_refused():
    with pytest.raises(ValueError, match="generator"):
        HeunSampler(churn=5.0)(GaussianTeacher(), torch.zeros(1, 2, dtype=torch.float64))


def test_one_step_asks_once_at_init_sigma_and_is_differentiable():
    asked = []

    def network(x, sigma, class_labels):
        asked.append((x, sigma, class_labels))
        return 2 * x

    noise, labels = torch.randn(3, 1, 4, 4, requires_grad=True), torch.eye(3)
    out = one_step(network, noise, labels, init_sigma=1.5)
    out.sum().backward()
    (x, sigma, given), *rest = asked
    assert not rest and given is labels
    torch.testing.assert_close(sigma, torch.full((3,), 1.5))
    torch.testing.assert_close(x, 1.5 * noise)
    torch.testing.assert_close(noise.grad, torch.full_like(noise, 3.0))


def test_batches_cover_the_count_request_classes_in_turn_and_repeat():
    def draw(noise, one_hot):
        return noise + one_hot.argmax(1).to(noise)[:, None]

    def run():
        generator = torch.Generator().manual_seed(3)
        return list(sample_batches(draw, 10, (5,), batch=4, generator=generator, classes=3))

    batches = run()
    assert [len(images) for images, _ in batches] == [4, 4, 2]
    labels = torch.cat([labels for _, labels in batches])
    assert labels.tolist() == balanced_labels(10, 3).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    for (images, _), (again, _) in zip(batches, run()):
        torch.testing.assert_close(images, again, rtol=0, atol=0)


def test_unconditional_batches_have_no_labels():
    generator = torch.Generator().manual_seed(3)
    draw = partial(one_step, lambda x, sigma, labels: x if labels is None else None, init_sigma=1.0)
    (images, labels), = sample_batches(draw, 2, (1, 2, 2), batch=8, generator=generator)  # fmt: skip
    assert images.shape == (2, 1, 2, 2) and labels is None
