"""Every text-to-image method's terms, written out in scores from its paper, against what the trainer finds."""

from __future__ import annotations

import pytest
import torch
from text_runs import found_gradient, prepared

from uni_instruct_guidance.core.process import per_sample
from uni_instruct_guidance.teachers.randomness import Share


@pytest.mark.parametrize("name", ["swiftbrush", "diff_instruct"])
def test_direct_methods_are_the_guided_score_gap(config, name):
    """(s_p − s_q)ᵀ ∂x_t/∂θ with the method's weight, teacher under classifier-free guidance, written out in ε̂."""
    module = prepared(config(f"method={{name: {name}, weighting: sigma2, auxiliary: {{regression: 0, reward: 0}}}}",
                             "loss_scale={student: 1.0}", "method.guidance_teacher=4.5"))  # fmt: skip
    share = Share(0, 4, 4)
    found = found_gradient(module, share)

    random, teacher = module.random("student"), module.teacher
    z, rows = module._draw(random, share)
    text, null = module.conditions.of(rows, "cpu"), module.conditions.null(rows, "cpu")
    levels = module._levels(module.student_noise, random, share)
    alpha, sigma = (per_sample(v, z) for v in teacher.process.alpha_sigma(levels.t))
    t_init = torch.full((4,), 700)
    a0, s0 = (per_sample(v, z) for v in teacher.process.alpha_sigma(t_init))
    x0 = (z - s0 * module.student.unet(z, t_init, text).sample) / a0
    x_t = alpha * x0 + sigma * random.normal("eps", share, teacher.shape)
    with torch.no_grad():
        eps = teacher.unet(torch.cat([x_t] * 2), torch.cat([levels.t] * 2), torch.cat([text, null])).sample
        eps_q = eps[4:] + 4.5 * (eps[:4] - eps[4:])
        eps_p = module.fake.unet(x_t, levels.t, text).sample
    module.student.zero_grad()
    # s_p − s_q = (ε̂_q − ε̂_p)/σ, and the weighting sigma2 is threestudio's σ² on the gap of ε̂ in the latents
    (sigma.square() * (eps_q - eps_p) * x0).flatten(1).sum(1).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in module.student.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())
    assert found.abs().max() > 0


def test_long_short_guidance_is_in_all_three_places(config):
    """SiD-LSG with κ = 0: −Δᵀ(s_p − s_c) per weight σ⁴/α² …, both scores and the fake score's loss guided."""
    module = prepared(config("method={name: sid_lsg, weighting: x0}", "loss_scale={student: 1.0}"))
    assert vars(module.method.guidance) == {"teacher": 1.5, "fake": 1.5, "fake_train": 1.5}
    share = Share(0, 4, 4)
    found = found_gradient(module, share)
    random = module.random("student")
    z, rows = module._draw(random, share)
    text, null = module.conditions.of(rows, "cpu"), module.conditions.null(rows, "cpu")
    levels = module._levels(module.student_noise, random, share)
    x0 = module.generate(module.student, z, text)
    x_t = module._diffuse(x0, levels, random, share)

    def guided(predict):
        cond, uncond = predict(text), predict(null)
        return uncond + 1.5 * (cond - uncond)

    x0_q = guided(lambda c: module.teacher.predict_x0(x_t, levels.t, c))
    x0_p = guided(lambda c: module.fake.denoise(x_t, levels.t, c)[0])
    module.student.zero_grad()
    (-((x0_p - x0_q) * (x0_p - x0)).flatten(1).sum(1)).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in module.student.parameters() if p.grad is not None])
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    assert cosine > 0.9999  # equal up to the weighting's constant

    (loss,) = module._fake_losses([share], None, module.random("fake0"))
    random = module.random("fake0")
    z, rows = module._draw(random, share)
    text, null = module.conditions.of(rows, "cpu"), module.conditions.null(rows, "cpu")
    x0 = module.generate(module.student, z, text).detach()
    levels = module._levels(module.fake_noise, random, share)
    eps = random.normal("eps", share, module.teacher.shape)
    x_t = per_sample(levels.alpha, z) * x0 + per_sample(levels.sigma, z) * eps
    answer = guided(lambda c: module.fake.unet(x_t, levels.t, c).sample)
    torch.testing.assert_close(loss, (answer - eps).square().mean(), rtol=1e-3, atol=1e-5)


class Scores:
    """What the papers write with: Δ = s_p − s_q and s_p − s_c at x_t, straight from the U-Nets' ε̂.

    The same noise, prompts and levels as the trainer's own student update, everything with its graph from x_0 = g(z).
    """

    def __init__(self, module, share: Share, scale: float):
        random, network = module.random("student"), module.teacher
        z, self.rows = module._draw(random, share)
        text, null = module.conditions.of(self.rows, "cpu"), module.conditions.null(self.rows, "cpu")
        levels = module._levels(module.student_noise, random, share)
        alpha, sigma = network.process.alpha_sigma(levels.t)
        self.x0 = module.generate(module.student, z, text)
        eps = random.normal("eps", share, network.shape)
        self.alpha, self.sigma = (per_sample(v, z) for v in (alpha, sigma))
        self.x_t = self.alpha * self.x0 + self.sigma * eps
        told, plain = (network.unet(self.x_t, levels.t, condition).sample for condition in (text, null))
        teacher = plain + scale * (told - plain)
        fake = module.fake.unet(self.x_t, levels.t, text).sample
        self.delta, self.from_conditional = (teacher - fake) / self.sigma, (eps - fake) / self.sigma
        self.mean_q = (self.x_t - self.sigma * teacher) / self.alpha  # x̂0 of the teacher, for DMD's and SiD's weights
        self.logit = None
        if module.uses_discriminator:
            self.logit = module.head(module.fake.read_features(self.x_t, levels.t, text, ["mid"]))


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(1)


def size(s: Scores) -> torch.Tensor:
    """Mean |x_0 − x̂0_q|, by which DMD and SiD divide."""
    return (s.x0 - s.mean_q).detach().abs().flatten(1).mean(1)


def sid(s: Scores) -> torch.Tensor:
    """SiD (arXiv 2404.04057), alpha = 1.2, on the gap of x̂0, which is σ²/α times the scores'."""
    to_x0 = (s.sigma.square() / s.alpha).flatten()
    return to_x0.square() / size(s) * ((1 - 1.2) * dot(s.delta, s.delta) - dot(s.delta, s.from_conditional))


def sim(s: Scores) -> torch.Tensor:
    """SIM (arXiv 2410.16794): −d'(Δ)ᵀ(s_p − s_c), pseudo-Huber on the gap of x̂0 with c = 0.00054 per element."""
    to_x0 = s.sigma.square() / s.alpha
    gap, residual = to_x0 * s.delta, to_x0 * s.from_conditional
    return -0.5 * dot(gap, residual) / (dot(gap, gap) + 0.00054**2 * gap[0].numel()).sqrt()


def dmd(s: Scores) -> torch.Tensor:
    """DMD (arXiv 2311.18828): the gap of x̂0 over the size above, into x_0."""
    return (s.sigma.square() / s.alpha).flatten() / size(s) * dot(s.delta.detach(), s.x0)


def diff_instruct(s: Scores) -> torch.Tensor:
    """(s_p − s_q)ᵀ ∂x_t with unit weight (arXiv 2305.18455)."""
    return dot(s.delta.detach(), s.x_t)


def f_distill(s: Scores) -> torch.Tensor:
    """f-distill (arXiv 2502.15681): Diff-Instruct times h(r) = r² f''(r) over its batch mean; JS: r / (1 + r)."""
    r = s.logit.detach().exp()
    h = r / (1 + r)
    return h / h.mean() * dot(s.delta.detach(), s.x_t)


def uni_instruct(f):
    """Uni-Instruct, Eq. 3.5-3.6: ½g² [C1 Δᵀ(s_p − s_c) + SG(C2 |Δ|² Δ)ᵀ x_t], g² = σ²; C1, C2 by derivatives of f."""

    def loss(s: Scores) -> torch.Tensor:
        r = s.logit.detach().double().exp().requires_grad_()
        value, d = f(r), []
        for _ in range(4):
            # + 0 r⁵ keeps the graph of a polynomial whose derivatives end
            (value,) = torch.autograd.grad(value.sum() + 0 * (r**5).sum(), r, create_graph=True)
            d.append(value.detach())
        r = r.detach()
        c1 = (r**3 * d[2]).float()
        c2 = (2 * r**2 * d[1] + 4 * r**3 * d[2] + r**4 * d[3]).float()
        delta = s.delta.detach()
        cubic = c2 * dot(delta, delta) * dot(delta, s.x_t)
        return 0.5 * s.sigma.square().flatten() * (c1 * dot(s.delta, s.from_conditional) + cubic)

    return loss


def gan(s: Scores, module) -> torch.Tensor:
    """−log D(x_t)."""
    return torch.nn.functional.softplus(-s.logit).mean()


def reward(s: Scores, module) -> torch.Tensor:
    """Less brightness of the decoded picture."""
    return -module.teacher.decode(s.x0).mean((1, 2, 3)).mean()


def regression(s: Scores, module) -> torch.Tensor:
    """Mean squared distance to the teacher's ODE solution from the same noise."""
    which = torch.randint(len(module.bank.x0), (4,), generator=module.random("student").generator("pairs"))
    text = module.conditions.of(module.bank.rows[which], "cpu")
    drawn = module.generate(module.student, module.bank.noise[which], text)
    return (drawn - module.bank.x0[which]).square().mean()


def js(r: torch.Tensor) -> torch.Tensor:
    return r * r.log() - (r + 1) * ((r + 1) / 2).log()


# method ↦ (what its paper minimises per sample, what it adds)
METHODS = {
    "sid": (sid, []),
    "sida": (sid, [gan]),
    "sim": (sim, []),
    "dmd": (dmd, [regression]),
    "dmd2": (dmd, [gan]),
    "f_distill": (f_distill, [gan]),
    "di_pp": (diff_instruct, [reward]),
    "di_star": (sim, [reward]),
    "uni_instruct, divergence: js": (uni_instruct(js), [gan]),
    "uni_instruct, divergence: jkl": (uni_instruct(lambda r: (r - 1) * r.log()), [gan]),
    "uni_instruct, divergence: chi2": (uni_instruct(lambda r: (r - 1) ** 2), [gan]),
    "uni_instruct, divergence: rkl": (uni_instruct(lambda r: -r.log()), [gan]),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_terms_come_from_the_one_objective(config, method):
    """Gradient of every parameter of the student: the trainer's is the paper's, terms and additions summed."""
    per_sample_loss, additions = METHODS[method]
    weights = {addition.__name__: 500.0 for addition in additions}  # so that no addition drowns in the main term
    options = f"method={{name: {method}, guidance_teacher: 3.0, auxiliary: {weights}}}"
    module = prepared(config(options, "loss_scale={student: 1.0}"))
    share = Share(0, 4, 4)
    found = found_gradient(module, share)
    scores = Scores(module, share, 3.0)
    parts = [per_sample_loss(scores).mean(), *(500.0 * addition(scores, module) for addition in additions)]
    parameters = [p for p in module.student.parameters() if p.requires_grad]
    grads = []
    for part in parts:
        grad = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
        grads.append(torch.cat([(p * 0 if g is None else g).flatten() for p, g in zip(parameters, grad)]).detach())
    expected = sum(grads)
    error = (found - expected).norm() / expected.norm()
    assert error < 2e-3
    for grad in grads:  # every term is large enough for its absence to be seen
        assert grad.norm() > 10 * error * expected.norm()


def test_the_critic_learns_by_denoising_and_by_telling_real_from_fake(config):
    """ε-MSE on student samples plus −log D(real) − log(1 − D(fake)) at the same noise levels, written out."""
    module = prepared(config("method=sida"))
    share, (pictures, rows) = Share(0, 4, 4), (module.bank.x0, module.bank.rows)
    (found,) = module._fake_losses([share], (pictures, rows), module.random("fake0"))
    random = module.random("fake0")
    z, asked = module._draw(random, share)
    text = module.conditions.of(asked, "cpu")
    x0 = module.generate(module.student, z, text).detach()
    levels = module._levels(module.fake_noise, random, share)
    alpha, sigma = (per_sample(v, z) for v in module.teacher.process.alpha_sigma(levels.t))
    eps = random.normal("eps", share, module.teacher.shape)
    x_t = alpha * x0 + sigma * eps
    real_t = alpha * pictures + sigma * random.normal("real_eps", share, module.teacher.shape)

    def logit(x, condition):
        return module.head(module.fake.read_features(x, levels.t, condition, ["mid"]))

    real = logit(real_t, module.conditions.of(rows, "cpu")).sigmoid()
    fake = logit(x_t, text).sigmoid()
    denoising = (module.fake.unet(x_t, levels.t, text).sample - eps).square().mean()
    expected = denoising - real.log().mean() - (1 - fake).log().mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
