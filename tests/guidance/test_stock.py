"""Stock names: threestudio's fields and loss names over the same objective."""

from __future__ import annotations

import pytest
import torch
from prompt_stub import StubPrompts, cameras

import threestudio
from uni_instruct_guidance.guidance.stock import register_missing
from uni_instruct_guidance.guidance.uni_instruct import UniInstructGuidance


def losses(guidance):
    torch.manual_seed(1)
    rgb = torch.rand(2, 16, 16, 3, requires_grad=True)
    return rgb, guidance(rgb, StubPrompts(16), **cameras(2))


def test_registered_once():
    assert threestudio.find("stable-diffusion-guidance").__name__ == "StableDiffusionGuidance"
    assert register_missing() == []


@pytest.mark.parametrize(
    ("strategy", "weighting"), [("sds", "sigma2"), ("uniform", "epsilon"), ("fantasia3d", "fantasia3d")]
)
def test_sds_is_the_row(strategy, weighting, tiny_teacher):
    teacher = {"pretrained_model_name_or_path": str(tiny_teacher), "half_precision_weights": False}
    stock = threestudio.find("stable-diffusion-guidance")({**teacher, "weighting_strategy": strategy})
    # upstream's scale counts from the prompt, ours from the empty prompt; and it never shortens a large sample
    row = {"method": "sds", "guidance_scale": 101.0, "weighting": weighting, "gradient_size": {"max_ratio": 0.0}}
    own = UniInstructGuidance({**teacher, **row})
    (rgb, out), (rgb_own, out_own) = losses(stock), losses(own)
    grads = torch.autograd.grad(out["loss_sds"], rgb)[0], torch.autograd.grad(out_own["loss_uni_instruct"], rgb_own)[0]
    assert torch.equal(*grads) and "loss_uni_instruct" not in out


def test_vsd_has_its_two_losses(tiny_teacher):
    path = str(tiny_teacher)
    stock = threestudio.find("stable-diffusion-vsd-guidance")(
        {
            "pretrained_model_name_or_path": path,
            "pretrained_model_name_or_path_lora": path,
            "half_precision_weights": False,
            "grad_clip": 0.01,
        }
    )
    _, out = losses(stock)
    assert {"loss_vsd", "loss_lora", "grad_norm", "min_step", "max_step"} <= set(out)
    out["loss_lora"].backward()
    assert any(parameter.grad is not None for parameter in stock.parameters())
    assert stock.sample_lora(StubPrompts(16), **cameras(1)).shape == (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "stable-diffusion-guidance",
            {"use_sjc": True, "token_merging": True},
            r"not available in this host: use_sjc=True \(choices: \[False\]\); token_merging=True",
        ),
        ("stable-diffusion-guidance", {"weighting_strategy": "snr"}, "weighting_strategy='snr'; choices: sds"),
    ],
)
def test_what_is_not_available_is_refused(name, options, message, tiny_teacher):
    with pytest.raises(ValueError, match=message):
        threestudio.find(name)({"pretrained_model_name_or_path": str(tiny_teacher), **options})


def test_one_noise_level_a_step_follows_the_root_of_the_progress(tiny_teacher):
    """HiFA: from max_step_percent at the start to min_step_percent at the end."""
    cfg = {"sqrt_anneal": True, "trainer_max_steps": 100, "max_step_percent": [0, 0.9, 0.5, 9]}
    cfg |= {"pretrained_model_name_or_path": str(tiny_teacher), "half_precision_weights": False}
    stock = threestudio.find("stable-diffusion-guidance")(cfg)
    for step, share in [(0, 0.0), (25, 0.5), (100, 1.0), (400, 1.0)]:
        stock.do_update_step(0, step)
        level = 0.02 + 0.88 * (1 - share)
        assert stock.guidance.min_fraction == pytest.approx(level)
        t = stock.guidance.sampler.sample(stock.guidance.teacher.process, 50).t
        assert ((t - 1000 * level).abs() <= 1).all()


@pytest.mark.parametrize("kind", ["sds", "vsd"])
def test_loss_in_the_picture(kind, tiny_teacher):
    """Its gradient in the picture is the weight of the noise times alpha / sigma times the difference of pictures."""
    path = {"pretrained_model_name_or_path": str(tiny_teacher), "half_precision_weights": False, "use_img_loss": True}
    if kind == "vsd":
        path["pretrained_model_name_or_path_lora"] = str(tiny_teacher)
    name = {"sds": "stable-diffusion-guidance", "vsd": "stable-diffusion-vsd-guidance"}[kind]
    stock = threestudio.find(name)(path)
    rgb = torch.rand(2, 32, 32, 3, requires_grad=True)
    out = stock(rgb, StubPrompts(16), **cameras(2))
    (grad,) = torch.autograd.grad(out[f"loss_{kind}_img"], rgb)
    answer, teacher = stock.guidance.last_answer, stock.guidance.teacher
    picture = rgb.detach().permute(0, 3, 1, 2) if kind == "sds" else teacher.decode(answer.x0_fake)
    factor = (answer.sigma * answer.alpha).reshape(2, 1, 1, 1)
    expected = factor * (picture - teacher.decode(answer.x0_teacher))
    torch.testing.assert_close(grad.permute(0, 3, 1, 2), expected / 2, atol=1e-5, rtol=1e-4)


def test_a_fake_score_of_another_model_keeps_its_own_parameterisation(tiny_teacher, tiny_teacher_v):
    cfg = {"pretrained_model_name_or_path": str(tiny_teacher), "half_precision_weights": False}
    stock = threestudio.find("stable-diffusion-vsd-guidance")(
        {**cfg, "pretrained_model_name_or_path_lora": str(tiny_teacher_v)}
    )
    fake = stock.guidance.networks.fake
    assert fake.weighting == "v_prediction" and fake.teacher.prediction_type == "v_prediction"
    assert stock.guidance.teacher.prediction_type == "epsilon"
    spread = torch.cat([p.flatten() for n, p in fake.unet.named_parameters() if "lora_A" in n]).std().item()
    assert spread == pytest.approx(1 / 4, rel=0.1), "threestudio's start: standard deviation 1 / rank"
    assert fake.camera.layers[2].weight.abs().sum() > 0
