"""One command from a prompt to files: NeRF, mesh, texture, export, report. Resumable at any stage.

    python scripts/text_to_3d.py "a red mug"
    python scripts/text_to_3d.py "a red mug" --method vsd --stages nerf
    python scripts/text_to_3d.py "A thorny rose." --config-set sd21 system.guidance.guidance_scale=10

Everything of a run lies in one folder below --out, named after the prompt and what differs from the defaults. What is
finished is not run again, what was cut short goes on from its last checkpoint. Arguments of the form key=value go to
every stage.
"""

from __future__ import annotations

import argparse
import os
import sys

from .events import StageError, Stopped
from .run import Run
from .settings import Settings
from .stages import CONFIG_SETS, QUALITIES, STAGES, methods
from .terminal import Terminal


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="what to make; examples: prompts/shapes.txt")
    parser.add_argument("--config-set", default="shapes", choices=list(CONFIG_SETS), help="teacher and sizes")
    parser.add_argument("--method", choices=methods(), help="overlay of configs/methods/ for NeRF and texture")
    parser.add_argument("--quality", default="normal", choices=list(QUALITIES))
    parser.add_argument("--stages", default=",".join(s.name for s in STAGES), help="comma-separated, in order")
    parser.add_argument("--out", default="outputs", help="folder that receives one folder per run")
    parser.add_argument("--name", help="folder name instead of the one made from the settings")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # a run that is made already: see Run.spawn
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", default="auto", help="GPU indices as 0 or 0,1; cpu")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="passed on to every stage")
    args = parser.parse_intermixed_args(argv)
    args.stages = tuple(name.strip() for name in args.stages.split(",") if name.strip())
    if args.folder is None:
        try:
            args.settings = Settings(
                prompt=args.prompt or "", seed=args.seed, method=args.method, config_set=args.config_set,
                quality=args.quality, overrides=tuple(args.overrides), stages=args.stages, device=args.gpu,
            )  # fmt: skip
        except ValueError as error:
            parser.error(str(error))
    return args


def main(argv: list[str] | None = None) -> int:
    """0; 1 after a stop; 2 after one line about what the user can mend."""
    args = parse_arguments(argv)
    try:
        run = Run.open(args.folder) if args.folder else Run.create(args.settings, args.out, args.name)
    except ValueError as error:
        print(f"text-to-3d: {error}", file=sys.stderr)
        return 2
    if run.settings.device not in ("auto", "cpu") and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = run.settings.device  # torch reads it once
    print(f"text-to-3d: {run.settings.prompt!r} -> {run.folder}")
    terminal = Terminal(run.settings.prompt, sys.stderr)
    try:
        results = run.start(terminal)
    except Stopped as stop:
        terminal.close()
        terminal.say(f"stopped ({stop}); run again to continue")
        return 1
    except (StageError, ValueError) as error:
        terminal.close()
        terminal.say(f"{error}")
        return 2
    print("text-to-3d: results")
    for path in results.values():
        print(f"  {path}")
    return 0
