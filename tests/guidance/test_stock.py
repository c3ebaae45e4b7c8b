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
    own = UniInstructGuidance({**teacher, "method": "sds", "guidance_scale": 100.0, "weighting": weighting})
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
        ("stable-diffusion-guidance", {"use_sjc": True}, r"use_sjc=True is not available.*\[False\]"),
        ("stable-diffusion-guidance", {"weighting_strategy": "snr"}, "weighting_strategy='snr'; choices: sds"),
        (
            "stable-diffusion-vsd-guidance",
            {"pretrained_model_name_or_path_lora": "a/b"},
            "lora='a/b' must be the teacher",
        ),
    ],
)
def test_what_is_not_available_is_refused(name, options, message, tiny_teacher):
    with pytest.raises(ValueError, match=message):
        threestudio.find(name)({"pretrained_model_name_or_path": str(tiny_teacher), **options})
