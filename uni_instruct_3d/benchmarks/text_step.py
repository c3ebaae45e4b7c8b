"""One training step of a text-to-image student on networks of Stable Diffusion's size: seconds and memory.

Weights are random: neither figure depends on them. The settings are those of configs/distill2d/sd21-text-*.yaml, but
for one picture in the batch and for LoRA (rank 64) in place of full copies of the U-Net, which need 14 bytes a
parameter more each. Run one method at a time: the peak is the whole process's.

    python scripts/benchmark.py text_step --method swiftbrush
    python scripts/benchmark.py text_step --method sid_lsg --latent 64
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from .. import ROOT
from ..command import COUNT

# method -> its configuration and what is changed in it
METHODS = {
    "swiftbrush": ("sd21-text-swiftbrush.yaml", []),
    "sid_lsg": ("sd21-text-sid-lsg.yaml", ["method={name: sid_lsg, fake_score: lora}", "text.targets=[attention]"]),
}
_CROSS, _PLAIN = "CrossAttn{}Block2D", "{}Block2D"
# name -> (U-Net, VAE widths, text encoder): Stable Diffusion 2.1 base's own numbers, and a toy
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...], dict[str, int]]] = {
    "sd21": (
        {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20),
         "cross_attention_dim": 1024, "use_linear_projection": True},
        (128, 256, 512, 512),
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    ),
    "toy": (
        {"block_out_channels": (32, 32, 32, 32), "attention_head_dim": (2, 2, 2, 2), "cross_attention_dim": 16,
         "layers_per_block": 1},
        (32, 32, 32, 32),
        {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    ),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=list(METHODS), default="swiftbrush")
    parser.add_argument("--network", choices=list(NETWORKS), default="sd21")
    parser.add_argument("--latent", type=COUNT, default=32, help="side of the latents; 64 is 512 pixels")
    parser.add_argument("--steps", type=COUNT, default=1)


def random_teacher(folder: Path, name: str, latent: int):
    """A teacher in bfloat16 with random weights; its tokenizer and text encoder lie in `folder`."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from uni_instruct_guidance.core.process import DiscreteVP
    from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher, use_plain_attention

    unet_options, widths, text_options = NETWORKS[name]
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "load/teachers/shapes/tokenizer", model_max_length=77)
    tokenizer.save_pretrained(folder / "tokenizer")
    levels = len(widths)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # made as it is used: float32 weights first would double the peak
    try:
        torch.manual_seed(0)
        CLIPTextModel(
            CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=77,
                           bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                           pad_token_id=tokenizer.pad_token_id, **text_options)
        ).save_pretrained(folder / "text_encoder", safe_serialization=True)  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=latent,
            down_block_types=(*[_CROSS.format("Down")] * 3, _PLAIN.format("Down")),
            up_block_types=(_PLAIN.format("Up"), *[_CROSS.format("Up")] * 3),
            **unet_options,
        )
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            block_out_channels=widths,
            layers_per_block=2,
            sample_size=8 * latent,
        )
    finally:
        torch.set_default_dtype(before)
    for module in (unet, vae):
        module.to(torch.bfloat16).eval().requires_grad_(False)
    use_plain_attention(unet)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    process, config = DiscreteVP.from_scheduler(scheduler), dict(scheduler.config)
    return Teacher(str(folder), vae, unet, process, "epsilon", config, torch.device("cpu"), torch.bfloat16)


def run(args: argparse.Namespace) -> dict:
    from uni_instruct_guidance.distill2d.config import DistillConfig, read_config
    from uni_instruct_guidance.distill2d.trainer import distill

    file, changed = METHODS[args.method]
    with tempfile.TemporaryDirectory() as folder:
        teacher = random_teacher(Path(folder), args.network, args.latent)
        overrides = ["out=null", f"steps={args.steps}", "batch=1", "micro_batch=1", "text.student=lora", *changed]
        overrides += [f"text.prompts={ROOT / 'prompts/paper.txt'}", "trainer.accelerator=cpu"]
        cfg = read_config(DistillConfig, [ROOT / "configs/distill2d" / file], overrides)
        start = time.process_time(), time.perf_counter()
        result = distill(cfg, teacher=teacher, quiet=True)
    learned = sum(p.numel() for p in result.module.student.parameters())
    return {
        "method": args.method, "network": args.network, "latent": args.latent, "steps": args.steps,
        "unet_parameters_million": round(sum(p.numel() for p in teacher.unet.parameters()) / 1e6, 1),
        "student_lora_million": round(learned / 1e6, 2),
        "seconds": round(time.perf_counter() - start[1], 1), "cpu_seconds": round(time.process_time() - start[0], 1),
        "peak_memory_gib": round(_peak_bytes() / 2**30, 2),
        "loss/fake_score": result.scalars["loss/fake_score"], "grad_norm/student": result.scalars["grad_norm/student"],
        "skipped": result.skipped,
    }  # fmt: skip


def _peak_bytes() -> int:
    """Of this process since it began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
