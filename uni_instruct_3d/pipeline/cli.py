"""One command from a prompt to files: NeRF, mesh, texture, export, report. Resumable at any stage.

    python scripts/text_to_3d.py "a red mug"
    python scripts/text_to_3d.py "a red mug" --method vsd --stages nerf
    python scripts/text_to_3d.py "A thorny rose." --config-set sd21 system.guidance.guidance_scale=10

Every stage is one run of launch.py in <out>/<prompt>/<stage>/; a stage that is finished is not run again, a stage that
was cut short goes on from its last checkpoint. Arguments of the form key=value go to every stage.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from .. import ROOT
from .stages import CONFIG_SETS, STAGES, Stage, methods, quoted, results, slug


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", help="what to make; the built-in teacher's words are in prompts/shapes.txt")
    parser.add_argument("--config-set", default="shapes", choices=list(CONFIG_SETS), help="teacher and sizes")
    parser.add_argument("--method", choices=methods(), help="overlay of configs/methods/ for NeRF and texture")
    parser.add_argument("--stages", default=",".join(s.name for s in STAGES), help="comma-separated, in order")
    parser.add_argument("--out", default="outputs", help="folder that receives <prompt>/<stage>/")
    parser.add_argument("--name", help="folder name instead of the one made from the prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", default="0", help="GPU index for launch.py; ignored without a GPU")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="passed on to every stage")
    args = parser.parse_intermixed_args(argv)
    if not args.prompt.strip():
        parser.error('prompt is empty; say what to make, e.g. "a red mug"')
    known = [stage.name for stage in STAGES]
    args.stages = [name.strip() for name in args.stages.split(",") if name.strip()]
    unknown = [name for name in args.stages if name not in known]
    if unknown or not args.stages:
        parser.error(f"--stages {','.join(unknown) or '(none)'}; choices: {', '.join(known)}")
    for override in args.overrides:
        if "=" not in override:
            parser.error(f"{override!r} is not of the form key=value")
    return args


def command(stage: Stage, args: argparse.Namespace, folder: Path) -> list[str]:
    """The launch.py call of a stage: fresh, or continuing from its last checkpoint."""
    config = ROOT / "configs" / stage.config.format(set=CONFIG_SETS[args.config_set])
    last = folder / stage.name / "ckpts" / "last.ckpt"
    call = [sys.executable, str(ROOT / "launch.py"), "--train", "--gpu", args.gpu, "--config", str(config)]
    if args.method and stage.name != "geometry":
        call += ["--config", str(ROOT / "configs" / "methods" / f"{args.method}.yaml")]
    call += [f"exp_root_dir={folder.parent}", f"name={folder.name}", f"tag={stage.name}", "use_timestamp=false"]
    call += [f"seed={args.seed}", f"system.prompt_processor.prompt={quoted(args.prompt)}"]
    if stage.after:
        call.append(f"{stage.starts_from}={folder / stage.after / 'ckpts' / 'last.ckpt'}")
    if last.is_file():
        call.append(f"resume={last}")
    return call + args.overrides


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    folder = Path(args.out).expanduser().resolve() / (args.name or slug(args.prompt))
    print(f"text-to-3d: {args.prompt!r} -> {folder}")
    for stage in (stage for stage in STAGES if stage.name in args.stages):
        done = folder / stage.name / "done"
        if done.is_file():
            print(f"text-to-3d: {stage.name} is finished ({done.read_text().strip()})")
            continue
        if stage.after and not (folder / stage.after / "done").is_file():
            print(f"text-to-3d: {stage.name} needs {stage.after} first; add it to --stages", file=sys.stderr)
            return 2
        start = time.monotonic()
        status = subprocess.call(command(stage, args, folder), cwd=ROOT)
        if not status and not (folder / stage.name / "ckpts" / "last.ckpt").is_file():
            status = 1  # ended without a word and without a checkpoint: not finished
        if status:
            print(f"text-to-3d: {stage.name} stopped with status {status}; run again to continue", file=sys.stderr)
            return status
        scratch = done.with_suffix(".tmp")
        scratch.write_text(f"{time.monotonic() - start:.0f} s\n")
        os.replace(scratch, done)
    status = finish(folder, args)
    print("text-to-3d: results")
    for path in results(folder):
        print(f"  {path}")
    return status


def finish(folder: Path, args: argparse.Namespace) -> int:
    """Export the mesh of the last finished stage and write the report over all of them; 0 or the first bad status."""
    finished = [stage for stage in STAGES if (folder / stage.name / "done").is_file()]
    trial = folder / finished[-1].name
    export = [sys.executable, str(ROOT / "launch.py"), "--export", "--gpu", args.gpu]
    export += ["--config", str(trial / "configs" / "parsed.yaml"), f"resume={trial / 'ckpts' / 'last.ckpt'}"]
    report = [sys.executable, str(ROOT / "scripts" / "report.py"), *(str(folder / stage.name) for stage in finished)]
    for name, call in {"export": export, "report": [*report, "--title", " ".join(args.prompt.split())]}.items():
        status = subprocess.call(call, cwd=ROOT)
        if status:
            print(f"text-to-3d: the {name} stopped with status {status}", file=sys.stderr)
            return status
    return 0
