"""Overhead of the objective over the network calls it needs, both measured in turn in one run.

Network calls: the teacher with classifier-free guidance (batch 2B) and the fake score (batch B), U-Nets in Stable
Diffusion's format, forward only (jacobian none, the cheapest case and so the hardest for the ratio).
Objective: surrogate, diagnostics and its backward pass into the latents. Target: at most 3 % at latents [4, 4, 64, 64].
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from uni_instruct_guidance.core import DIVERGENCES, ObjectiveConfig, classifier_free, objective, to_x0

from ..command import COUNT, PIXELS, device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=COUNT, default=4)
    parser.add_argument("--size", type=PIXELS, default=64, help="height and width of the latents")
    parser.add_argument("--repeats", type=COUNT, default=7)
    parser.add_argument("--divergence", choices=list(DIVERGENCES), default="jkl")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")


def _unet(device: str):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(64, 128, 256),
        layers_per_block=2,
        cross_attention_dim=128,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    ).to(device)


def _seconds(call, device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def run(args: argparse.Namespace) -> dict:
    device, shape = args.device, (args.batch, 4, args.size, args.size)
    teacher, fake = _unet(device), _unet(device)
    x0 = torch.randn(shape, device=device, requires_grad=True)
    alpha, sigma = torch.full((args.batch,), 0.8, device=device), torch.full((args.batch,), 0.6, device=device)
    x_t = (0.8 * x0 + 0.6 * torch.randn_like(x0)).detach()
    t = torch.full((args.batch,), 400, device=device)
    words = torch.randn(args.batch, 77, 128, device=device)
    log_r = torch.randn(args.batch, device=device)
    config = ObjectiveConfig(args.divergence, "exact", jacobian="none")
    predictions = {}

    def networks() -> None:
        with torch.no_grad():
            both = teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([words, words])).sample
            predictions["teacher"] = to_x0(classifier_free(*both.chunk(2), 7.5), x_t, alpha, sigma, "epsilon")
            predictions["fake"] = to_x0(fake(x_t, t, words).sample, x_t, alpha, sigma, "epsilon")

    def estimate() -> None:
        out = objective(
            config,
            x0=x0,
            x0_teacher=predictions["teacher"],
            x0_fake=predictions["fake"],
            alpha=alpha,
            sigma=sigma,
            log_r=log_r,
        )
        torch.autograd.grad(out.loss.sum(), x0)

    for _ in range(2):
        networks()
        estimate()
    times = [(_seconds(networks, device), _seconds(estimate, device)) for _ in range(args.repeats)]
    network_ms, objective_ms = (1e3 * statistics.median(column) for column in zip(*times))
    return {
        "latents": list(shape),
        "divergence": args.divergence,
        "network_calls_ms": round(network_ms, 2),
        "objective_ms": round(objective_ms, 3),
        "overhead_percent": round(100 * objective_ms / network_ms, 2),
    }
