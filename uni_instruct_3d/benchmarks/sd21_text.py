"""One training step of a text-to-image student at the size of Stable Diffusion 2.1: seconds and memory.

Networks of the published shapes with random weights, as `sd21` has them, through the whole one-step trainer. Settings
are those of configs/distill2d/sd21-text-*.yaml, but for one picture in the batch and for LoRA in place of full copies
of the U-Net: a full copy learns with 12 to 16 bytes a parameter more (gradient, Adam, average). Each method runs in a
process of its own; rows that `--out` holds already are kept.

    python scripts/benchmark.py sd21_text --out sd21-text.json              # 256 pixels: latents of 32x32
    python scripts/benchmark.py sd21_text --latent 64 --methods sid_lsg     # 512 pixels
    python scripts/benchmark.py sd21_text --quick                           # tiny networks, for tests
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from .. import ROOT
from ..command import COUNT
from ._harness import CLOCK, peak_gib, seconds_now
from ._rows import Rows, in_process
from .sd21 import DTYPES, SMALL_TEXT, TEXT, random_teacher, random_weights

# method -> its configuration and what is changed in it
METHODS = {
    "swiftbrush": ("sd21-text-swiftbrush.yaml", []),
    "sid_lsg": ("sd21-text-sid-lsg.yaml", ["method={name: sid_lsg, fake_score: lora}", "text.targets=[attention]"]),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
                        help=f"of {', '.join(METHODS)}; default: all")  # fmt: skip
    parser.add_argument("--latent", type=COUNT, default=32, help="side of the latents, an eighth of the picture's")
    parser.add_argument("--steps", type=COUNT, default=1)
    parser.add_argument("--quick", action="store_true", help="small networks of the same make")


def run(args: argparse.Namespace) -> dict:
    import uni_instruct_guidance.distill2d.trainer  # noqa: F401  rows are forked with what is imported here

    job = {"latent": args.latent, "steps": args.steps, "quick": args.quick, "device": "cpu", "dtype": "bf16",
           "threads": torch.get_num_threads()}  # fmt: skip
    rows = Rows(args.out, job)
    for name in args.methods:
        rows.get(name, lambda name=name: in_process(_measure, name, job))
    return {"settings": job, "clock": CLOCK, "rows": rows.rows}


def _measure(name: str, job: dict) -> dict:
    """One method's figures; called in a process of its own."""
    from uni_instruct_guidance.distill2d.config import DistillConfig, read_config
    from uni_instruct_guidance.distill2d.trainer import distill

    torch.set_num_threads(job["threads"])
    file, changed = METHODS[name]
    teacher = random_teacher(job)
    teacher.unet.register_to_config(sample_size=job["latent"])
    with tempfile.TemporaryDirectory() as folder:
        _write_text_encoder(Path(folder), job)
        teacher.name = folder
        overrides = ["out=null", f"steps={job['steps']}", "batch=1", "micro_batch=1", "text.student=lora", *changed]
        overrides += [f"text.prompts={ROOT / 'prompts/paper.txt'}", "trainer.accelerator=cpu"]
        cfg = read_config(DistillConfig, [ROOT / "configs/distill2d" / file], overrides)
        loaded, start = peak_gib(), seconds_now()
        result = distill(cfg, teacher=teacher, quiet=True)
    found = result.scalars
    return {
        "seconds": round(seconds_now() - start, 1),
        "peak_gib": round(peak_gib(), 2),
        "gib_after_building": round(loaded, 2),
        "unet_million": round(sum(p.numel() for p in teacher.unet.parameters()) / 1e6),
        "student_million": round(sum(p.numel() for p in result.module.student.parameters()) / 1e6, 1),
        "finite": all(torch.isfinite(torch.tensor(value)) for value in found.values()) and not result.skipped,
        "moved": found["grad_norm/student"] > 0 and found["grad_norm/fake_score"] > 0,
    }


def _write_text_encoder(folder: Path, job: dict) -> None:
    """Of the published shape, beside the built-in teacher's tokenizer at the published length."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    config = CLIPTextConfig(**(SMALL_TEXT if job["quick"] else TEXT))
    random_weights(lambda: CLIPTextModel(config), DTYPES[job["dtype"]], job["device"]).save_pretrained(
        folder / "text_encoder"
    )
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "load/teachers/shapes/tokenizer", model_max_length=77)
    tokenizer.save_pretrained(folder / "tokenizer")
