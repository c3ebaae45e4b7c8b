"""Bad samples are masked and counted; wrong inputs are named; scale, guidance, auxiliary and ratio losses."""

import math

import pytest
import torch

from uni_instruct_guidance.core import (
    GradientScale,
    ObjectiveConfig,
    RatioWarmup,
    calibration,
    classifier_free,
    critic_slope,
    data_fidelity_loss,
    denoising_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    objective,
    poor_calibration,
    regression_loss,
    rescale_guidance,
    reward_loss,
)

CONFIG = ObjectiveConfig("jkl", "exact", kappa=1.0)


def inputs(batch=4, **changes):
    x0 = torch.randn(batch, 3, requires_grad=True)
    x_t = 0.8 * x0 + 0.6 * torch.randn(batch, 3)
    given = dict(x0=x0, x0_teacher=x_t.tanh(), x0_fake=x_t.sin(), log_r=torch.randn(batch))
    given |= dict(alpha=torch.full((batch,), 0.8), sigma=torch.full((batch,), 0.6))
    return given | changes


@pytest.mark.parametrize("argument", ["x0_teacher", "x0_fake", "log_r", "alpha", "sigma"])
def test_a_bad_sample_is_masked_and_counted(argument):
    given = inputs()
    clean = objective(CONFIG, **given)
    (expected,) = torch.autograd.grad(clean.loss.sum(), given["x0"], retain_graph=True)
    poisoned = given[argument].clone()
    poisoned[2] = math.nan if argument != "log_r" else math.inf
    out = objective(CONFIG, **{**given, argument: poisoned})
    (found,) = torch.autograd.grad(out.loss.sum(), given["x0"])
    keep = [0, 1, 3]
    assert out.valid.tolist() == [True, True, False, True] and int(out.diagnostics["rejected"]) == 1
    torch.testing.assert_close(out.loss[keep], clean.loss[keep])
    torch.testing.assert_close(found[keep], expected[keep])
    assert (found[2] == 0).all() and out.loss[2] == 0
    assert all(torch.isfinite(value) for value in out.diagnostics.values())


def test_a_network_that_answers_nan_does_not_leak_backwards():
    """NaN enters before the network: its backward pass is NaN too, and must stop at x_0."""
    x0 = torch.randn(3, 2, requires_grad=True)
    x_t = x0 * torch.tensor([[1.0], [math.inf], [1.0]])
    out = objective(
        CONFIG,
        x0=x0,
        x0_teacher=x_t.tanh() * x_t,
        x0_fake=x_t.sin(),
        alpha=torch.ones(3),
        sigma=torch.ones(3),
        log_r=torch.zeros(3),
    )
    out.loss.sum().backward()
    assert torch.isfinite(x0.grad).all() and (x0.grad[1] == 0).all() and (x0.grad[0] != 0).all()


def test_batch_normalisation_ignores_bad_samples():
    given = inputs()
    given["log_r"][1] = math.nan
    config = ObjectiveConfig("fkl", "di_weighted", batch_normalise=True)
    with_bad = objective(config, **given).loss
    kept = {name: value[[0, 2, 3]] for name, value in given.items()}
    torch.testing.assert_close(with_bad[[0, 2, 3]], objective(config, **kept).loss)


def test_low_precision_networks_are_promoted():
    given = inputs()
    given |= {name: given[name].bfloat16() for name in ("x0_teacher", "x0_fake")}
    assert objective(CONFIG, **given).loss.dtype == torch.float32


def test_clamp_and_terms():
    given = inputs(log_r=torch.tensor([0.0, 50.0, -50.0, 1.0]))
    out = objective(ObjectiveConfig("chi2", "exact", kappa=0.5, log_r_clamp=3.0), **given)
    assert out.diagnostics["log_r/clipped"].item() == pytest.approx(0.5)
    assert set(out.terms) == {"path", "sim", "di_cubic", "di_cross"}
    torch.testing.assert_close(sum(out.terms.values()), out.loss)
    at_clamp = objective(
        ObjectiveConfig("chi2", "exact", kappa=0.5, log_r_clamp=None),
        **{**given, "log_r": torch.tensor([0.0, 3.0, -3.0, 1.0])},
    )
    torch.testing.assert_close(out.loss, at_clamp.loss)


def test_norm_diagnostics_are_gradients():
    given = inputs()
    out = objective(ObjectiveConfig("rkl", "di", weighting="epsilon"), **given)
    (grad,) = torch.autograd.grad(out.loss.sum(), given["x0"])
    torch.testing.assert_close(out.diagnostics["norm/di"], grad.norm(dim=1).mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(x0_teacher=torch.zeros(4, 2)), r"x0_teacher has shape \[4, 2\], expected \[4, 3\]"),
        (dict(x0_fake=None), "x0_fake must be a tensor"),
        (dict(alpha=torch.ones(3)), r"alpha has shape \[3\], expected \[4\]"),
        (dict(log_r=torch.zeros(4, 1)), "log_r has shape"),
        (dict(x0=torch.zeros(4)), r"x0 must be a tensor \[B, ...\]"),
        (dict(x0_fake=torch.zeros(4, 3)), "jacobian='full'.*x0_fake carries no gradient"),
    ],
)
def test_wrong_inputs_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        objective(CONFIG, **inputs(**changes))


def test_theory_needs_the_density():
    with pytest.raises(ValueError, match="log_snr_density"):
        objective(ObjectiveConfig(weighting="theory"), **inputs())


def test_nothing_to_optimise():
    with pytest.raises(ValueError, match="nothing to optimise"):
        objective(ObjectiveConfig(lambda_sim=0.0, lambda_di=0.0), **inputs())


def test_gradient_scale_is_independent_of_the_method():
    small, large = GradientScale("running", target=0.1), GradientScale("running", target=0.1)
    for _ in range(50):
        grad = torch.randn(2, 8)
        a, b = small(grad * 1e-3), large(grad * 1e3)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=0)
    assert a.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.6)
    resumed = GradientScale("running", target=0.1)
    resumed.load_state_dict(small.state_dict())
    torch.testing.assert_close(resumed.eval()(grad), small.eval()(grad))


def test_gradient_scale_clips_and_ignores_bad_samples():
    scale = GradientScale("none", max_ratio=2.0)
    for _ in range(20):
        scale(torch.ones(2, 4))
    out = scale.eval()(torch.tensor([[1.0] * 4, [100.0] * 4, [math.nan] * 4]))
    torch.testing.assert_close(out, torch.tensor([[1.0] * 4, [2.0] * 4, [0.0] * 4]))
    batch = GradientScale("batch", target=3.0)(torch.full((2, 4), 7.0))
    torch.testing.assert_close(batch, torch.full((2, 4), 3.0))
    with pytest.raises(ValueError, match="mode='auto'.*none, running, batch"):
        GradientScale("auto")


def test_guidance_composition():
    c, u = torch.randn(2, 3, 4)
    torch.testing.assert_close(classifier_free(c, u, 1.0), c)
    torch.testing.assert_close(classifier_free(c, u, torch.tensor([0.0, 1.0, 2.0]))[0], u[0])
    rescaled = rescale_guidance(5 * c, c, 1.0)
    torch.testing.assert_close(rescaled.std(1), c.std(1))
    torch.testing.assert_close(rescale_guidance(5 * c, c, 0.0), 5 * c)


def test_discriminator_losses():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    expected = -(real.sigmoid().log() + (1 - fake.sigmoid()).log())
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), -fake.sigmoid().log())
    x = torch.randn(3, 2, requires_grad=True)
    torch.testing.assert_close(gradient_penalty(x.square().sum(1), x), 4 * x.detach().square().sum(1))


def test_warmup():
    warmup = RatioWarmup(steps=10, ramp=3)
    assert [warmup.factor(step) for step in (0, 9, 10, 11, 13, 99)] == pytest.approx([0, 0, 0.25, 0.5, 1, 1])
    assert (warmup(torch.ones(2), 5) == 0).all()


def test_calibration_of_known_errors():
    true = torch.randn(20_000) * 2
    perfect = calibration(true, true)
    assert perfect.expected_calibration_error == 0 and perfect.slope == pytest.approx(1)
    timid = calibration(0.5 * true + 0.1, true)
    assert timid.slope == pytest.approx(0.5, abs=1e-3) and timid.bias == pytest.approx(0.1, abs=0.05)
    assert timid.expected_calibration_error > 0.05


@pytest.mark.parametrize("factor", [0.05, 1.0, 1.7])
def test_critic_slope_is_the_factor_of_log_r(factor):
    """Two Gaussians: ∇log r = s_q − s_p is known, and a critic off by a factor has that slope at every noise level."""
    sigma, alpha = torch.linspace(0.1, 2, 50), torch.full((50,), 0.9)
    x = torch.randn(50, 3, requires_grad=True)
    variances = [(alpha**2 * std**2 + sigma**2)[:, None] for std in (0.5, 1.0)]
    log_r = sum(sign * (x - 0.3 * (sign < 0)).square() / v for sign, v in zip((-0.5, 0.5), variances)).sum(1)
    (gradient,) = torch.autograd.grad(log_r.sum(), x)
    scores = (-(x - 0.3) / variances[0], -x / variances[1])
    x0_teacher, x0_fake = ((x + sigma[:, None] ** 2 * score) / alpha[:, None] for score in scores)
    found = critic_slope(factor * gradient, x0_teacher, x0_fake, alpha, sigma)
    assert found.item() == pytest.approx(factor, rel=1e-4)
    assert critic_slope(gradient, x0_fake, x0_fake, alpha, sigma) == 0


def test_a_poor_critic_is_named_where_it_matters():
    exact, by_parts = (ObjectiveConfig("js", gradient) for gradient in ("exact", "by_parts"))
    line = poor_calibration(0.07, exact, "method.gradient", "warmup.student")
    assert line.startswith("the critic's calibration slope is 0.07") and "method.gradient=by_parts" in line
    assert "warmup.student" in line and poor_calibration(0.8, exact, "g", "p") is None
    assert poor_calibration(0.07, by_parts, "g", "p") is None  # nothing cancels there
    assert poor_calibration(0.07, ObjectiveConfig("rkl", "exact"), "g", "p") is None  # no ratio is read


def test_without_a_ratio_forms_that_cancel_are_reverse_kl():
    warmup, exact = RatioWarmup(steps=10), ObjectiveConfig("js", "exact", kappa=1.0)
    assert warmup.in_force(exact, 9) == ObjectiveConfig("rkl", "exact", kappa=1.0)
    assert warmup.in_force(exact, 10) is exact
    by_parts = ObjectiveConfig("js", "by_parts", boundary=0.2)
    assert warmup.in_force(by_parts, 0) is by_parts


def test_denoising_weights():
    x0, guess = torch.randn(2, 4, 5)
    alpha, sigma = torch.full((4,), 0.8), torch.full((4,), 0.6)
    error = (x0 - guess).square().mean(1)
    expected = {"epsilon": 16 / 9, "x0": 1.0, "v_prediction": 25 / 9, "min_snr": 1.5, "edm": 16 / 9 + 4}
    for weighting, weight in expected.items():
        found = denoising_loss(guess, x0, alpha, sigma, weighting, sigma_data=0.5, max_snr=1.5)
        torch.testing.assert_close(found, weight * error)


def test_auxiliary_losses():
    x = torch.randn(3, 4, requires_grad=True)
    torch.testing.assert_close(regression_loss(x, x.detach() + 2.0), torch.full((3,), 4.0))
    torch.testing.assert_close(regression_loss(x, x.detach() + 2.0, "l1"), torch.full((3,), 2.0))
    halves = data_fidelity_loss(x, torch.zeros(3, 2), lambda image: image[:, :2])
    torch.testing.assert_close(halves, x[:, :2].square().sum(1))
    torch.testing.assert_close(reward_loss(x, lambda image: image.sum(1)), -x.sum(1))
    with pytest.raises(ValueError, match="not differentiable"):
        reward_loss(x, lambda image: image.detach().sum(1))
    with pytest.raises(ValueError, match="measurement has shape"):
        data_fidelity_loss(x, torch.zeros(3, 3), lambda image: image[:, :2])


def test_gradcheck_through_both_networks():
    """The surrogate's gradient is what autograd says of its own value once the stop-gradients are constants."""
    config = ObjectiveConfig("rkl", "exact", kappa=1.0)  # rkl: no stop-gradient left
    eps = torch.randn(2, 3, dtype=torch.float64)

    def loss(x0):
        x_t = 0.8 * x0 + 0.6 * eps
        levels = dict(alpha=torch.full((2,), 0.8).double(), sigma=torch.full((2,), 0.6).double())
        return objective(config, x0=x0, x0_teacher=x_t.tanh(), x0_fake=x_t.sin(), **levels).loss

    start = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    # The hook that cuts bad samples needs a defined gradient.
    assert torch.autograd.gradcheck(loss, start, check_undefined_grad=False)
