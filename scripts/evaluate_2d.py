"""Assess a one-step student and its teacher against the data: a table, a JSON file and sample grids.

    python scripts/evaluate_2d.py outputs/distill2d/digits-cond/last.ckpt --config configs/distill2d/digits-cond.yaml
    python scripts/evaluate_2d.py teacher --config configs/distill2d/digits-cond.yaml
    python scripts/evaluate_2d.py student.safetensors --config configs/distill2d/cifar10-uncond.yaml \\
        --samples 50000 --judge-weights weights-inception-2015-12-05-6726825d.pth --reference-moments cifar10-32x32.npz

The teacher takes 35 evaluations per sample (Heun), the student one. Digits are judged in pixels and in the features of
the shipped classifier, everything else by Inception (FID, precision and recall, Inception score); weights are never
downloaded. Fréchet distances compare at equal numbers of samples only.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import _environment  # noqa: F401
import torch
from tqdm import tqdm

import uni_instruct_3d.world_data  # noqa: F401  the row `shapes` of the data sets
from uni_instruct_3d import ROOT
from uni_instruct_3d.command import COUNT, SEED, device, run_command
from uni_instruct_3d.help import Help
from uni_instruct_guidance.core.errors import require_writable
from uni_instruct_guidance.core.ranges import argument, whole
from uni_instruct_guidance.distill2d.callbacks import atomically, save_grid
from uni_instruct_guidance.distill2d.config import read_config
from uni_instruct_guidance.distill2d.data import load_data
from uni_instruct_guidance.distill2d.evaluation import (
    JUDGES,
    Quality,
    Reference,
    assess_generator,
    judge_for,
    load_judge,
    ratios,
)
from uni_instruct_guidance.distill2d.families import EDMFamily
from uni_instruct_guidance.distill2d.inception import is_published
from uni_instruct_guidance.distill2d.trainer import DistillConfig, check_fit
from uni_instruct_guidance.teachers.edm.checkpoint import load_edm
from uni_instruct_guidance.teachers.edm.teacher import EDMTeacher
from uni_instruct_guidance.teachers.sampling import HeunSampler, one_step

DIGITS_JUDGE = ROOT / "load" / "judge" / "digits.safetensors"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("checkpoint", help="student.safetensors or last.ckpt of distill_2d.py; or: teacher")
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="as for distill_2d.py")
    parser.add_argument("--samples", type=argument(whole(least=10)), default=10_000, help="of each generator")
    parser.add_argument("--steps", type=argument(whole(least=2)), default=18,
                        help="of the teacher's sampler: 2 steps - 1 evaluations")  # fmt: skip
    parser.add_argument("--no-teacher", action="store_true", help="the student alone, without the ratio")
    parser.add_argument("--batch", type=COUNT, default=250)
    parser.add_argument("--seed", type=SEED, default=0, help="of the noise, the same for both")
    parser.add_argument("--judge", choices=list(JUDGES), help="default: digits for digits, else inception")
    parser.add_argument("--judge-weights", type=Path, help="default for digits: the shipped classifier")
    parser.add_argument("--reference-moments", type=Path, help=".npz with mu and sigma in place of the data's")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/evaluate_2d"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="teacher=… data.path=… init_sigma=…")
    return parser.parse_intermixed_args(arguments)


def generators(args: argparse.Namespace, cfg: DistillConfig, teacher):
    """{name: (draw, network, evaluations per sample)} of what is to be assessed."""
    found = {}
    if args.checkpoint != "teacher":
        student = EDMFamily(cfg).begin(Path(args.checkpoint), EDMTeacher(teacher))[0].eval().to(args.device)
        found["student"] = (partial(one_step, student, init_sigma=cfg.init_sigma), student, 1)
    if args.checkpoint == "teacher" or not args.no_teacher:
        sampler = HeunSampler(args.steps)
        found["teacher"] = (partial(sampler, teacher), teacher, sampler.nfe)
    return found


def table(report: dict) -> str:
    """One line per generator and one for the ratio, every figure that there is."""
    names = list(next(iter(report["generators"].values())))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for generator, row in report["generators"].items():
        lines.append(f"| {generator} | " + " | ".join(_shown(row[name]) for name in names) + " |")
    floor = {f"fd_{space}": value for space, value in report["floor"].items()}
    lines.append("| halves of the data | " + " | ".join(_shown(floor.get(name)) for name in names) + " |")
    if "ratio" in report:
        ratio = {f"fd_{space}": value for space, value in report["ratio"].items()}
        lines.append("| student / teacher | " + " | ".join(_shown(ratio.get(name)) for name in names) + " |")
    return "\n".join(lines)


def _shown(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def evaluate(args: argparse.Namespace) -> dict:
    """Read, sample, compare; the report with every figure."""
    cfg = read_config(DistillConfig, args.config, args.overrides)
    require_writable("--out", args.out)
    if not cfg.teacher:
        raise ValueError("teacher is missing: a safetensors file of an EDM network")
    teacher = load_edm(cfg.teacher, cfg.preset).eval().requires_grad_(False).to(args.device)
    name = args.judge or judge_for(cfg.data.name)
    weights = args.judge_weights or (DIGITS_JUDGE if name == "digits" else None)
    judge = load_judge(name, weights, args.device)
    data = load_data(cfg.data)
    check_fit(data, teacher, "teacher")
    todo = generators(args, cfg, teacher)
    reference = Reference(data, judge, batch=args.batch)
    if args.reference_moments:
        reference.use_moments(args.reference_moments)

    qualities: dict[str, Quality] = {}
    report: dict = {"data": data.name, "real": len(data), "judge": name, "floor": reference.floor, "generators": {}}
    if name == "inception":
        report["published_weights"] = is_published(weights)
    for generator, (draw, network, evaluations) in todo.items():
        with tqdm(total=args.samples, unit="image", desc=generator) as bar:
            quality, images = assess_generator(
                draw, network, reference, count=args.samples, batch=args.batch, seed=args.seed, progress=bar.update
            )
        qualities[generator] = quality
        report["generators"][generator] = {"evaluations": evaluations, **quality.row()}
        save_grid(images, args.out / f"{generator}.png")
    if len(qualities) == 2:
        report["ratio"] = ratios(qualities["student"], qualities["teacher"])
    atomically(args.out / "report.json", lambda path: path.write_text(json.dumps(report, indent=1) + "\n"))
    return report


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)


    def assess() -> None:
        report = evaluate(args)
        print(table(report))
        print(f"{report['real']} real images; written to {args.out}")

    return run_command("error", assess, args.out)


if __name__ == "__main__":
    sys.exit(main())
