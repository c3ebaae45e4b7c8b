"""The one-step trainer: its gradients against a naive computation, every method row, guards, precisions, refusals."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import tiny_config, tiny_data, tiny_network, weights

from uni_instruct_guidance.core import METHODS
from uni_instruct_guidance.core.errors import UserError
from uni_instruct_guidance.distill2d import base_module
from uni_instruct_guidance.distill2d.distill_module import DistillModule
from uni_instruct_guidance.distill2d.methods import applicable, one_step_method
from uni_instruct_guidance.distill2d.trainer import build_distill_module, distill
from uni_instruct_guidance.teachers.randomness import Share
from uni_instruct_guidance.teachers.sampling import HeunSampler

ALL_DIVERGENCES = ["rkl", "fkl", "jkl", "chi2", "js", "hellinger"]


def run(*overrides, **fields):
    return distill(tiny_config(*overrides, **fields), teacher=tiny_network(), data=tiny_data(), quiet=True)


@pytest.mark.parametrize("method", ["diff_instruct", "dmd", "dmd2", "sim", "sid", "sida", "f_distill"])
def test_every_row_trains(tmp_path, method):
    result = run(f"method={method}", f"bank.path={tmp_path}")
    moved = weights(result.module.student) - weights(tiny_network())
    assert moved.isfinite().all() and moved.abs().max() > 1e-4
    assert result.scalars["loss/fake_score"] > 0 and not result.skipped
    assert ("loss/regression" in result.scalars) == (method == "dmd")
    assert ("loss/adversarial" in result.scalars) == (method in ("dmd2", "sida", "f_distill"))
    assert result.module.done_steps == 3 and result.images_per_second > 0


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES)
def test_every_divergence_trains(divergence):
    result = run("steps=2", "method.name=uni_instruct", f"method.divergence={divergence}")
    assert (weights(result.module.student) - weights(tiny_network())).abs().max() > 1e-4
    assert ("log_r/q50" in result.scalars) == (divergence != "rkl")


def test_unconditional_and_unlabelled():
    config = tiny_config("steps=2", "method=sida")
    result = distill(config, teacher=tiny_network(classes=0), data=tiny_data(classes=0), quiet=True)
    assert result.network(torch.zeros(2, 1, 4, 4), torch.tensor([2.5])).shape == (2, 1, 4, 4)


def test_a_reward_given_from_python_trains():
    config = tiny_config("method=di_pp", "steps=2")
    with pytest.raises(ValueError, match="'di_pp' does not apply .* needs a reward"):
        build_distill_module(config, teacher=tiny_network(), data=tiny_data())
    result = distill(config, teacher=tiny_network(), reward=lambda x: x.mean((1, 2, 3)), quiet=True)
    assert "loss/reward" in result.scalars


def test_teacher_samples_serve_as_real_images(tmp_path):
    result = run("method=sida", "real=teacher", f"bank.path={tmp_path}", "steps=1")
    bank = result.module.bank
    assert result.module.data.name == "teacher samples" and len(bank.x0) == 12
    # The kept pairs are the teacher's ODE solutions of the kept noise.
    one_hot = torch.nn.functional.one_hot(bank.rows, 3).float()
    torch.testing.assert_close(HeunSampler(3)(tiny_network(), bank.noise, one_hot), bank.x0, rtol=1e-4, atol=1e-5)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(files) == 2
    run("method=sida", "real=teacher", f"bank.path={tmp_path}", "steps=1")
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


# --- gradients ---


class OneProcess:
    """What a module asks of Lightning's trainer."""

    world_size, global_rank, strategy = 1, 0, None


def prepared(*overrides) -> DistillModule:
    module = build_distill_module(
        tiny_config(*overrides), teacher=tiny_network(), data=tiny_data(), start=tiny_network(5)
    )
    module.fake.load_state_dict(tiny_network(6).state_dict())
    if module.uses_discriminator:
        torch.nn.init.normal_(module.head.branches["mid"][4].weight)
    module.__dict__["_trainer"] = OneProcess()
    return module


def student_gradient(module: DistillModule, micro: list[Share]) -> torch.Tensor:
    module.student.zero_grad()
    module.done_steps = 1
    losses = module._student_losses(micro, module.method, module.random("student"))
    for share, loss in zip(micro, losses):
        (loss * share.count / sum(part.count for part in micro)).backward()
    return torch.cat([p.grad.flatten() for p in module.student.parameters()])


SHARE = Share(0, 6, 6)


def test_student_gradient_is_algorithm_1s():
    """Forward KL with GAN, written out in scores, every network evaluated once more."""
    module = prepared("method={name: uni_instruct, divergence: fkl, weighting: x0, log_r_clamp: null}")
    share = Share(0, 6, 6)
    found = student_gradient(module, [share])

    random = module.random("student")
    z, rows = module._draw(random, share)
    labels = torch.nn.functional.one_hot(rows, 3).float()
    sigma = module.student_noise.sample(module.process, 6, 1, random.generator("sigma")).sigma
    s = sigma.reshape(-1, 1, 1, 1)
    assert sigma.min() > 0.002 and sigma.max() < 25
    x0 = module.student(2.5 * z, torch.full((6,), 2.5), labels)
    eps = random.normal("eps", share, (1, 4, 4))
    x_t = x0 + s * eps
    score_q = (module.teacher.network(x_t, sigma, labels) - x_t) / s**2
    score_p = (module.fake(x_t, sigma, labels) - x_t) / s**2
    logit = module.head({"mid": module.fake.encode_features(x_t, sigma, labels)})
    r = logit.detach().exp()
    along = ((score_p - score_q) * (score_p + eps / s)).flatten(1).sum(1)
    # C1 Δᵀ(s_p − s_c) with C1 = −r and C2 = 0; ½ from Theorem 3.1; weighting x0 is σ⁴ on squared scores.
    loss = -0.5 * sigma**4 * r * along
    loss = loss.mean() + 0.01 * torch.nn.functional.softplus(-logit).mean()
    module.student.zero_grad()
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in module.student.parameters()])
    # Scores at σ = 0.003 divide differences by 1e-5: float32 leaves three digits.
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())


def test_by_parts_is_the_weighted_score_gap_times_its_rate():
    """Under the default levels p ∝ e^(−λ/14), weighting x0 falls with c = 15/14 (docs/method.md, section 3)."""
    found, plain = (
        student_gradient(
            prepared(f"method={{name: uni_instruct, divergence: js, weighting: x0, gradient: {gradient}}}"), [SHARE]
        )
        for gradient in ("by_parts", "di_weighted")
    )
    gan = student_gradient(prepared("method={name: uni_instruct, divergence: js}", "loss_scale.student=0"), [SHARE])
    torch.testing.assert_close(found - gan, (plain - gan) * 15 / 14, rtol=1e-3, atol=1e-3 * plain.abs().max().item())


@pytest.mark.parametrize("boundary", [0.0, 0.5])
def test_by_parts_trains_and_says_what_its_critic_is_worth(boundary):
    method = f"method={{name: uni_instruct, divergence: hellinger, gradient: by_parts, boundary: {boundary}}}"
    result = run(method, "steps=2", "calibrate_every=1")
    assert (weights(result.module.student) - weights(tiny_network())).abs().max() > 1e-4
    assert ("norm/boundary" in result.scalars) == (boundary > 0)
    assert "critic/slope" in result.scalars
    assert "critic/slope" not in run(method, "steps=2", "calibrate_every=0").scalars


def test_a_poor_critic_is_warned_of():
    with pytest.warns(UserWarning, match=r"step 0: the critic's calibration slope is .*method.gradient=by_parts"):
        run("method={name: uni_instruct, divergence: js, gradient: exact, kappa: 1.0}", "steps=2", "calibrate_every=1")


def test_a_mixture_that_is_none_is_refused():
    options = (
        "method={name: uni_instruct, gradient: by_parts, weighting: epsilon}",
        "student_noise.sampler=log_normal",
    )
    with pytest.raises(ValueError, match="method.gradient=by_parts with method.weighting='epsilon'.*method.boundary"):
        build_distill_module(tiny_config(*options), teacher=tiny_network(), data=tiny_data())


def test_micro_batches_change_nothing():
    module = prepared("method.divergence=jkl")
    whole = student_gradient(module, Share(0, 6, 6).micro(None))
    parts = student_gradient(module, Share(0, 6, 6).micro(4))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5 * whole.abs().max().item())


def test_gan_alone_leaves_the_objective_out():
    result = run("method=uni_instruct", "loss_scale.student=0", "steps=2")
    assert "objective" not in result.scalars and "loss/adversarial" in result.scalars
    with pytest.raises(ValueError, match="loss_scale.student=0 leaves method='sid' nothing to learn"):
        build_distill_module(tiny_config("method=sid", "loss_scale.student=0"), teacher=tiny_network())


def test_warm_up_holds_the_student_then_the_ratio():
    result = run("method.divergence=fkl", "warmup.student=2", "warmup.ratio=5")
    assert "loss/adversarial" not in result.scalars and "log_r/q50" not in result.scalars
    config = tiny_config("warmup.student=3")
    result = distill(config, teacher=tiny_network(), data=tiny_data(), quiet=True)
    torch.testing.assert_close(weights(result.module.student), weights(tiny_network()), rtol=0, atol=0)
    assert (weights(result.module.fake) - weights(tiny_network())).abs().max() > 1e-4


def test_schedule_changes_the_divergence():
    module = prepared("method={name: uni_instruct, divergence: rkl, schedule: {2: {divergence: fkl}}}")
    assert [module.method.at(step).objective.divergence.name for step in (1, 2)] == ["rkl", "fkl"]
    assert module.uses_discriminator


# --- guards and precisions ---


def test_bad_gradients_skip_the_step_and_are_counted(monkeypatch):
    original, calls = DistillModule._student_losses, []

    def poisoned(self, *args):
        calls.append(1)
        for loss in original(self, *args):
            yield loss * float("nan") if len(calls) == 2 else loss

    monkeypatch.setattr(DistillModule, "_student_losses", poisoned)
    result = run("method=sid")
    assert result.skipped == {"student": 1} and result.scalars["skipped/student"] == 1
    assert weights(result.network).isfinite().all()


def test_hopeless_runs_stop(monkeypatch):
    monkeypatch.setattr(base_module, "MAX_SKIPPED_IN_A_ROW", 2)
    teacher = tiny_network()
    teacher.model.enc["4x4_conv"].weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="2 updates of fake_score in a row"):
        distill(tiny_config("method=sid"), teacher=teacher, quiet=True)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_full_precision(precision):
    """After three Adam steps of 1e-3, most of the way must be shared: signs of small gradients may differ."""
    start = weights(tiny_network())
    full, half = (weights(run("method=sid", f"precision={p}").module.student) - start for p in ("fp32", precision))
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.8
    assert half.norm() > 0.5 * full.norm()


def test_half_precision_overflow_skips_and_lowers_the_scale():
    """A loss scaled to 10⁸ overflows fp16's range of 6·10⁴ on the way back; nothing moves but the scaler."""
    result = run("method=sid", "precision=fp16", "loss_scale.student=1e8", "steps=2")
    assert result.skipped == {"student": 2}
    torch.testing.assert_close(weights(result.module.student), weights(tiny_network()), rtol=0, atol=0)
    assert weights(result.module.fake).isfinite().all()
    assert result.module.trainer.precision_plugin.scaler.get_scale() == 2.0**16 / 4


def test_gradient_clipping_is_a_limit():
    module = prepared("method=sid", "clip_grad=0.5")
    optimizer = torch.optim.SGD(module.student.parameters(), lr=1.0)
    module._trainer.precision_plugin = None
    before = weights(module.student)
    student_gradient(module, [Share(0, 6, 6)])
    assert module.guarded_step("student", optimizer, lambda step: 1.0)
    assert (weights(module.student) - before).norm() == pytest.approx(0.5, rel=1e-4)


# --- refusals ---


def test_rows_that_do_not_apply_say_why():
    assert applicable() == ["diff_instruct", "dmd", "dmd2", "sim", "sid", "sida", "f_distill", "uni_instruct"]
    reasons = {
        "sds": "trains no generator", "dds": "reference image", "vsd": "LoRA", "red_diff": "trains no generator",
        "swiftbrush": "LoRA", "sid_lsg": "classifier-free guidance", "di_pp": "reward", "di_star": "reward",
    }  # fmt: skip
    assert set(applicable()) | set(reasons) == set(METHODS)
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=f"method='{name}' does not apply .*{reason}.*choose one of diff_instruct"):
            one_step_method(name)
    assert one_step_method({"name": "swiftbrush", "fake_score": "full", "guidance_teacher": 1}).learns_fake_score


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=simm"], "method='simm' is not known; choose one of"),
        (["method.divergence=kl"], "divergence='kl' is not known; choose one of fkl, rkl"),
        (["method.divergences=kl"], "has no option 'divergences'; choose one of"),
        (["precision=half"], "precision='half' is not known; choose one of fp32, bf16, fp16"),
        (["real=fake"], "real='fake' is not known; choose one of data, teacher"),
        (["stepz=3"], "there is no key 'stepz'; the keys are: out, seed, steps"),
        (["data.nme=x"], "there is no key 'data.nme'; keys of data: name, path, workers"),
        (["steps=many"], "steps: Value 'many'"),
        (["steps=0"], "steps=0 must be at least 1"),
        (["lr=[1,2]"], r"lr=\[1, 2\] must be .* or a schedule"),
        (["lr={a: 1}"], r"lr=\{'a': 1\} must be at least 0"),
        (["lr=0"], "lr=0 must be at least 0 .* and not 0 throughout"),
        (["lr=.nan"], "lr=nan must be"),
        (["ema.rampup=.nan"], "ema.rampup=nan must be"),
        (["ema.rampup=-1"], "ema.rampup=-1"),
        (["method.kappa=abc"], "method.kappa='abc' must be a finite number"),
        (["method.auxiliary=abc"], "method.auxiliary='abc' must be a mapping"),
        (["method=[1]"], "must be the name of a method or a mapping"),
        (["method={name: sid, kappa: .inf}"], "method.kappa=inf must be"),
        (["betas=[0,1]"], "betas="),
        (["trainer.devices=0"], "trainer.devices=0 must be at least 1"),
        (["bank.steps=1"], "bank.steps=1"),
        (["fake_noise.sampler=x"], "fake_noise: sampler='x' is not known"),
        (["student_noise.max_fraction=1.5"], "max_fraction=1.5"),
        (["steps"], "'steps' is not of the form key=value"),
        (["batch=0"], "batch=0"),
        (["warmup.ratio=-1"], "warmup.ratio=-1"),
        (["loss_scale.student=-1"], "loss_scale.student=-1"),
    ],
)
def test_wrong_settings_are_named(overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        build_distill_module(tiny_config(*overrides), teacher=tiny_network(), data=tiny_data())
    assert "\n" not in str(error.value)


def test_data_that_does_not_fit_the_teacher_is_refused():
    def build(**options):
        return build_distill_module(tiny_config("method=sida"), teacher=tiny_network(), data=tiny_data(**options))

    with pytest.raises(UserError, match=r"data \(toy\) has images 8x8x1 .*, the teacher takes 4x4x1"):
        build(resolution=8)
    with pytest.raises(UserError, match="has 5 classes, the teacher has 3 classes"):
        build(classes=5)
    with pytest.raises(UserError, match="has no labels, the teacher has 3 classes"):
        build(classes=0)
    with pytest.raises(ValueError, match="teacher is missing"):
        build_distill_module(tiny_config("method=sid"))
    with pytest.raises(ValueError, match="no/teacher.safetensors: no such file"):
        build_distill_module(tiny_config("method=sid", "teacher=no/teacher.safetensors"))


def test_unknown_trainer_keys_and_indivisible_batches_are_refused():
    with pytest.raises(UserError, match="trainer has no key 'device'; its keys: .*devices"):
        run("trainer.device=1")


def test_another_method_drops_the_options_of_the_first():
    config = tiny_config("method={name: uni_instruct, divergence: jkl, kappa: 0.5}", "method=sid", "method.kappa=1")
    assert config.method == {"name": "sid", "kappa": 1}
    config = tiny_config("method={name: uni_instruct, divergence: jkl}", "method.divergence=fkl")
    assert config.method == {"name": "uni_instruct", "divergence": "fkl"}


def test_checkpoints_of_the_older_head_are_understood():
    module = prepared("method.divergence=fkl")
    state = module.state_dict()
    old = {name: value for name, value in state.items() if not name.startswith("head.")}
    for before, now in (("norm", 0), ("hidden", 2), ("logit", 4)):
        for part in ("weight", "bias"):
            old[f"head.{before}.{part}"] = state[f"head.branches.mid.{now}.{part}"]
    progress = {"done_steps": 1, "skipped": {}, "skipped_in_a_row": {}}
    checkpoint = {"state_dict": old, "progress": progress}
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
