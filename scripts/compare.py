"""Compare methods: every method x prompt x seed is trained, scored as NeRF and as mesh, and put into one table.

    python scripts/compare.py --methods sds vsd uni_instruct_rkl --prompts prompts/compare.txt --seeds 0 1
    python scripts/compare.py --preset compare-cpu --methods ground_truth vsd "uni_instruct_rkl:jacobian=full,kappa=1" …
    python scripts/compare.py … --engine ray            # over the machines of RAY_ADDRESS
    python scripts/compare.py … --table-only            # the table of what is finished so far

A method is an overlay of configs/methods, with overrides behind a colon (`kappa=1` is system.guidance.kappa=1),
`fantasia3d` (a baseline with stages of its own, mesh only), or `ground_truth`, the built-in world's own objects;
`vsd@shapes-mv` is a method with the teacher and sizes of a config set of its own;
`table7` stands for the rows of the paper's table: DreamFusion, Fantasia3D, ProlificDreamer, Uni-Instruct FKL and RKL.
What is finished is not run again unless its settings or the teacher changed; a killed comparison goes on where it was.
A run that fails is named with its reason, the rest goes on, and the exit status is 1. Results: comparison.html, .csv,
.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import _environment  # noqa: F401

from uni_instruct_3d import ROOT
from uni_instruct_3d.command import COUNT, SEED, run_command
from uni_instruct_3d.comparison.cell import CellRunner, failed, read_result
from uni_instruct_3d.comparison.engines import ENGINES, visible_gpus
from uni_instruct_3d.comparison.matrix import Cell, Column, Plan, cells, parse_columns, presets
from uni_instruct_3d.comparison.rungs import DEFAULT, RUNGS
from uni_instruct_3d.comparison.table import Results, as_csv, as_json, failures, tables
from uni_instruct_3d.help import Help
from uni_instruct_3d.pipeline.stages import CONFIG_SETS, stage_file
from uni_instruct_guidance.core.errors import require_writable
from uni_instruct_guidance.scoring.summary import read_prompts


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument(
        "--methods", nargs="+", required=True, metavar="METHOD[@CONFIG_SET][:key=value,…]", help="columns"
    )
    parser.add_argument("--prompts", type=Path, default=ROOT / "prompts" / "compare.txt", help="one prompt a line")
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[0, 1])
    parser.add_argument("--backbones", nargs="+", default=list(DEFAULT), choices=list(RUNGS))
    parser.add_argument("--baseline", metavar="METHOD", help="column that differences are taken to; vsd if it is there")
    parser.add_argument("--config-set", default="shapes", choices=list(CONFIG_SETS), help="teacher and sizes")
    parser.add_argument("--preset", choices=presets(), help="settings over all methods, of configs/presets")
    parser.add_argument("--out", type=Path, default=Path("outputs/compare"))
    parser.add_argument("--engine", default="local", choices=list(ENGINES))
    parser.add_argument("--jobs", type=COUNT, help="runs at once; by default one per GPU, or one per core")
    parser.add_argument("--threads", type=COUNT, default=1, help="of each run")
    parser.add_argument("--cpu", action="store_true", help="leave GPUs alone")
    parser.add_argument("--clip", default="local-dir:load/clip/shapes", help="open-clip model of the score")
    parser.add_argument("--clip-pretrained", metavar="TAG|FILE", help="its weights, for an architecture")
    parser.add_argument("--aesthetic", metavar="FILE", help="aesthetic predictor; needs --clip ViT-L-14")
    parser.add_argument("--protocol", default="shapes-8", help="cameras of CLIP and aesthetic score")
    parser.add_argument("--keep", action="store_true", help="keep checkpoints and pictures of finished runs")
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the tables of what is finished")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every stage of every run")
    args = parser.parse_intermixed_args(argv)
    # overrides that stand right behind the columns
    strays = [text for text in args.methods if "=" in text.partition(":")[0]]
    args.methods = [text for text in args.methods if text not in strays]
    args.overrides = [*strays, *args.overrides]
    if not args.methods:
        parser.error("--methods names no method")
    for override in args.overrides:
        if "=" not in override:
            parser.error(f"{override!r} is not of the form key=value")
    return args


def make_plan(args: argparse.Namespace) -> Plan:
    return Plan(
        out=args.out.expanduser().resolve(), config_set=args.config_set, preset=args.preset,
        backbones=tuple(args.backbones), overrides=tuple(args.overrides), clip=args.clip,
        clip_pretrained=args.clip_pretrained, aesthetic=args.aesthetic, protocol=args.protocol, threads=args.threads,
        cpu=args.cpu, keep=args.keep,
    )  # fmt: skip


TEACHER = "system.prompt_processor.pretrained_model_name_or_path"


def teacher_digests(plan: Plan, columns: list[Column]) -> dict[str, str]:
    """Config set ↦ digest of its teachers, one after the other: all weights of a folder, else the name. A new teacher
    makes every result of its sets old."""
    from omegaconf import OmegaConf

    digests = {}
    for config_set in dict.fromkeys(plan.set_of(column) for column in columns):
        digest, names = hashlib.sha256(), []
        for stage in plan.stages:
            config = OmegaConf.load(stage_file(stage, config_set))
            name = OmegaConf.select(OmegaConf.merge(config, OmegaConf.from_dotlist(list(plan.overrides))), TEACHER)
            if not isinstance(name, str):
                raise ValueError(f"{TEACHER}={name!r} must be a folder or a hub id")
            names.append(name)
        for name in dict.fromkeys(names):
            digest.update(name.encode())
            for path in sorted(Path(name).glob("*/*.safetensors")) or sorted((ROOT / name).glob("*/*.safetensors")):
                with open(path, "rb") as file:
                    while block := file.read(1 << 24):  # gigabytes for a real teacher
                        digest.update(block)
        digests[config_set] = digest.hexdigest()[:24]
    return digests


def choose_baseline(columns: list[Column], label: str | None) -> Column:
    """Raises ValueError where no column is called so."""
    if label is None:
        return next((column for column in columns if column.label == "vsd"), columns[0])
    for column in columns:
        if column.label == label:
            return column
    raise ValueError(f"--baseline {label!r} is none of --methods: {', '.join(c.label for c in columns)}")


def check_scoring(plan: Plan, prompts: tuple[str, ...]) -> None:
    """Scores are made after minutes or hours of training: what cannot be scored is found before.

    Raises:
        ValueError: unknown protocol, CLIP or weights.
    """
    from uni_instruct_3d.comparison.scores import asked_or_none, get_protocol, make_scorers

    get_protocol(plan.protocol)
    say(f"scored by {make_scorers(plan.clip, plan.clip_pretrained, plan.aesthetic, prompts).clip.label}")
    unknown = [prompt for prompt in prompts if asked_or_none(prompt) is None]
    if unknown:
        say(f"no ground truth for prompts that are not of the built-in world: {', '.join(map(repr, unknown))}")


def run(plan: Plan, matrix: list[Cell], runner: CellRunner, args: argparse.Namespace) -> Results:
    """Run what is not finished, with progress and time left; returns every result there is."""
    from tqdm import tqdm

    results = {cell: read_result(plan, cell, runner.teacher(cell)) for cell in matrix}
    todo = [cell for cell in matrix if results[cell] is None or results[cell]["status"] != "done"]
    if todo and not args.table_only:
        check_scoring(plan, runner.prompts)
        jobs = args.jobs or (len(visible_gpus()) if not args.cpu else 0) or os.cpu_count() or 1
        say(f"{len(matrix) - len(todo)} of {len(matrix)} runs are finished; {len(todo)} to go, {jobs} at once")
        with tqdm(total=len(todo), desc="compare", unit="run", smoothing=0.1) as bar:
            for cell, result, error in ENGINES[args.engine](runner, todo, jobs):
                results[cell] = failed(error) if error else result
                if results[cell]["status"] != "done":
                    bar.write(f"compare: {cell.name} failed: {results[cell]['reason'].strip().splitlines()[-1]}")
                bar.set_postfix_str(f"{cell.column.label}, {cell.prompt}, {results[cell]['seconds']:.0f} s")
                bar.update()
    return {cell: result for cell, result in results.items() if result is not None}


def write(plan: Plan, results: Results, columns: list[Column], baseline: Column) -> str:
    """Table files and the page; returns the tables as Markdown."""
    from threestudio.utils.files import atomic_path
    from uni_instruct_3d.comparison.page import write_page

    found = tables(results, columns, baseline, plan.backbones)
    sets = list(dict.fromkeys(plan.set_of(column) for column in columns))
    facts = {"clip": plan.clip, "protocol": plan.protocol, "config_sets": sets, "preset": plan.preset,
             "baseline": baseline.label, "overrides": list(plan.overrides)}  # fmt: skip
    text = "\n\n".join(table.markdown() for table in found)
    contents = {
        "comparison.csv": as_csv(results, plan.backbones),
        "comparison.json": json.dumps(as_json(results, found, facts), indent=2, allow_nan=False) + "\n",
        "comparison.md": text + "\n",
    }
    for name, content in contents.items():
        with atomic_path(plan.out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    notes = [
        f"{len(results)} runs; config set {', '.join(sets)}, preset {plan.preset or 'none'}; 3D-CLIP by {plan.clip} "
        f"({plan.protocol}).",
        "↑ more is better, ↓ less is better. Errors are standard errors over prompt x seed.",
    ]
    write_page(plan.out / "comparison.html", "Comparison of methods", notes, found, results, columns, plan.backbones)
    return text


def say(message: str) -> None:
    print(f"compare: {message}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """0; 1 if a run failed; 2 after one line about what the user can mend."""
    args = parse_arguments(argv)
    return run_command("compare: error", lambda: compare(args), args.out)


def compare(args: argparse.Namespace) -> int:
    """Everything; 1 if a run failed or none is finished."""
    plan, columns, (prompts, _) = make_plan(args), parse_columns(args.methods), read_prompts(args.prompts)
    baseline = choose_baseline(columns, args.baseline)
    require_writable("--out", plan.out)
    runner = CellRunner(plan, teacher_digests(plan, columns), tuple(prompts))
    results = run(plan, cells(columns, prompts, list(dict.fromkeys(args.seeds))), runner, args)
    if not results:
        say("no run is finished yet")
        return 1
    print(write(plan, results, columns, baseline))
    say(f"results: {plan.out / 'comparison.html'}")
    failed_cells = failures(results)
    for cell, reason in failed_cells:
        say(f"failed: {cell.name}: {reason.strip().splitlines()[-1]}")
    return 1 if failed_cells else 0


if __name__ == "__main__":
    sys.exit(main())
