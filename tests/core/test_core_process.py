"""Noise processes against numerical derivatives, samplers against their densities, conversions round trip."""

import pytest
import torch

from uni_instruct_guidance.core import (
    PARAMETERISATIONS,
    SAMPLERS,
    ContinuousVP,
    DiscreteVP,
    Schedule,
    TimeSampler,
    VarianceExploding,
    from_x0,
    to_x0,
)

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
PROCESSES = {"discrete": DiscreteVP(BETAS), "vp": ContinuousVP(), "ve": VarianceExploding()}


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_rates_are_derivatives(name):
    process = PROCESSES[name]
    fraction = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    t = process.at_fraction(fraction).requires_grad_()
    (rate,) = torch.autograd.grad(process.log_snr(t).sum(), t)
    torch.testing.assert_close(process.log_snr_rate(t), -rate)
    alpha, sigma = process.alpha_sigma(t)
    torch.testing.assert_close(2 * torch.log(alpha / sigma), process.log_snr(t))
    torch.testing.assert_close(process.half_g2(t), 0.5 * sigma**2 * -rate)
    torch.testing.assert_close(process.at_log_snr(process.log_snr(t)), t)
    torch.testing.assert_close(process.fraction(t), fraction)
    grown = process.at_fraction(fraction + 1e-6)
    torch.testing.assert_close(process.fraction_rate(t), (grown - t) / 1e-6, rtol=1e-4, atol=1e-6)


def test_half_g2_closed_forms():
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(ContinuousVP(0.1, 20.0).half_g2(t), 0.5 * (0.1 + 19.9 * t))  # g² = β
    torch.testing.assert_close(VarianceExploding().half_g2(t), t)  # g² = dσ²/dσ = 2σ


def test_discrete_matches_diffusers_tables():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    process, t = DiscreteVP.from_scheduler(scheduler), torch.arange(1000)
    torch.testing.assert_close(process.alpha(t).square(), scheduler.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert torch.equal(process.at_log_snr(process.log_snr(t)), t)
    # Widths tile the λ range: their sum is the whole of it.
    span = process.log_snr(torch.tensor([0])) - process.log_snr(torch.tensor([999]))
    torch.testing.assert_close(process.log_snr_rate(t).sum(), span[0])


def test_zero_terminal_snr_is_finite():
    process = DiscreteVP(torch.tensor([0.1, 0.5, 1.0]))
    alpha, sigma = process.alpha_sigma(torch.tensor([2]))
    assert alpha.item() == 0 and sigma.item() == 1
    assert torch.isfinite(process.log_snr(torch.arange(3))).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_sampled_density_integrates_to_the_range(name, sampler):
    """E[1/p(λ)] is the length of the visited λ range, and E[λ/p] its first moment, whatever the sampler."""
    process = PROCESSES[name]
    drawn = TimeSampler(sampler, 0.2, 0.6).sample(process, 200_000)
    ends = process.log_snr(process.at_fraction(torch.tensor([0.6, 0.2])))
    inverse, log_snr = 1 / drawn.log_snr_density, 2 * torch.log(drawn.alpha / drawn.sigma)
    for weight, expected in ((inverse, ends[1] - ends[0]), (inverse * log_snr, (ends[1] ** 2 - ends[0] ** 2) / 2)):
        error = weight.std() / len(weight) ** 0.5
        # Four standard errors, plus half an index (1/800 of the range) at each end of the discrete table.
        tolerance = 4 * error + 3e-3 * (weight.abs().mean() if process.discrete else 0.0) + 1e-4 * expected.abs()
        assert abs(weight.mean() - expected) < tolerance
    assert (log_snr >= ends[0] - 0.02).all() and (log_snr <= ends[1] + 0.02).all()


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_conversions_round_trip(kind):
    alpha, sigma = torch.tensor([0.8, 1.0, 0.3]).double(), torch.tensor([0.6, 2.5, 0.9539392]).double()
    x0, eps = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    x_t = alpha.view(-1, 1, 1, 1) * x0 + sigma.view(-1, 1, 1, 1) * eps
    output = from_x0(x0, x_t, alpha, sigma, kind)
    torch.testing.assert_close(to_x0(output, x_t, alpha, sigma, kind), x0)
    wide = (alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1))
    expected = {"epsilon": eps, "v_prediction": wide[0] * eps - wide[1] * x0, "sample": x0, "score": -eps / wide[1]}
    torch.testing.assert_close(output, expected[kind])


def test_schedule():
    anneal = Schedule.parse([100, 0.98, 0.5, 200, 0.4, 300])
    assert [anneal(step) for step in (0, 100, 150, 200, 250, 999)] == pytest.approx([0.98, 0.98, 0.74, 0.5, 0.45, 0.4])
    assert Schedule.parse([1.0, 0.0, 10])(5) == pytest.approx(0.5)
    assert Schedule.parse(0.3)(7) == 0.3
    assert TimeSampler(max_fraction=[0.98, 0.5, 100]).range(50) == pytest.approx((0.02, 0.74))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeSampler("cosine"), "sampler='cosine'.*uniform_t, uniform_log_snr, edm_rho, log_normal"),
        (lambda: TimeSampler(max_fraction=1.5), "max_fraction=1.5"),
        (lambda: TimeSampler(min_fraction=0.9, max_fraction=0.5).range(0), "min_fraction=0.9 must be below"),
        (lambda: Schedule.parse([1, 2]), "schedule="),
        (lambda: Schedule.parse([5, 1.0, 0.0, 3]), "increasing"),
        (lambda: DiscreteVP(torch.tensor([0.1, 1.5])), "betas"),
        (lambda: DiscreteVP(torch.tensor([0.1, 0.5])).alpha(torch.tensor([0.5])), "integer indices"),
        (lambda: to_x0(*[torch.ones(1, 1)] * 2, *[torch.ones(1)] * 2, "noise"), "prediction_type='noise'.*epsilon"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
