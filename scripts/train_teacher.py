"""Make the built-in teacher: render the world, train VAE, text encoder and U-Net, CLIP and judge, write the report.

    python scripts/train_teacher.py --preset cpu
    python scripts/train_teacher.py --preset gpu --phases data vae unet

Every phase goes on where it was stopped. Work files live in ``--work``, the results in ``--out``, ``--clip-out`` and
``--judge-out``. The shipped weights were made by the preset ``cpu`` with seed 0.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import _environment  # noqa: F401
import torch

from uni_instruct_3d.command import COUNT, SEED, device, require_file_place, run_command
from uni_instruct_3d.help import Help
from uni_instruct_3d.teacher_factory.factory import PHASES, Factory
from uni_instruct_3d.teacher_factory.presets import PRESETS
from uni_instruct_guidance.core.errors import require_writable


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line about what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="all numbers of a run")
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES), help="what to run, in order")
    parser.add_argument("--work", type=Path, default=Path("outputs/teacher"), help="renders, checkpoints, grids")
    parser.add_argument("--out", type=Path, default=Path("load/teachers/shapes"), help="StableDiffusionPipeline folder")
    parser.add_argument("--clip-out", type=Path, default=Path("load/clip/shapes"), help="open-clip folder")
    parser.add_argument("--judge-out", type=Path, default=Path("load/judge/shapes.safetensors"), help="judge weights")
    parser.add_argument("--mv-out", type=Path, help="multi-view teacher's folder (default: multi_view in --work)")
    parser.add_argument("--seed", type=SEED, default=0, help="seeds every phase")
    parser.add_argument("--workers", type=COUNT, default=2, help="processes that render")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=COUNT, help="torch threads (default: torch's own choice)")
    for phase in ("vae", "unet", "multi_view", "clip", "judge"):
        option = f"--{phase.replace('_', '-')}-steps"
        parser.add_argument(option, type=COUNT, help=f"length of the phase {phase} instead of the preset's")
    args = parser.parse_args(arguments)
    return run_command("error", lambda: train(args), args.work)


def train(args: argparse.Namespace) -> None:
    """The phases in order."""
    for option in ("work", "out", "clip_out"):
        require_writable(f"--{option.replace('_', '-')}", getattr(args, option))
    require_file_place("--judge-out", args.judge_out)
    if args.threads:
        torch.set_num_threads(args.threads)

    preset = PRESETS[args.preset]
    for phase in ("vae", "unet", "multi_view", "clip", "judge"):
        steps = getattr(args, f"{phase}_steps")
        if steps is not None:
            config = getattr(preset, phase)
            preset = replace(preset, **{phase: replace(config, optim=replace(config.optim, steps=steps))})
    factory = Factory(
        preset, work=args.work, teacher=args.out, clip=args.clip_out, judge=args.judge_out, seed=args.seed,
        device=args.device, workers=args.workers, multi_view=args.mv_out,
    )  # fmt: skip
    for phase in args.phases:
        factory.run(phase)


if __name__ == "__main__":
    sys.exit(main())
