"""The registered guidance: every method runs, each option changes what it says, gradients are the objective's."""

from __future__ import annotations

import pytest
import torch
from prompt_stub import StubPrompts, cameras

import threestudio  # noqa: F401  the host first, as launch.py does
from uni_instruct_guidance.core import METHODS
from uni_instruct_guidance.guidance.uni_instruct import UniInstructGuidance

RUNS_IN_3D = [
    "sds",
    "vsd",
    "diff_instruct",
    "swiftbrush",
    "dmd2",
    "sim",
    "sid",
    "sida",
    "sid_lsg",
    "f_distill",
    "uni_instruct",
]
NEEDS_OTHER_DATA = {"dds": "reference image", "dmd": "regression", "red_diff": "data_fidelity"}
NEEDS_REWARD = ["di_pp", "di_star"]


@pytest.fixture
def build(tiny_teacher, tmp_path):
    def make(**options):
        bank = {"size": 2, "steps": 2, **options.pop("bank", {})}
        config = {
            "pretrained_model_name_or_path": str(tiny_teacher),
            "half_precision_weights": False,
            "bank": bank,
            "bank_dir": str(tmp_path / "bank"),
            **options,
        }
        torch.manual_seed(0)
        return UniInstructGuidance(config)

    return make


def run(guidance, batch=2, seed=0, rgb=None):
    torch.manual_seed(seed)
    rgb = torch.rand(batch, 16, 16, 3) if rgb is None else rgb
    rgb = rgb.clone().requires_grad_(True)
    out = guidance(rgb, StubPrompts(16), **cameras(batch))
    return rgb, out


def test_every_method_is_sorted():
    assert sorted([*RUNS_IN_3D, *NEEDS_OTHER_DATA, *NEEDS_REWARD]) == sorted(METHODS)


@pytest.mark.parametrize("method", RUNS_IN_3D)
def test_method_gives_finite_gradients(method, build):
    guidance = build(method=method, guidance_scale=7.5)
    guidance.inner_step = torch.Tensor.backward
    rgb, out = run(guidance)
    sum(value for key, value in out.items() if key.startswith("loss_")).backward()
    assert torch.isfinite(rgb.grad).all() and rgb.grad.abs().sum() > 0
    learned = METHODS[method].learns_fake_score
    assert ("loss_fake_score" in out) == learned
    fake_grads = [p.grad for p in guidance.parameters() if p.grad is not None]
    assert bool(fake_grads) == learned
    assert all(torch.isfinite(grad).all() for grad in fake_grads)
    assert out["min_step"] == pytest.approx(20) and out["max_step"] == pytest.approx(980)


@pytest.mark.parametrize(("method", "needs"), NEEDS_OTHER_DATA.items())
def test_methods_that_need_other_data_say_so(method, needs, build):
    with pytest.raises(ValueError, match=f"method='{method}'.*{needs}"):
        build(method=method)


@pytest.mark.parametrize("method", NEEDS_REWARD)
def test_methods_that_need_a_reward_say_so(method, build):
    with pytest.raises(ValueError, match=r"needs a reward; set system.guidance.reward \(clip \| aesthetic"):
        build(method=method)


def test_sds_gradient_is_sigma2_times_noise_difference(build):
    """∂L/∂latents = σ² (ε̂_q − ε), recomputed from the scheduler's own numbers with the same random draws."""
    guidance = build(method="sds", guidance_scale=3.0)
    torch.manual_seed(5)
    latents = torch.randn(2, 4, 8, 8, requires_grad=True)
    prompts, views = StubPrompts(16), cameras(2)
    torch.manual_seed(9)
    out = guidance(latents.permute(0, 2, 3, 1), prompts, **views, rgb_as_latents=True)
    (grad,) = torch.autograd.grad(out["loss_uni_instruct"], latents)
    torch.manual_seed(9)
    times = guidance.sampler.sample(guidance.teacher.process, 2)
    eps = torch.randn(2, 4, 8, 8)
    alpha, sigma = times.alpha.reshape(-1, 1, 1, 1), times.sigma.reshape(-1, 1, 1, 1)
    x_t = alpha * latents.detach() + sigma * eps
    text = prompts.get_text_embeddings(views["elevation"], views["azimuth"], views["camera_distances"])
    with torch.no_grad():
        pair = guidance.teacher.unet(torch.cat([x_t] * 2), torch.cat([times.t] * 2), encoder_hidden_states=text).sample
    cond, uncond = pair.chunk(2)
    eps_teacher = uncond + 3.0 * (cond - uncond)
    # loss is averaged over the batch of 2
    torch.testing.assert_close(grad * 2, sigma**2 * (eps_teacher - eps), rtol=1e-3, atol=1e-4)


def test_fake_score_that_is_the_teacher_leaves_no_gradient(build):
    """Without guidance and at step 0 LoRA equals the teacher, so reverse-KL DI has nothing to say."""
    guidance = build(method="vsd", guidance_scale=1.0)
    rgb, out = run(guidance)
    (grad,) = torch.autograd.grad(out["loss_uni_instruct"], rgb)
    assert grad.abs().max() < 1e-5
    guidance = build(method="vsd", guidance_scale=7.5)
    rgb, out = run(guidance)
    (grad,) = torch.autograd.grad(out["loss_uni_instruct"], rgb)
    assert grad.abs().max() > 1e-5


OPTIONS = {
    "divergence": "chi2",
    "gradient": "exact",
    "kappa": 0.5,
    "jacobian": "none",
    "weighting": "sigma2",
    "distance": "pseudo_huber",
    "lambda_sim": 0.5,
    "lambda_di": 0.3,
    "log_r_clamp": 0.01,
    "batch_normalise": True,
    "boundary": 0.9,
    "guidance_scale": 3.0,
    "guidance_rescale": 0.7,
    "grad_clip": 1e-4,
    "min_step_percent": 0.5,
    "max_step_percent": 0.3,
    "time_sampler": "uniform_log_snr",
    "auxiliary": {"gan": 5.0},
    "view_dependent_prompting": False,
    "schedule": {0: {"divergence": "rkl"}},
    "warmup": {"steps": 1, "guidance_scale": 30.0},
    "gradient_size": {"scale": "batch", "target": 2.0},
    "discriminator": {"warmup_steps": 5},
    "fake_score": {"guidance_scale": 3.0},
}


# Forward KL has no path and no DI term (h = r h', C2 = 0): these two options need a divergence that does.
BASES = {
    "kappa": {"divergence": "jkl"},
    "lambda_di": {"divergence": "chi2"},
    "boundary": {"gradient": "by_parts", "weighting": "sigma2"},
}


def trained(guidance):
    """Push the learned networks off their neutral start, always in the same way."""
    torch.manual_seed(3)
    for parameter in guidance.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return guidance


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_the_gradient(name, build):
    base = {"divergence": "fkl", "gradient": "paper", "guidance_scale": 7.5, **BASES.get(name, {})}

    def gradient(**options):
        rgb, out = run(trained(build(**{**base, **options})), batch=3)
        return torch.autograd.grad(out["loss_uni_instruct"], rgb)[0]

    torch.testing.assert_close(gradient(), gradient())
    change = (gradient(**{name: OPTIONS[name]}) - gradient()).norm() / gradient().norm()
    assert change > 1e-3, f"{name} does nothing"


def test_by_parts_names_its_terms_and_its_critic(build):
    """By parts on the teacher's discrete chain: refused where it is no mixture, terms and critic's slope in the log."""
    options = {"divergence": "js", "gradient": "by_parts", "boundary": 0.5}
    guidance = trained(build(**options, weighting="sigma2", discriminator={"calibrate_every": 2}))
    _, out = run(guidance, batch=4)
    assert {"norm_mixture", "norm_boundary", "critic_slope"} <= set(out)
    guidance.update_step(0, 1)
    assert "critic_slope" not in run(guidance)[1]
    with pytest.raises(
        ValueError, match=r"system\.guidance\.gradient=by_parts with .*'theory'.*system\.guidance\.boundary"
    ):
        build(**{**options, "boundary": 0.0}, weighting="theory")


def test_table5_c1_changes_the_reverse_kl_gradient(build):
    grads = []
    for table5 in (False, True):
        rgb, out = run(trained(build(divergence="rkl", guidance_scale=7.5, table5_c1=table5)))
        grads.append(torch.autograd.grad(out["loss_uni_instruct"], rgb)[0])
    # the table prints C1 = −1 where Eq. 3.4 gives −2: with κ = 0 and no GAN the SIM term halves
    assert not torch.allclose(grads[0], grads[1])


def test_schedules_follow_the_step(build):
    from omegaconf import OmegaConf

    guidance = build(
        max_step_percent=OmegaConf.create([0, 0.98, 0.5, 100]),
        guidance_scale=OmegaConf.create([0, 10.0, 5.0, 100]),
        schedule={50: {"divergence": "fkl"}},
        divergence="rkl",
        warmup={"steps": 10, "guidance_scale": 33.0},
    )
    seen = {}
    for step in (0, 20, 60, 200):
        guidance.update_step(0, step)
        seen[step] = (guidance.current.name, guidance.current.objective.divergence.name, guidance.guidance_scale)
        assert guidance.max_fraction == pytest.approx(max(0.98 - 0.0048 * step, 0.5))
    assert seen[0] == ("sds", "rkl", 33.0)
    assert seen[20] == ("uni_instruct", "rkl", 9.0)
    assert seen[60] == ("uni_instruct", "fkl", 7.0)
    assert seen[200] == ("uni_instruct", "fkl", 5.0)


def test_warmup_leaves_the_methods_gradient_size_alone(build):
    """The running mean of the method begins with its own first step: that one has exactly the target's size, whatever
    the guidance scale of the warm-up made of the gradients before."""
    warmup, size = {"steps": 3, "guidance_scale": 100.0}, {"scale": "running"}
    guidance = build(divergence="rkl", guidance_scale=7.5, warmup=warmup, gradient_size=size)
    sizes = []
    for step in range(5):
        guidance.update_step(0, step)
        sizes.append(float(run(guidance, batch=1, seed=step)[1]["grad_norm"]) / (4 * 8 * 8) ** 0.5)
    assert sizes[0] == pytest.approx(1.0, rel=1e-4) and sizes[3] == pytest.approx(1.0, rel=1e-4)
    assert sizes[4] != pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("knob", ["gradient_checkpointing", "attention_slicing", "vae_tiling"])
def test_memory_knobs_leave_the_gradients(knob, build):
    """All but tiling to rounding; each reaches its networks, and the shared pass goes back through them twice."""

    def gradients(**memory):
        guidance = trained(build(divergence="fkl", fake_score={"shared_pass": "always"}, memory=memory))
        rgb, out = run(guidance)
        sum(value for key, value in out.items() if key.startswith("loss_")).backward()
        return guidance, torch.cat([p.grad.flatten() for p in guidance.parameters()]), rgb.grad

    _, learned, picture = gradients()
    guidance, same_learned, same_picture = gradients(**{knob: True})
    teacher, fake = guidance.teacher.unet, guidance.networks.fake.unet
    turned = {
        "gradient_checkpointing": [unet.mid_block.gradient_checkpointing for unet in (teacher, fake)],
        "attention_slicing": ["Sliced" in str(next(iter(unet.attn_processors.values()))) for unet in (teacher, fake)],
        "vae_tiling": [guidance.teacher.vae.use_tiling, guidance.teacher.vae.tile_sample_min_size == 16],
    }
    assert all(turned[knob]) and not any(any(on) for name, on in turned.items() if name != knob)
    change = (same_picture - picture).norm() / picture.norm()
    if knob == "vae_tiling":
        assert change > 1e-4 and same_picture.isfinite().all()
    else:
        assert change < 1e-4 and (same_learned - learned).norm() < 1e-4 * learned.norm()


def test_attention_over_groups_of_views_is_not_sliced():
    from types import SimpleNamespace

    from uni_instruct_guidance.teachers.stable_diffusion.memory import MemoryConfig, save_memory

    teacher = SimpleNamespace(name="groups", n_views=4, unet=None, vae=None)
    with pytest.raises(ValueError, match=r"attention_slicing=true: the teacher 'groups' attends over 4 views"):
        save_memory(MemoryConfig(attention_slicing=True), teacher, None)


def test_bank_is_kept_refreshed_and_reproduced(build, tmp_path, capsys):
    guidance = build(divergence="fkl", bank={"size": 3, "refresh_every": 10})
    run(guidance)
    assert "teacher samples:   0%" in capsys.readouterr().err  # a bar of its own: the first step seems to hang else
    first = guidance.bank.latents.clone()
    assert first.shape == (4, 3, 4, 8, 8)
    files = set((tmp_path / "bank").iterdir())
    assert len(files) == 1
    guidance.update_step(0, 10)
    assert not torch.equal(guidance.bank.latents, first) and len(set((tmp_path / "bank").iterdir())) == 2
    again = build(divergence="fkl", bank={"size": 3, "refresh_every": 10})
    run(again)
    assert torch.equal(again.bank.latents, first)
    # a damaged cache file is drawn again, with the same samples
    (file,) = files.pop().iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    repaired = build(divergence="fkl", bank={"size": 3, "refresh_every": 10})
    run(repaired)
    assert torch.equal(repaired.bank.latents, first)


def test_a_bank_that_is_spread_grows_with_the_steps_alone(build, tmp_path):
    """Each prompt has a sample at once; what is there follows from the step, with or without the files of before."""
    options = {"divergence": "fkl", "bank": {"size": 3, "batch_size": 2, "spread": 10, "refresh_every": 30}}
    guidance = build(**options)
    run(guidance)
    seen = {}
    for step in (0, 2, 3, 5, 10, 29, 30, 40):
        guidance.update_step(0, step)
        seen[step] = guidance.bank.latents.clone()
    # 12 samples of 4 prompts in 6 pieces of 2; the first two pieces serve every prompt once
    assert {step: len(bank[0]) for step, bank in seen.items()} == {0: 1, 2: 1, 3: 1, 5: 2, 10: 3, 29: 3, 30: 1, 40: 3}
    assert torch.equal(seen[5], seen[10][:, :2]) and not torch.equal(seen[30], seen[0])
    resumed = build(**options, bank_dir=str(tmp_path / "another"))
    resumed.update_step(0, 5)
    run(resumed)
    assert torch.equal(resumed.bank.latents, seen[5])
    whole = build(**{**options, "bank": {**options["bank"], "spread": 0}}, bank_dir=str(tmp_path / "third"))
    run(whole)
    assert torch.equal(whole.bank.latents, seen[10])


def test_several_updates_need_the_systems_optimiser(build):
    guidance = build(method="vsd", fake_score={"updates_per_step": 3})
    with pytest.raises(ValueError, match=r"updates_per_step > 1"):
        run(guidance)
    taken = []
    guidance.inner_step = lambda loss: taken.append(loss.item())
    run(guidance)
    assert len(taken) == 2


def test_one_fake_forward_serves_score_and_logit(build):
    guidance = build(divergence="fkl", auxiliary={"gan": 0.01})
    run(guidance)
    calls = []
    handle = guidance.networks.fake.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    run(guidance)
    handle.remove()
    # denoising update, discriminator update (encoder only), and one pass for score + logit
    assert len(calls) == 3


def test_state_holds_learned_weights_only(build):
    guidance = build(divergence="fkl")
    run(guidance)
    names = set(guidance.state_dict())
    assert any(name.startswith("networks.head.") for name in names)
    assert any("lora_" in name for name in names)
    assert not any("unet" in name or "vae" in name for name in names)
    other = build(divergence="fkl")
    trained(guidance)
    other.load_state_dict(guidance.state_dict())
    a, b = run(guidance)[1]["loss_uni_instruct"], run(other)[1]["loss_uni_instruct"]
    torch.testing.assert_close(a, b)


def test_bad_sample_is_masked_and_counted(build):
    guidance = build(method="vsd", guidance_scale=7.5)
    latents = torch.randn(2, 4, 8, 8)
    latents[1] = float("nan")
    latents.requires_grad_(True)
    out = guidance(latents.permute(0, 2, 3, 1), StubPrompts(16), **cameras(2), rgb_as_latents=True)
    assert out["rejected"] == 1
    (grad,) = torch.autograd.grad(out["loss_uni_instruct"], latents)
    assert grad[0].abs().sum() > 0 and grad[1].abs().sum() == 0


def test_samples_for_pictures(build):
    guidance = build(method="vsd", bank={"steps": 2})
    a = guidance.sample(StubPrompts(16), **cameras(2), seed=1)
    b = guidance.sample(StubPrompts(16), **cameras(2), seed=1)
    lora = guidance.sample_lora(StubPrompts(16), **cameras(2), seed=1)
    assert a.shape == lora.shape == (2, 32, 32, 3)
    assert torch.equal(a, b) and a.min() >= 0 and a.max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dreamfusion"}, "method='dreamfusion'.*sds"),
        ({"divergence": "kl"}, "divergence='kl'.*fkl"),
        ({"gradient": "true"}, "gradient='true'.*exact"),
        ({"weighting": "snr"}, "weighting='snr'.*theory"),
        ({"schedule": {5: {"divergenc": "fkl"}}}, "divergenc"),
        ({"auxiliary": {"gann": 1.0}}, "gann"),
        ({"discriminator": {"backbone": "resnet"}}, "discriminator.backbone='resnet' must be one of fake, teacher"),
        ({"discriminator": {"features": ["up.0"]}}, r"features \['up.0'\].*mid"),
        ({"bank": {"size": 0}}, "system.guidance.bank.size=0 must be at least 1"),
        ({"bank": {"spread": -1}}, "system.guidance.bank.spread=-1 must be at least 0"),
        ({"memory": {"tiling": True}}, "system.guidance.memory.*tiling"),
        ({"bank": {"solver": "euler"}}, "solver='euler'.*dpm"),
        ({"time_sampler": "cosine"}, "sampler='cosine'.*uniform_t"),
        ({"warmup": {"steps": 3, "method": "vsd"}}, "warmup.method='vsd'"),
        ({"gradient_size": {"scale": "max"}}, "system.guidance.gradient_size.scale='max'.*running"),
    ],
)
def test_bad_options_are_named_with_choices(options, message, build):
    with pytest.raises(ValueError, match=message):
        run(build(**{"divergence": "fkl", **options}))


def test_perpendicular_negative_prompts(build):
    """Against the definition on noise predictions; zero weights are plain guidance."""
    from threestudio.utils.ops import perpendicular_component
    from uni_instruct_guidance.core import perpendicular_negative

    torch.manual_seed(0)
    alpha, sigma, x_t = 0.6, 0.8, torch.randn(2, 4, 8, 8)
    eps = torch.randn(4, 2, 4, 8, 8)
    weights = -torch.rand(2, 2)
    positive = eps[0] - eps[1]
    push = positive + sum(
        weights[:, i].reshape(-1, 1, 1, 1) * perpendicular_component(eps[2 + i] - eps[1], positive) for i in range(2)
    )
    expected = (x_t - sigma * (eps[1] + 7.5 * push)) / alpha
    x0 = perpendicular_negative(*((x_t - sigma * e) / alpha for e in eps), weights, 7.5)
    torch.testing.assert_close(x0, expected, rtol=1e-4, atol=1e-4)  # float32, values of some tens

    class PerpNeg(StubPrompts):
        weight = 0.0

        def get_text_embeddings_perp_neg(self, elevation, azimuth, distance, view_dependent_prompting=True):
            text, uncond = self.get_text_embeddings(elevation, azimuth, distance).chunk(2)
            negatives = self.text_embeddings_vd[[1, 2]].repeat(len(elevation), 1, 1)
            return torch.cat([text, uncond, negatives]), torch.full((len(elevation), 2), self.weight)

    def gradient(prompts):
        torch.manual_seed(4)
        rgb = torch.rand(2, 16, 16, 3, requires_grad=True)
        out = build(method="sds", guidance_scale=7.5)(rgb, prompts, **cameras(2))
        return torch.autograd.grad(out["loss_uni_instruct"], rgb)[0]

    plain, zero, pushed = StubPrompts(16), PerpNeg(16), PerpNeg(16)
    zero.use_perp_neg = pushed.use_perp_neg = True
    pushed.weight = -1.0
    torch.testing.assert_close(gradient(zero), gradient(plain), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(gradient(pushed), gradient(plain), rtol=1e-2)


def test_dds_beside_an_untouched_asset(build):
    """The same picture and prompt as the reference: no gradient; another picture: one. Without a reference: refused."""
    guidance = build(method="dds", guidance_scale=7.5, with_reference=True)
    torch.manual_seed(0)
    rgb, other = torch.rand(2, 1, 16, 16, 3)
    prompts = StubPrompts(16)

    def gradient(picture, reference):
        torch.manual_seed(1)
        leaf, beside = picture.clone().requires_grad_(), None if reference is None else (reference, prompts)
        out = guidance(leaf, prompts, **cameras(1), reference=beside)
        return torch.autograd.grad(out["loss_uni_instruct"], leaf)[0]

    assert gradient(rgb, rgb).abs().max() < 1e-4 * gradient(rgb, other).abs().max()
    with pytest.raises(ValueError, match="needs system.reference"):
        gradient(rgb, None)
