"""Measure a teacher of the procedural world: draw every class, colour and view, let the judge look.

    python scripts/teacher_report.py                                  # the shipped teacher, about 10 minutes on a CPU
    python scripts/teacher_report.py --teacher outputs/mine --guidance 7.5 --steps 20

Writes quality.json, quality.md and one grid per class (rows: colours, columns: front, side, back, overhead). A
multi-view teacher is asked for groups of views: groups.md, groups.png and, without words for the view,
groups_matrix_alone.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401
import torch

from uni_instruct_3d import shapes_world
from uni_instruct_3d.command import COUNT, SCALE, SEED, device, run_command
from uni_instruct_3d.help import Help
from uni_instruct_3d.teacher_factory.export import load_pipeline
from uni_instruct_3d.teacher_factory.group_report import (
    asked_groups,
    draw_groups,
    group_quality,
    group_table,
    world_groups,
)
from uni_instruct_3d.teacher_factory.judge import load_judge
from uni_instruct_3d.teacher_factory.presets import ReportConfig
from uni_instruct_3d.teacher_factory.report import grid, insert_table, make_report, table
from uni_instruct_guidance.core.errors import require_writable
from uni_instruct_guidance.teachers.stable_diffusion.multi_view import read_mark
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line about what the user can mend."""
    default = ReportConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--teacher", type=Path, default=Path("load/teachers/shapes"), help="pipeline folder")
    parser.add_argument("--judge", type=Path, default=Path("load/judge/shapes.safetensors"), help="judge weights")
    parser.add_argument("--out", type=Path, default=Path("outputs/teacher_report"), help="where table and grids go")
    parser.add_argument("--guidance", type=SCALE, default=default.guidance, help="classifier-free guidance scale")
    parser.add_argument("--steps", type=COUNT, default=default.sampling_steps, help="steps of the ODE solver")
    parser.add_argument("--per-view", type=COUNT, default=default.per_view, help="images per class, colour and view")
    parser.add_argument("--batch", type=COUNT, default=default.batch)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16: twice as fast where the CPU has it")
    parser.add_argument("--camera-words", action="store_true", help="also ask for azimuths; the judge must know them")
    parser.add_argument("--card", type=Path, help="model card whose quality table is replaced")
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(arguments)
    return run_command("error", lambda: measure(args), args.out)


def measure(args: argparse.Namespace) -> None:
    """Draw, judge, write."""
    require_writable("--out", args.out)
    if read_mark(args.teacher / "unet").n_views > 1:
        return measure_groups(args)
    config = ReportConfig(args.guidance, args.steps, args.per_view, args.batch, args.bf16, args.camera_words)
    pipeline = load_pipeline(args.teacher).to(args.device)
    result = make_report(pipeline, load_judge(args.judge), shapes_world, config, args.out, args.seed)
    print(table(result))
    if args.camera_words:
        camera = result["camera"]
        print(f"azimuth told in words: median {camera['median']:.0f}° off, {camera['within_22']:.1%} within 22.5°")
    if args.card:
        insert_table(args.card, table(result))


def measure_groups(args: argparse.Namespace) -> None:
    """The same for a multi-view teacher, beside the world's own renders of the same groups."""
    teacher = Teacher.load(str(args.teacher), torch.device(args.device), half_precision=args.bf16)
    pipeline, judge = load_pipeline(args.teacher), load_judge(args.judge)
    found = {}
    for name, view_words in {"teacher": True, "teacher, cameras told by the matrix alone": False}.items():
        rows = asked_groups(shapes_world, teacher.n_views, view_words)
        images = draw_groups(teacher, pipeline, rows, args.guidance, args.steps, args.seed)
        found[name] = group_quality(judge, shapes_world, rows, images)
        grid(images, 4 * teacher.n_views).save(args.out / ("groups.png" if view_words else "groups_matrix_alone.png"))
    truth = world_groups(rows, images.shape[1])
    found["the world's renders"] = group_quality(judge, shapes_world, rows, truth)
    text = group_table(found)
    (args.out / "groups.md").write_text(text, encoding="utf-8")
    print(text)
    if args.card:
        insert_table(args.card, text)


if __name__ == "__main__":
    sys.exit(main())
