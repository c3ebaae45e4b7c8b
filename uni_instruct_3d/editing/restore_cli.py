"""Restore a picture from what is left of it: RED-diff, DPS, pseudo-inverse.

    python scripts/restore.py mug.png --task inpaint --missing 0.7 --compare
    python scripts/restore.py photo.png --task inpaint --mask scratch.png --measured
    python scripts/restore.py small.png --task super-resolution --factor 4 --measured --prompt "a red mug"
    python scripts/restore.py mug.png --task mine.py:operator --noise-level 0.05

The picture is measured (y = A x + noise) and restored, so that the result can be held against it; with --measured it is
the measurement itself. Teachers: any Stable-Diffusion-format folder or hub id, or an EDM network (.safetensors).
Results: the restored picture, a strip, the residual along the way, page.html. docs/editing.md.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..command import COUNT, INDEX, POSITIVE, SCALE, SEED, device, run_command
from ..help import Help
from . import BUILTIN

NAME = "restore"
#: Option of the command -> option of an operator.
OPERATOR_OPTIONS = ("missing", "factor", "blur", "cut", "share")


def make_parser() -> argparse.ArgumentParser:
    from uni_instruct_guidance.core.operators import OPERATORS
    from uni_instruct_guidance.editing.restore import FAKE_SCORES, RESTORERS, RestoreConfig

    default = RestoreConfig()
    parser = argparse.ArgumentParser(prog="restore.py", description=__doc__, formatter_class=Help)
    parser.add_argument("picture", type=Path, help="a picture file; resized to what the teacher draws")
    parser.add_argument("--task", required=True, metavar="|".join([*OPERATORS, "FILE.py:OPERATOR"]),
                        help="what was measured; OPERATOR(shape): an object with forward and adjoint")  # fmt: skip
    parser.add_argument("--measured", action="store_true", help="the picture is the measurement")
    parser.add_argument("--noise-level", type=SCALE, default=0.0, metavar="SIGMA",
                        help="standard deviation of the measurement's noise, pictures in -1..1")  # fmt: skip
    task = parser.add_argument_group("tasks")
    task.add_argument("--missing", type=POSITIVE, metavar="SHARE", help="inpaint: of the pixels (0.7)")
    task.add_argument("--mask", type=Path, metavar="FILE", help="inpaint: white where pixels are missing")
    task.add_argument("--factor", type=COUNT, metavar="N", help="super-resolution: side of a block (4)")
    task.add_argument("--blur", type=POSITIVE, metavar="PIXELS", help="deblur: standard deviation (2)")
    task.add_argument(
        "--cut", type=POSITIVE, metavar="VALUE", help="deblur: smaller singular values are left out (0.05)"
    )
    task.add_argument("--share", type=POSITIVE, metavar="SHARE", help="compressive: values per pixel (0.25)")
    how = parser.add_argument_group("how")
    how.add_argument("--method", default=default.method, choices=list(RESTORERS))
    how.add_argument("--compare", action="store_true", help="the other methods beside it, with as many network calls")
    how.add_argument("--steps", type=COUNT, default=default.steps, metavar="N", help="one network call each")
    how.add_argument("--lr", type=POSITIVE, default=default.lr, metavar="RATE", help="of Adam (red_diff)")
    how.add_argument(
        "--prior", type=SCALE, metavar="LAMBDA", help="weight of the teacher (red_diff); else by the noise"
    )
    how.add_argument("--strength", type=POSITIVE, default=default.strength, metavar="ZETA", help="of the data (dps)")
    how.add_argument("--particles", type=COUNT, default=1, metavar="N", help="results, with seeds from --seed on")
    how.add_argument("--fake-score", default=default.fake_score, choices=FAKE_SCORES,
                     help="learned: the particles' own score, trained along (red_diff)")  # fmt: skip
    how.add_argument("--seed", type=SEED, default=0, metavar="N", help="of everything random")
    how.add_argument("--teacher", default=BUILTIN, help="Stable-Diffusion folder or hub id, or an EDM .safetensors")
    how.add_argument("--prompt", default="", help="what the picture shows, for a teacher that reads prompts")
    how.add_argument("--guidance", type=SCALE, default=default.guidance_scale, metavar="SCALE", help="of the prompt")
    how.add_argument("--label", type=INDEX, metavar="N", help="class of the picture, for a teacher with classes")
    how.add_argument("--device", type=device, default="cpu", help="as torch calls it")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="else outputs/restore/, named after picture and task"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """0; 1 after Ctrl-C; 2 after one line about what the user can mend."""
    args = make_parser().parse_args(argv)
    return run_command(NAME, partial(_restore, args), args.out, stopped="nothing was written")


def _restore(args: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from uni_instruct_guidance.core.errors import require_writable
    from uni_instruct_guidance.editing.restore import RESTORERS, RestoreConfig, restore
    from uni_instruct_guidance.teachers.opening import open_teacher

    from ..pipeline.stages import slug
    from .measures import quality
    from .pictures import read_picture
    from .results import Entry, print_results, write_results

    config = RestoreConfig(
        method=args.method, steps=args.steps, lr=args.lr, prior=args.prior, strength=args.strength,
        sigma_y=args.noise_level, guidance_scale=args.guidance, fake_score=args.fake_score,
    )  # fmt: skip
    _known_task(args)
    read_picture(args.picture, 8)  # a wrong file is named before the teacher is loaded
    teacher = open_teacher(args.teacher, torch.device(args.device))
    folder = args.out or Path("outputs") / "restore" / f"{slug(args.picture.stem)}-{slug(args.task)}"
    require_writable("--out", folder)
    side = getattr(teacher, "image_size", teacher.shape[1])
    channels = teacher.shape[0] if not teacher.guidable else 3
    picture, operator = _operator(args, (channels, side, side))
    notes = [f"{args.picture.name}: {note}" for note in picture.notes]
    for note in notes:
        print(f"{NAME}: {note}")
    seeds = list(range(args.seed, args.seed + args.particles))
    told = _told(args, teacher, len(seeds))
    truth = picture.pixels[None].to(args.device)
    measurement = 2 * truth - 1
    if not args.measured:
        measurement = operator.forward(measurement)
        draw = torch.Generator().manual_seed(args.seed)
        measurement = measurement + config.sigma_y * torch.randn(measurement.shape, generator=draw).to(measurement)

    entries = [Entry("picture", args.picture.name, picture.pixels)]
    facts: dict[str, str] = {}
    others = [name for name in RESTORERS if name != config.method] if args.compare else []
    for method in [config.method, *others]:
        fake = config.fake_score if method == config.method else "conditional"
        chosen, start = replace(config, method=method, fake_score=fake), time.monotonic()
        many = seeds if method != "pseudo_inverse" else seeds[:1]
        with tqdm(total=config.steps, desc=method, leave=False) as bar:
            rows = measurement.expand(len(many), *measurement.shape[1:])
            done = restore(teacher, rows, operator, told.first(len(many)), chosen, many, lambda *_: bar.update())
        seconds = time.monotonic() - start
        for seed, restored in zip(many, done.pictures):
            suffix = f"-seed{seed}" if len(many) > 1 else ""
            name = ("restored" if method == config.method else method.replace("_", "-")) + suffix
            entries.append(Entry(name, f"{method}{suffix}", restored.cpu(), done.residual if seed == seeds[0] else []))
        gap = (measurement - operator.forward(2 * done.pictures - 1)).square().mean().sqrt()
        calls = f"{done.calls} calls, {done.backward} of them differentiated"
        facts[method] = f"{seconds:.1f} s, {calls}, residual {float(gap):.4f}"
        if not args.measured:
            psnr, ssim = quality(done.pictures, truth.expand_as(done.pictures))
            facts[method] += f", PSNR {float(psnr.mean()):.2f} dB, SSIM {float(ssim.mean()):.3f}"
    settings: dict[str, Any] = {**asdict(config), "task": args.task, "seeds": seeds, "teacher": args.teacher}
    settings |= {name: getattr(args, name) for name in OPERATOR_OPTIONS if getattr(args, name) is not None}
    title = f"{args.picture.name}: {args.task}"
    written = write_results(folder, title, entries, settings, facts, notes, "root mean square of y - A(x)")
    print_results(NAME, facts, written)


def _known_task(args: argparse.Namespace) -> None:
    """Refuse a task that is none, and options of another one."""
    from uni_instruct_guidance.core.errors import UserError, choose
    from uni_instruct_guidance.core.operators import OPERATORS, OPTIONS

    if ":" not in args.task:
        choose("--task", args.task, {**OPERATORS, "FILE.py:OPERATOR": None})
    known = OPTIONS.get(args.task, {})
    for name in OPERATOR_OPTIONS:
        if getattr(args, name) is not None and name not in known:
            owners = [task for task, options in OPTIONS.items() if name in options]
            raise UserError(f"--{name} belongs to --task {' or '.join(owners)}, got --task {args.task}")
    if args.mask is not None and args.task != "inpaint":
        raise UserError(f"--mask belongs to --task inpaint, got --task {args.task}")
    if args.mask is not None and args.missing is not None:
        raise UserError("both --mask and --missing say which pixels are missing; give one of them")
    if args.measured and (args.task == "compressive" or (args.task == "inpaint" and args.mask is None)):
        raise UserError(f"--measured with --task {args.task}: a picture file cannot say what was measured"
                        + ("; give --mask" if args.task == "inpaint" else ""))  # fmt: skip


def _operator(args: argparse.Namespace, shape: tuple[int, int, int]):
    """The picture as the task needs it, and its operator."""
    import torch

    from uni_instruct_guidance.core.errors import UserError
    from uni_instruct_guidance.core.named import load_named
    from uni_instruct_guidance.core.operators import make_operator, own_operator

    from .pictures import read_mask, read_picture

    draw, side = torch.Generator().manual_seed(args.seed), shape[1]
    if ":" in args.task:
        build = load_named("--task", args.task)
        try:
            made = build(shape)
        except Exception as error:  # whatever a user's function raises
            raise UserError(f"--task {args.task}: OPERATOR({shape}) failed: {type(error).__name__}: {error}") from error
        operator = own_operator(args.task, made, shape, draw)
        if args.measured and operator.forward(torch.zeros(1, *shape)).shape[1:] != torch.Size(shape):
            raise UserError(f"--measured: what {args.task} measures is no picture of the teacher's size")
        return read_picture(args.picture, side, shape[0]), operator
    options = {name: getattr(args, name) for name in OPERATOR_OPTIONS if getattr(args, name) is not None}
    measured_side = side // (args.factor or 4) if args.measured and args.task == "super-resolution" else side
    picture = read_picture(args.picture, measured_side, shape[0])
    if args.mask is not None:
        options["mask"] = 1 - read_mask(args.mask, picture, side)[0]
    return picture, make_operator(args.task, shape, draw, **options)


def _told(args: argparse.Namespace, teacher, count: int):
    """What the teacher is told about the picture."""
    import torch

    from uni_instruct_guidance.core.errors import UserError
    from uni_instruct_guidance.editing.restore import Told

    if teacher.guidable:
        if args.label is not None:
            raise UserError(f"--label: teacher {args.teacher} reads prompts; give --prompt")
        from uni_instruct_guidance.teachers.stable_diffusion.text import PromptConditions

        text = PromptConditions(teacher.name, [args.prompt]).embed([args.prompt, ""], torch.device(args.device))
        return Told(*(row.expand(count, -1, -1) for row in text[:, None]))
    if args.prompt:
        raise UserError(f"--prompt: teacher {args.teacher} reads none; it has classes (--label) or nothing")
    classes = teacher.network.label_dim
    if not classes:
        if args.label is not None:
            raise UserError(f"--label: teacher {args.teacher} has no classes")
        return Told()
    if args.label is None or args.label >= classes:
        raise UserError(f"--label {args.label}: teacher {args.teacher} has the classes 0 to {classes - 1}; give one")
    return Told(torch.nn.functional.one_hot(torch.full((count,), args.label), classes).float().to(args.device))
