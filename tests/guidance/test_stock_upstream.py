"""The twins against upstream's own guidances: the same weights, prompts, noise and noise levels, the same gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from upstream.oracle_setup import (
    CASES,
    COMMON,
    SIDE,
    STRIDE,
    T_GRAD,
    T_LORA,
    Prompts,
    cameras,
    lora,
    make_teacher,
    pattern,
)

import threestudio
import uni_instruct_guidance.guidance  # noqa: F401
from uni_instruct_guidance.core import TimeSampler
from uni_instruct_guidance.core.timesteps import TimeSample

ORACLES = json.loads((Path(__file__).parents[1] / "data" / "upstream_guidance.json").read_text())["cases"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for kind in ("epsilon", "v_prediction"):
        make_teacher(folder / kind, kind)
    return folder


def fill_lora(fake) -> None:
    """LoRA and camera weights by formula, under the names of the layers in upstream."""
    with torch.no_grad():
        for name, weight in fake.unet.named_parameters():
            if "lora_" not in name:
                continue
            layer, part = name.split(".lora_")
            attention, projection = layer.removesuffix(".0").rsplit(".", 1)
            weight.copy_(lora(attention, f"{projection}.{part[0]}", weight.shape))
        for i, layer in enumerate((fake.camera.layers[0], fake.camera.layers[2])):
            layer.weight.copy_(pattern(f"camera.{i}.weight", *layer.weight.shape, scale=0.1))
            layer.bias.copy_(pattern(f"camera.{i}.bias", *layer.bias.shape, scale=0.1))


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_losses_are_upstreams(name, teachers, monkeypatch):
    kind, options, batch, perp_neg, lora_kind = CASES[name]
    cfg = {**COMMON, **options, "pretrained_model_name_or_path": str(teachers / "epsilon")}
    if kind == "vsd":
        cfg |= {"pretrained_model_name_or_path_lora": str(teachers / lora_kind), "lora_cfg_training": False}
    stock = {"sds": "stable-diffusion-guidance", "vsd": "stable-diffusion-vsd-guidance"}[kind]
    guidance = threestudio.find(stock)(cfg)
    # upstream draws for the gradient first, ours for LoRA's loss
    order = [0] if kind == "sds" else [1, 0]
    times = [torch.tensor((T_GRAD, T_LORA)[i][:batch]) for i in order]
    noise = [pattern(f"noise {i}", batch, 4, SIDE, SIDE) for i in order]
    if kind == "vsd":
        fill_lora(guidance.guidance.networks.fake)

    def at_given_times(self, process, count, *_, **__):
        t = times.pop(0)
        alpha, sigma = process.alpha_sigma(t)
        return TimeSample(t=t, alpha=alpha, sigma=sigma, log_snr_density=torch.ones(count))

    monkeypatch.setattr(TimeSampler, "sample", at_given_times)
    monkeypatch.setattr(torch, "randn_like", lambda *a, **k: noise.pop(0))
    latents = pattern("latents", batch, SIDE, SIDE, 4).requires_grad_(True)
    out = guidance(latents, Prompts(perp_neg), **cameras(batch), rgb_as_latents=True)
    (grad,) = torch.autograd.grad(out["loss_sds" if kind == "sds" else "loss_vsd"], latents)
    expected = ORACLES[name]
    theirs = torch.tensor(expected["every_257th"])
    assert (grad.flatten()[::STRIDE] - theirs).norm() <= 1e-5 * theirs.norm()
    assert grad.double().norm().item() == pytest.approx(expected["norm"], rel=1e-5)
    if kind == "vsd":
        assert out["loss_lora"].item() == pytest.approx(expected["loss_lora"], rel=1e-5)
