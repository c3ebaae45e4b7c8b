"""Inverse problems: RED-diff and DPS as their papers write them, against a posterior that is known."""

import copy

import pytest
import torch
from gaussian_teacher import GaussianTeacher

from uni_instruct_guidance.core import DiscreteVP, get_method
from uni_instruct_guidance.core.operators import make_operator
from uni_instruct_guidance.editing.restore import (
    RESTORERS,
    RestoreConfig,
    Told,
    ancestral_step,
    red_diff_loss,
    restore,
)

SHAPE = (3, 8, 8)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def operator(task: str = "inpaint", **options):
    return make_operator(task, SHAPE, torch.Generator().manual_seed(0), **options)


def told(batch: int, mean: float = 0.2) -> Told:
    return Told(torch.full((batch, *SHAPE), mean), torch.zeros(batch, *SHAPE))


def test_red_diff_is_the_papers():
    """Algorithm 1 of arXiv 2305.04391: ∇μ of the data term plus λ_t (ε̂ − ε), λ_t = λ σ_t/α_t; means of both."""
    teacher, a = GaussianTeacher(), operator("super-resolution", factor=2)
    mu, y, eps, t = (
        drawn(2, *SHAPE).requires_grad_(),
        drawn(2, 3, 4, 4, seed=1),
        drawn(2, *SHAPE, seed=2),
        torch.tensor([0.3, 0.8]),
    )
    alpha, sigma = teacher.process.alpha_sigma(t)
    x_t = teacher.process.diffuse(mu.detach(), eps, t)
    x0 = teacher.predict_x0(x_t, t, None)
    loss, residual = red_diff_loss(get_method("red_diff"), 0.3, mu, mu, y, a, x0, mu.detach(), alpha, sigma)
    (grad,) = torch.autograd.grad(loss.sum(), mu)

    alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in (alpha, sigma))
    eps_hat = (x_t - alpha * x0) / sigma
    again = mu.detach().requires_grad_()
    data = 0.5 * (y - torch.nn.functional.avg_pool2d(again, 2)).square().flatten(1).mean(1)
    prior = (0.3 * sigma / alpha * (eps_hat - eps) * again).flatten(1).mean(1)
    (expected,) = torch.autograd.grad((data + prior).sum(), again)
    torch.testing.assert_close(grad, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        residual, (y - torch.nn.functional.avg_pool2d(mu.detach(), 2)).square().flatten(1).mean(1).sqrt()
    )


def test_red_diff_ends_where_data_and_prior_balance():
    """E[λ_t (ε̂ − ε)] ∝ μ − mean for a normal prior: what is missing goes to the mean, what is known stays."""
    teacher, a = GaussianTeacher(spread=0.3), operator(missing=0.5)
    y = a.forward(torch.full((1, *SHAPE), -0.6))
    config = RestoreConfig(steps=400, prior=0.02, noise=(0.3, 0.9))
    done = restore(teacher, y, a, told(1), config, [0])
    known = a.forward(torch.ones(1, *SHAPE)) > 0
    found = 2 * done.pictures - 1
    assert found[known].mean() == pytest.approx(-0.6, abs=0.03)
    assert found[~known].mean() == pytest.approx(0.2, abs=0.05)
    assert done.calls == 400 and done.backward == 0 and len(done.residual) == 400


def test_the_prior_counts_more_where_the_measurement_is_noisy():
    assert RestoreConfig(sigma_y=0.5).prior_weight > RestoreConfig().prior_weight
    assert RestoreConfig(sigma_y=0.5, prior=0.1).prior_weight == 0.1


def test_a_step_back_is_the_chains():
    """DDPM's posterior q(x_{t−1} | x_t, x0): mean √ᾱ' β/(1 − ᾱ) x0 + √(1 − β) (1 − ᾱ')/(1 − ᾱ) x_t, variance β̃."""
    betas = torch.linspace(1e-3, 0.1, 50)
    process, x_t, x0 = DiscreteVP(betas), drawn(1, 2), drawn(1, 2, seed=1)
    now, after = (process.alpha_sigma(torch.tensor([index])) for index in (30, 29))
    total, before, beta = now[0].square(), after[0].square(), betas[30]
    mean = before.sqrt() * beta / (1 - total) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - total) * x_t
    spread = (beta * (1 - before) / (1 - total)).sqrt()
    eps = drawn(1, 2, seed=2)
    torch.testing.assert_close(ancestral_step(x_t, x0, now, after, eps), mean + spread * eps, atol=1e-4, rtol=1e-4)
    clean = (torch.ones(1), torch.zeros(1))
    torch.testing.assert_close(ancestral_step(x_t, x0, now, clean, eps), x0)


def test_dps_samples_the_prior_where_nothing_is_known_and_the_data_where_it_is():
    teacher, a = GaussianTeacher(shape=(1, 32, 32), spread=0.3), None
    a = make_operator("inpaint", (1, 32, 32), torch.Generator().manual_seed(0), missing=0.5)
    y = a.forward(torch.full((1, 1, 32, 32), -0.3))
    mean = Told(torch.full((1, 1, 32, 32), 0.2))
    done = restore(teacher, y, a, mean, RestoreConfig("dps", steps=60, strength=10.0), [0])
    known = a.forward(torch.ones_like(y)) > 0
    found = 2 * done.pictures - 1
    assert found[known].mean() == pytest.approx(-0.3, abs=0.06)
    assert found[~known].mean() == pytest.approx(0.2, abs=0.06)
    assert found[~known].std() == pytest.approx(0.3, abs=0.06)
    assert (done.calls, done.backward, teacher.asked) == (60, 60, 60)


def test_dps_step_by_hand():
    """Algorithm 1 of arXiv 2209.14687 over two levels, with ζ ∇‖y − A x̂0‖."""
    teacher, a = GaussianTeacher(), operator("super-resolution", factor=2)
    y, t = drawn(1, 3, 4, 4, seed=1), None
    config = RestoreConfig("dps", steps=2, strength=0.5, noise=(0.2, 0.6))
    seen = []
    done = restore(teacher, y, a, told(1), config, [3], lambda step, residual: seen.append(residual))
    from uni_instruct_guidance.teachers.randomness import generator

    def noise(step, purpose="noise"):
        return torch.randn((1, *SHAPE), generator=generator(3, step, purpose))

    x = noise(0, "start")
    high, low = (teacher.process.at_fraction(torch.tensor([f])) for f in (0.6, 0.2))
    ends = [teacher.process.alpha_sigma(high), teacher.process.alpha_sigma(low), (torch.ones(1), torch.zeros(1))]
    for step, t in enumerate((high, low)):
        x = x.requires_grad_()
        x0 = teacher.predict_x0(x, t, told(1).condition)
        length = (y - torch.nn.functional.avg_pool2d(x0, 2)).norm()
        (grad,) = torch.autograd.grad(length, x)
        assert seen[step] == pytest.approx(float(length.detach()) / 48**0.5, rel=1e-5)
        x = ancestral_step(x.detach(), x0.detach(), ends[step], ends[step + 1], noise(step)) - 0.5 * grad
    torch.testing.assert_close(done.pictures, (x / 2 + 0.5).clamp(0, 1))


def test_the_pseudo_inverse_asks_nobody():
    teacher, a = GaussianTeacher(), operator()
    y = a.forward(drawn(2, *SHAPE).clamp(-1, 1))
    done = restore(teacher, y, a, told(2), RestoreConfig("pseudo_inverse"), [0, 1])
    assert done.calls == teacher.asked == 0
    torch.testing.assert_close(done.pictures, y / 2 + 0.5)


@pytest.mark.parametrize("method", ["red_diff", "dps"])
def test_guidance_and_neighbours(method):
    teacher, a = GaussianTeacher(), operator()
    y = a.forward(drawn(2, *SHAPE).clamp(-1, 1))
    config = RestoreConfig(method, steps=3, guidance_scale=2.0)
    both = restore(teacher, y, a, told(2), config, [4, 5])
    alone = restore(teacher, y[1:], a, told(1), config, [5])
    torch.testing.assert_close(both.pictures[1:], alone.pictures)
    assert both.calls == 6
    plain = restore(teacher, y[1:], a, told(1), RestoreConfig(method, steps=3), [5])
    assert (plain.pictures - alone.pictures).abs().max() > 1e-3
    with pytest.raises(ValueError, match="no unconditional branch"):
        restore(GaussianTeacher(guidable=False), y, a, told(2), config, [4, 5])


class _Learner(torch.nn.Module):
    """A normal law whose mean is learned."""

    def __init__(self, teacher) -> None:
        super().__init__()
        self.teacher, self.mean = teacher, torch.nn.Parameter(torch.zeros(SHAPE))

    def denoise(self, x_t, t, condition, features=()):
        return self.teacher.predict_x0(x_t, t, self.mean.expand_as(x_t)), {}


def test_particles_with_a_learned_score_stay_apart():
    """VSD's repulsion: with ε in the score's place all particles seek the prior's mode; their own score holds them."""

    class Teacher(GaussianTeacher):
        denoising = {"weighting": "x0"}

        def learner(self, kind="full", **options):
            assert kind == "lora"
            return _Learner(copy.copy(self))

    a = operator("super-resolution", factor=8)
    y, seeds = torch.full((8, 3, 1, 1), 0.2), list(range(8))
    config = {"steps": 150, "prior": 0.5, "noise": (0.2, 0.9)}
    apart = {}
    for fake in ("conditional", "learned"):
        done = restore(Teacher(), y, a, told(8), RestoreConfig(fake_score=fake, **config), seeds)
        assert (2 * done.pictures - 1).mean() == pytest.approx(0.2, abs=0.1)
        apart[fake] = float(done.pictures.std(0).mean())
    assert apart["learned"] != pytest.approx(apart["conditional"], rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ddrm"}, f"method='ddrm' is not known; choose one of {', '.join(RESTORERS)}"),
        ({"steps": 1}, "steps=1 must be at least 2"),
        ({"fake_score": "lora"}, "choose one of conditional, learned"),
        ({"method": "dps", "fake_score": "learned"}, "belongs to method='red_diff', got 'dps'"),
        ({"sigma_y": -0.1}, "sigma_y=-0.1 must be at least 0"),
        ({"noise": (0.5, 0.5)}, "must be a range"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        RestoreConfig(**options)
