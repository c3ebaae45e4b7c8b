"""Divergence x GAN x start on digits: the structure of Uni-Instruct's Table 4, three seeds, with error bars.

    python scripts/ablation.py                                         all eleven cells
    python scripts/ablation.py --cells "gan only" "jkl + gan" --seeds 0 steps=50
    python scripts/ablation.py --jobs 16 --config configs/distill2d/ablation-digits.yaml

Writes table.md, runs.csv, results.json, ablation.png and grids.png into --out, with a folder per run. A run that is
finished with the same settings is not run again; one that was cut short goes on; one that fails is named with its
reason, the others go on, and the exit status is 1. Each job uses one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import _environment  # noqa: F401
from tqdm import tqdm

from uni_instruct_3d import ROOT
from uni_instruct_3d.command import COUNT, SEED, run_command
from uni_instruct_3d.help import Help
from uni_instruct_guidance.core.errors import require_writable
from uni_instruct_guidance.distill2d.ablation import (
    CELLS,
    Assessment,
    assess_teacher,
    plan,
    run_all,
    run_folder,
    with_starts,
)
from uni_instruct_guidance.distill2d.ablation_report import (
    as_csv,
    figure,
    grids,
    judge_claims,
    markdown,
    spaces_of,
    summarise,
    verdict_table,
)
from uni_instruct_guidance.distill2d.callbacks import atomically
from uni_instruct_guidance.distill2d.config import DistillConfig, read_config


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; unknown cells list the choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--config", default=str(ROOT / "configs" / "distill2d" / "ablation-digits.yaml"))
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS), metavar="CELL",
                        help=f"default: all; {', '.join(map(repr, CELLS))}")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--jobs", type=COUNT, default=2, help="processes, one thread each")
    parser.add_argument("--samples", type=COUNT, default=Assessment.samples, help="of each generator")
    parser.add_argument("--judge-weights", default=str(ROOT / "load" / "judge" / "digits.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("outputs/distill2d/ablation"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the configuration, for all cells")
    return parser.parse_intermixed_args(arguments)


def run(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Everything; returns the report as markdown, and a line for every run that failed."""
    base = read_config(DistillConfig, [args.config], args.overrides)
    require_writable("--out", args.out)
    if not base.teacher or not Path(base.teacher).is_file():
        raise ValueError(f"teacher={base.teacher!r} does not exist")
    assessment = Assessment(samples=args.samples, weights=args.judge_weights)
    with tqdm(total=args.samples, unit="image", desc="teacher") as bar:
        teacher = assess_teacher(base, args.out, assessment, bar.update)
    cells = with_starts(args.cells)
    runs = plan(base, cells, args.seeds, args.out, assessment)
    with tqdm(total=sum(run.config.steps for run in runs), unit="step", smoothing=0, mininterval=2.0) as bar:
        results, failures = run_all(runs, args.jobs, bar)
    failed = [f"{cell}, seed {seed}: {reason}" for (cell, seed), reason in failures.items()]
    if not results:
        raise ValueError(f"no run finished; {failed[0]}")

    summaries = summarise(results, teacher)
    report = markdown(summaries, teacher)
    for space in spaces_of(teacher):
        report += f"\nFréchet distance, {space}:\n\n{verdict_table(judge_claims(results, f'fd_{space}'))}"
    atomically(args.out / "table.md", lambda path: path.write_text(report))
    atomically(args.out / "runs.csv", lambda path: path.write_text(as_csv(results)))
    content = {"teacher": teacher, "cells": [asdict(row) for row in summaries], "runs": results}
    atomically(args.out / "results.json", lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))
    figure(args.out / "ablation.png", summaries, teacher)
    first = {row["cell"]: run_folder(args.out, CELLS[row["cell"]], row["seed"]) for row in reversed(results)}
    folders = {cell.name: first[cell.name] for cell in cells if cell.name in first}
    grids(args.out / "grids.png", {**folders, "teacher": args.out / "teacher"})
    return report, failed


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)

    def whole_table() -> int:
        report, failed = run(args)
        print(report)
        print(f"written to {args.out}")
        for line in failed:
            print(f"failed: {line}", file=sys.stderr)
        return 1 if failed else 0

    return run_command("error", whole_table, args.out)


if __name__ == "__main__":
    sys.exit(main())
