"""One-step text-to-image students of the built-in teacher: methods x seeds at the same budget, measured by the judge.

    python scripts/text_table.py                                       every row, three seeds
    python scripts/text_table.py --rows diff_instruct swiftbrush --seeds 0 steps=300
    python scripts/text_table.py --assess outputs/distill2d/shapes-text/student

Writes table.md and results.json into --out, with a folder per run. A run that is finished with the same settings is not
run again; one that was cut short goes on; one that fails is named with its reason, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import _environment  # noqa: F401
from tqdm import tqdm

from uni_instruct_3d import ROOT
from uni_instruct_3d.command import SEED, run_command
from uni_instruct_3d.text_students.assess import Assessment, ask_world, assess, one_step_pipeline
from uni_instruct_3d.text_students.table import ROWS, assess_teacher, carry_out, markdown, plan
from uni_instruct_guidance.core.errors import require_writable
from uni_instruct_guidance.core.files import atomically
from uni_instruct_guidance.core.ranges import argument, whole
from uni_instruct_guidance.distill2d.ablation import run_all
from uni_instruct_guidance.distill2d.config import DistillConfig, read_config


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; unknown rows list the choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "distill2d" / "shapes-text.yaml"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW",
                        help=f"default: all; {', '.join(map(repr, ROWS))}")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--jobs", type=argument(whole(least=1)), default=2, help="processes, one thread each")
    parser.add_argument("--images", type=argument(whole(least=2)), default=Assessment.images, help="of each model")
    parser.add_argument("--assess", type=Path, metavar="FOLDER", help="only measure this student")
    parser.add_argument("--out", type=Path, default=Path("outputs/distill2d/text-table"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the configuration, for all rows")
    return parser.parse_intermixed_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Everything; the exit status."""
    assessment = Assessment(images=args.images, pairs=max(2, min(Assessment.pairs, args.images // 40)))
    if args.assess is not None:
        print(json.dumps(assess(one_step_pipeline(args.assess), ask_world(assessment), assessment), indent=1))
        return 0
    base = read_config(DistillConfig, [args.config], args.overrides)
    require_writable("--out", args.out)
    runs = plan(base, args.rows, args.seeds, args.out, assessment)
    teacher = assess_teacher(base, args.out, assessment)
    with tqdm(total=sum(run.config.steps for run in runs), unit="step", smoothing=0, mininterval=2.0) as bar:
        results, failures = run_all(runs, args.jobs, bar, carry_out)
    table = markdown(results, teacher)
    atomically(args.out / "table.md", lambda path: path.write_text(table))
    content = json.dumps({"teacher": teacher, "runs": results}, indent=1) + "\n"
    atomically(args.out / "results.json", lambda path: path.write_text(content))
    print(table)
    for (row, seed), reason in failures.items():
        print(f"failed: {row}, seed {seed}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    return run_command("error", lambda: run(args), args.out)


if __name__ == "__main__":
    sys.exit(main())
