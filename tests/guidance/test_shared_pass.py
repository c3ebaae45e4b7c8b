"""One evaluation of the fake score for its own loss, the objective and the discriminator, against passes of its own."""

from __future__ import annotations

import pytest
import torch
from prompt_stub import StubPrompts, cameras

import threestudio  # noqa: F401  the host first, as launch.py does
from uni_instruct_guidance.core import TimeSampler
from uni_instruct_guidance.guidance import learning, uni_instruct
from uni_instruct_guidance.guidance.bank import BankConfig
from uni_instruct_guidance.guidance.group_bank import orbits
from uni_instruct_guidance.guidance.uni_instruct import UniInstructGuidance

CASES = {
    "frozen": {"divergence": "rkl", "jacobian": "none"},
    "through the networks, trains the encoder, several levels": {
        "divergence": "fkl", "jacobian": "full", "discriminator": {"train_backbone": True}, "fake_score": {"batch": 3},
    },
    "long-short guidance, discriminator on the teacher": {
        "method": "sid_lsg", "auxiliary": {"gan": 0.1}, "discriminator": {"backbone": "teacher"},
        "fake_score": {"guidance_scale": 2.0},
    },
    "groups of views": {
        "divergence": "fkl", "jacobian": "none", "fake_score": {"batch": 2, "camera_condition": "teacher"},
    },
}  # fmt: skip


@pytest.fixture
def build(tiny_teacher, tiny_multi_view, tmp_path):
    def make(shared_pass, **options):
        groups = options.get("fake_score", {}).get("camera_condition") == "teacher"
        options["fake_score"] = {**options.get("fake_score", {}), "shared_pass": shared_pass}
        fixed = {
            "pretrained_model_name_or_path": str(tiny_multi_view if groups else tiny_teacher),
            "half_precision_weights": False, "guidance_scale": 7.5,
            "side_by_side": False,  # as many threads in every operator
            "bank": {"size": 2, "steps": 2}, "bank_dir": str(tmp_path / "bank"),
        }  # fmt: skip
        torch.manual_seed(0)
        guidance = UniInstructGuidance({**fixed, **options})
        torch.manual_seed(1)
        for parameter in guidance.parameters():  # what starts at zero would hide a path
            parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
        return guidance

    return make


def step(guidance, number=0):
    """Gradients of the picture and of all that learns."""
    guidance.update_step(0, number)
    guidance.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    n = guidance.groups.n
    where = cameras(2) if n == 1 else orbits(BankConfig(size=2), n, torch.Generator().manual_seed(5))
    rgb = torch.rand(2 * n, 16, 16, 3, requires_grad=True)
    out = guidance(rgb, StubPrompts(16), **where)
    sum(value for key, value in out.items() if key.startswith("loss_")).backward()
    return {"rgb": rgb.grad} | {name: p.grad for name, p in guidance.named_parameters() if p.grad is not None}


@pytest.fixture
def same_levels(monkeypatch):
    """Every pass draws the same noise levels and the same noise for the same picture."""

    def fixed(process, x0, sampler, groups, boundary=None):
        generator = torch.Generator().manual_seed(3)
        repeats = len(x0) // 2
        times = TimeSampler("uniform_t", 0.2, 0.8).sample(process, 2, generator=generator)
        times = times.map(lambda value: value.repeat_interleave(repeats))
        eps = torch.randn((2, *x0.shape[1:]), generator=generator).repeat_interleave(repeats, 0)
        torch.manual_seed(4)  # for the noise of the teacher's samples
        x_t = process.diffuse(x0.contiguous(), eps, times.t)
        return learning.Noised(x0, times, groups.split(x_t), groups.rows(times.t))

    for module in (learning, uni_instruct):
        monkeypatch.setattr(module, "noised", fixed)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_separate_passes(name, build, same_levels):
    guidance = build("never", warmup={"steps": 1}, **CASES[name])
    for number in (0, 1):  # in the warm-up only what learns is asked of the fake score
        found = {}
        for mode in ("never", "always"):
            guidance.networks.fake.cfg.shared_pass = mode
            found[mode] = step(guidance, number)
        separate, shared = found.values()
        assert separate.keys() == shared.keys() and all(gradient.abs().max() > 0 for gradient in separate.values())
        for part in dict.fromkeys(key[:14] for key in separate):  # the picture, networks.fake, networks.head
            a, b = (torch.cat([x[key].flatten() for key in x if key.startswith(part)]) for x in (separate, shared))
            # float32: groups are joined in other batches with and without the real half
            assert (a - b).norm() <= (1e-6 if guidance.groups.n == 1 else 1e-5) * a.norm(), part


def passes(guidance, number):
    """Calls of the fake score's U-Net, and its noise levels as shares of the process."""
    levels = []
    hook = guidance.networks.fake.unet.register_forward_pre_hook(lambda _, args: levels.append(args[1] / 1000))
    step(guidance, number)
    hook.remove()
    return levels


def test_which_steps_share_and_what_they_cost(build):
    """Alone: its loss, the discriminator's two halves, the objective. Shared: the objective's, and the real half."""
    guidance, calls = build("never"), {}
    for mode in ("never", "mixed", "always"):
        guidance.networks.fake.cfg.shared_pass = mode
        calls[mode] = [len(passes(guidance, number)) for number in (0, 1)]
    assert calls == {"never": [3, 3], "mixed": [2, 3], "always": [2, 2]}


def test_noise_levels_follow_the_objective_where_the_pass_is_shared(build):
    narrow = {"method": "vsd", "min_step_percent": 0.4, "max_step_percent": 0.6}

    guidance = build("never", **narrow)

    def inside(mode, numbers):
        guidance.networks.fake.cfg.shared_pass = mode
        levels = torch.cat([level for number in numbers for level in passes(guidance, number)])
        return bool(((levels >= 0.39) & (levels <= 0.61)).all())

    assert inside("always", range(4)) and not inside("never", [0])
    assert inside("mixed", [0, 2]) and not inside("mixed", [1])


def test_an_update_without_camera_has_passes_of_its_own(build):
    told = {"method": "vsd", "fake_score": {"camera_dropout": 1.0}}
    assert len(passes(build("always", **told), 0)) == 2
    assert len(passes(build("always", method="vsd"), 0)) == 1


def test_further_updates_are_taken_before_the_shared_pass(build):
    guidance = build("always", divergence="fkl", fake_score={"updates_per_step": 3})
    taken = []
    guidance.inner_step = lambda loss: taken.append(loss.item())
    # two times its loss and the discriminator's, then the shared pass and the real half
    assert len(passes(guidance, 0)) == 6 and len(taken) == 2


def test_an_unknown_mode_is_named(build):
    with pytest.raises(ValueError, match=r"fake_score.shared_pass='on'.*never, always, mixed"):
        build("on")
