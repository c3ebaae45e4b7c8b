"""Known methods recovered term by term from the one objective, written here as their own papers write them."""

import pytest
import torch

from uni_instruct_guidance.core import METHODS, ObjectiveConfig, from_x0, get_method, objective

B = 5
ALPHA = torch.tensor([0.95, 0.9, 0.8, 0.6, 0.3], dtype=torch.float64)
SIGMA = (1 - ALPHA**2).sqrt()
WIDE = (slice(None), None, None, None)
A, S = ALPHA[WIDE], SIGMA[WIDE]


class Networks:
    """Two smooth random denoisers on [B, 2, 3, 3], differentiable in x_t."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.q, self.p = torch.randn(2, 18, 18, generator=generator, dtype=torch.float64) / 4

    def teacher(self, x):
        return torch.tanh(x.flatten(1) @ self.q).view_as(x)

    def fake(self, x):
        return torch.sin(x.flatten(1) @ self.p).view_as(x)


NETS = Networks()


def drawn():
    x0 = torch.randn(B, 2, 3, 3, dtype=torch.float64).requires_grad_()
    eps, log_r = torch.randn(B, 2, 3, 3, dtype=torch.float64), torch.randn(B, dtype=torch.float64)
    return x0, eps, A * x0 + S * eps, log_r


def gradient(config, x0, x_t, x0_fake=None, log_r=None):
    """∂ Σ loss / ∂x_0 of the objective."""
    fake = NETS.fake(x_t) if x0_fake is None else x0_fake
    out = objective(config, x0=x0, x0_teacher=NETS.teacher(x_t), x0_fake=fake, alpha=ALPHA, sigma=SIGMA, log_r=log_r)
    return torch.autograd.grad(out.loss.sum(), x0, retain_graph=True)[0]


def eps_of(x0_hat, x_t):
    return from_x0(x0_hat, x_t, ALPHA, SIGMA, "epsilon")


def test_sds():
    """DreamFusion: w(t)(ε̂ − ε) with w = σ²."""
    x0, eps, x_t, _ = drawn()
    found = gradient(get_method("sds").objective, x0, x_t, x0_fake=x0.detach())
    torch.testing.assert_close(found, (S**2 * (eps_of(NETS.teacher(x_t), x_t) - eps)).detach())


def test_vsd():
    """ProlificDreamer: w(t)(ε̂_q − ε̂_φ) with w = σ²."""
    x0, _, x_t, _ = drawn()
    expected = S**2 * (eps_of(NETS.teacher(x_t), x_t) - eps_of(NETS.fake(x_t), x_t))
    torch.testing.assert_close(gradient(get_method("vsd").objective, x0, x_t), expected.detach())


def test_dds():
    """Delta denoising: ε̂(x_t, prompt) − ε̂(reference_t, reference prompt), same ε and t."""
    x0, eps, x_t, _ = drawn()
    reference_t = A * torch.randn_like(x0) + S * eps
    reference_eps = eps_of(NETS.teacher(reference_t), reference_t)
    as_x0 = (x_t - S * reference_eps) / A  # the reference's ε̂ seen from x_t
    expected = S**2 * (eps_of(NETS.teacher(x_t), x_t) - reference_eps)
    torch.testing.assert_close(gradient(get_method("dds").objective, x0, x_t, x0_fake=as_x0), expected.detach())


def test_diff_instruct():
    """(s_p − s_q)ᵀ ∂x_t/∂x_0 with unit weight."""
    x0, _, x_t, _ = drawn()
    scores = [(A * x0_hat - x_t) / S**2 for x0_hat in (NETS.fake(x_t), NETS.teacher(x_t))]
    torch.testing.assert_close(
        gradient(get_method("diff_instruct").objective, x0, x_t), (A * (scores[0] - scores[1])).detach()
    )


def test_dmd():
    """DMD: (x̂0_fake − x̂0_real) / mean|x_0 − x̂0_real|."""
    x0, _, x_t, _ = drawn()
    teacher = NETS.teacher(x_t)
    norm = (x0 - teacher).abs().mean((1, 2, 3), keepdim=True)
    expected = (NETS.fake(x_t) - teacher) / norm
    torch.testing.assert_close(gradient(get_method("dmd").objective, x0, x_t), expected.detach())


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_sid(alpha):
    """SiD: ((1 − α)‖f_q − f_p‖² + (f_q − f_p)ᵀ(f_p − x_0)) / SG mean|x_0 − f_q|, through both networks."""
    x0, _, x_t, _ = drawn()
    teacher, fake = NETS.teacher(x_t), NETS.fake(x_t)
    norm = (x0 - teacher).abs().mean((1, 2, 3)).detach()
    loss = (1 - alpha) * (teacher - fake).square() + (teacher - fake) * (fake - x0)
    expected = torch.autograd.grad((loss.sum((1, 2, 3)) / norm).sum(), x0, retain_graph=True)[0]
    config = get_method("sid", kappa=2 * (1 - alpha)).objective
    torch.testing.assert_close(gradient(config, x0, x_t), expected)
    assert get_method("sid").objective.kappa == pytest.approx(2 * (1 - 1.2))


@pytest.mark.parametrize("distance", ["l2", "pseudo_huber"])
def test_sim(distance):
    """SIM: −d'(y)ᵀ(x̂0_p − x_0), y the x̂0 gap, through both networks."""
    x0, _, x_t, _ = drawn()
    gap, residual, c2 = NETS.fake(x_t) - NETS.teacher(x_t), NETS.fake(x_t) - x0, 0.3**2 * 18
    radius = (gap.square().sum((1, 2, 3)) + c2).sqrt()
    slopes = {"l2": 2 * gap, "pseudo_huber": gap / radius[WIDE]}
    expected = torch.autograd.grad(-(slopes[distance] * residual).sum(), x0, retain_graph=True)[0]
    config = get_method("sim", distance=distance, huber_c=0.3).objective
    torch.testing.assert_close(gradient(config, x0, x_t), expected / 2)


def test_f_distill():
    """h_f(r)(s_p − s_q) with h normalised to mean one over the batch."""
    x0, _, x_t, log_r = drawn()
    h = log_r.exp() / (1 + log_r.exp())
    expected = (h / h.mean())[WIDE] * (A / S) ** 2 * (NETS.fake(x_t) - NETS.teacher(x_t))
    torch.testing.assert_close(gradient(get_method("f_distill").objective, x0, x_t, log_r=log_r), expected.detach())


@pytest.mark.parametrize("divergence", ["fkl", "rkl", "jkl", "chi2", "js", "hellinger"])
def test_frozen_networks_turn_sim_into_weighted_di(divergence):
    """jacobian none: Grad(SIM) is Grad(DI) with weight h(r); for rkl that is VSD."""
    x0, _, x_t, log_r = drawn()
    frozen = ObjectiveConfig(divergence, "exact", jacobian="none", lambda_di=0.0, weighting="sigma2")
    weighted = ObjectiveConfig(divergence, "di_weighted", weighting="sigma2")
    found = gradient(frozen, x0, x_t, log_r=log_r)
    torch.testing.assert_close(found, gradient(weighted, x0, x_t, log_r=log_r))
    if divergence == "rkl":
        torch.testing.assert_close(found, gradient(get_method("vsd").objective, x0, x_t))


def test_uni_instruct_is_the_sum_of_its_terms():
    """Eq. 3.5-3.6 in score units with λ_SIM, λ_DI and Table 5's C1, assembled by hand for jkl (C2 = 0) and js."""
    x0, eps, x_t, log_r = drawn()
    r = log_r.exp()
    s_q, s_p = ((A * x0_hat - x_t) / S**2 for x0_hat in (NETS.teacher(x_t), NETS.fake(x_t)))
    gap, residual = s_p - s_q, s_p + eps / S
    cubic = (gap.detach().square().sum((1, 2, 3))[WIDE] * gap.detach() * x_t).sum((1, 2, 3))
    table = {"jkl": (-r - 1, 0 * r), "js": (-r * (2 * r + 1) / (1 + r) ** 2, -2 * r**2 / (1 + r) ** 3)}
    for divergence, (c1, c2) in table.items():
        loss = 0.7 * c1 * (gap * residual).sum((1, 2, 3)) + 0.2 * c2 * cubic
        # `uniform` is ½σ² on E[h‖Δ‖²].
        expected = torch.autograd.grad((0.5 * SIGMA**2 * loss).sum(), x0, retain_graph=True)[0]
        method = get_method("uni_instruct", divergence=divergence, lambda_sim=0.7, lambda_di=0.2, table5_c1=True)
        torch.testing.assert_close(gradient(method.objective, x0, x_t, log_r=log_r), expected)


def test_di_star_is_sim_and_di_pp_is_diff_instruct():
    assert METHODS["di_star"].objective == METHODS["sim"].objective
    assert METHODS["di_pp"].objective == METHODS["diff_instruct"].objective
    assert METHODS["sida"].objective == METHODS["sid"].objective
    assert METHODS["dmd2"].objective == METHODS["dmd"].objective
    for name in ("di_star", "di_pp"):
        assert METHODS[name].auxiliary == {"reward": 1.0}
