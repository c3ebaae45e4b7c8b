"""One command from a prompt to files: NeRF, mesh, texture, report. Resumable at any point.

    python scripts/text_to_3d.py "a red mug"
    python scripts/text_to_3d.py "a red mug" --method vsd --best-of 4
    python scripts/text_to_3d.py "a blue mug" --edit outputs/a-red-mug
    python scripts/text_to_3d.py --prompts-file prompts/compare.txt --seeds 0 1 --engine ray --jobs 8
    python scripts/text_to_3d.py "A thorny rose." --config-set sd21 system.guidance.guidance_scale=10

Everything of a run lies in one folder below --out, named after the prompt and what differs from the defaults. What is
finished is not made again, what was cut short goes on; other settings get a folder of their own. Several prompts or
seeds end in one page, gallery.html. Arguments of the form key=value go to every stage.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from .. import __version__
from ..help import Help
from .edits import source_of
from .events import StageError, Stopped
from .run import Run
from .settings import ALL_STAGES, FORMATS, HOSTS, UP, Files, Settings
from .stages import CONFIG_SETS, DEFAULT_SET, EDITED, QUALITIES, methods
from .terminal import Terminal


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="text_to_3d.py", description=__doc__, formatter_class=Help)
    parser.add_argument("prompt", nargs="?", help="what to make; --list-words names what the built-in teacher knows")
    what = parser.add_argument_group("what")
    what.add_argument("--prompts-file", type=Path, metavar="FILE", help="many prompts, one a line")
    what.add_argument("--seed", type=int, default=0, help="of everything random")
    what.add_argument("--seeds", nargs="+", metavar="N|N-M", help="several variations, as 0-3 or 0 4 7")
    what.add_argument("--best-of", type=int, metavar="N", help="N seeds from --seed on; the best by its CLIP score")
    what.add_argument(
        "--edit", type=Path, metavar="FOLDER", help="start from a finished run; its prompt is what differs"
    )
    what.add_argument("--keep", default="geometry", choices=list(EDITED), help="of it: the shape, with new colours on "
                      "its mesh; or nothing, from its NeRF")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--quality", default="normal", choices=list(QUALITIES), help="; ".join(
        f"{name}: {text}" for name, text in QUALITIES.items()))  # fmt: skip
    how.add_argument("--method", choices=methods(), help="overlay of configs/methods/ for NeRF and texture")
    how.add_argument("--config-set", choices=list(CONFIG_SETS), help=f"teacher and sizes; by default {DEFAULT_SET}, "
                     "for --edit those of the asset")  # fmt: skip
    how.add_argument("--stages", help=f"comma-separated, in order; else {','.join(ALL_STAGES)}")
    how.add_argument("--gpu", default="auto", help="GPU indices as 0 or 0,1; cpu")
    how.add_argument("--host", default="builtin", choices=HOSTS, help="which threestudio trains; the other one has a "
                     "process for every stage")  # fmt: skip
    how.add_argument("--processes", action="store_true", help="every stage in a process of its own")
    how.add_argument("--engine", default="local", choices=("local", "ray"), help="where several runs are worked on")
    how.add_argument("--jobs", type=int, metavar="N", help="runs at once; by default one per GPU, or one per core")
    files = parser.add_argument_group("files")
    files.add_argument("--out", default="outputs", help="folder that receives one folder per run")
    files.add_argument("--name", help="folder name instead of the one made from the settings")
    files.add_argument("--formats", default="glb,obj", help=f"of {', '.join(FORMATS)}; the page needs the .glb")
    files.add_argument("--up", default="y", choices=UP, help="axis of .obj files that points up; Blender expects y")
    files.add_argument("--texture-size", type=int, metavar="N", help="side in texels; else that of the configuration")
    files.add_argument("--faces", type=int, metavar="N", help="at most so many triangles; else as many as come")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # a run that is made already: see Run.spawn
    parser.add_argument("--list-words", action="store_true", help="what the built-in teacher knows, and leave")
    parser.add_argument("--version", action="version", version=f"uni-instruct-3d {__version__}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="passed on to every stage")
    return parser


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options; ``settings``: one per run that was asked for."""
    parser = make_parser()
    args = parser.parse_intermixed_args(argv)
    if args.prompt and "=" in args.prompt.split(" ")[0] and args.prompts_file:
        args.overrides, args.prompt = [args.prompt, *args.overrides], None
    if args.folder or args.list_words:
        return args
    try:
        prompts, seeds = _prompts(args), _seeds(args)
        if args.jobs is not None and args.jobs < 1:
            raise ValueError(f"--jobs {args.jobs} must be at least 1")
        if args.name and len(prompts) * len(seeds) > 1:
            raise ValueError(f"--name {args.name}: {len(prompts) * len(seeds)} runs cannot share one folder")
        if args.edit is None and args.keep != "geometry":
            raise ValueError(f"--keep {args.keep} belongs to --edit FOLDER")
        config_set = args.config_set or DEFAULT_SET
        if args.edit is not None:
            config_set = source_of(args.edit, args.keep).settings.config_set
            if args.config_set not in (None, config_set):
                raise ValueError(f"--config-set {args.config_set}: {args.edit} was made with {config_set}")
        stages = ALL_STAGES if args.stages is None else tuple(_listed(args.stages))
        files = Files(tuple(_listed(args.formats)), args.up, args.texture_size, args.faces)
        args.settings = [
            Settings(
                prompt=prompt, seed=seed, method=args.method, config_set=config_set, quality=args.quality,
                overrides=tuple(args.overrides), stages=stages, files=files, device=args.gpu,
                host=args.host, processes=args.processes, keep=args.keep,
                edit=None if args.edit is None else str(args.edit.expanduser().resolve()),
            )
            for prompt in prompts for seed in seeds
        ]  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
    return args


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _prompts(args: argparse.Namespace) -> list[str]:
    if args.prompts_file is None:
        return [args.prompt or ""]
    if args.prompt:
        raise ValueError(f"both a prompt ({args.prompt!r}) and --prompts-file {args.prompts_file}; give one of them")
    from uni_instruct_guidance.scoring.summary import read_prompts

    return read_prompts(args.prompts_file)[0]


def _seeds(args: argparse.Namespace) -> list[int]:
    """Of --seeds, --best-of or --seed. Raises ValueError for what is none."""
    if args.best_of is not None:
        if args.seeds or args.best_of < 2:
            raise ValueError("--best-of N needs N of at least 2, and no --seeds beside it")
        return list(range(args.seed, args.seed + args.best_of))
    if not args.seeds:
        return [args.seed]
    seeds: list[int] = []
    for part in (part for text in args.seeds for part in _listed(text)):
        first, dash, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)):
            raise ValueError(f"--seeds {part!r} must be a whole number or a range as 0-3")
        seeds += range(int(first), int(last or first) + 1)
        if len(seeds) > 10_000 or (dash and int(last) < int(first)):
            raise ValueError(f"--seeds {part!r} must be a range of at most 10000 seeds, the smaller first")
    return list(dict.fromkeys(seeds))


def main(argv: list[str] | None = None) -> int:
    """0; 1 after a stop or where some of many runs failed; 2 after one line about what the user can mend."""
    args = parse_arguments(argv)
    if args.list_words:
        from .words import vocabulary

        print(vocabulary())
        return 0
    try:
        if not args.folder and (len(args.settings) > 1 or args.prompts_file):
            from .many import run_many

            return run_many(args.settings, Path(args.out), args.engine, args.jobs)
        run = Run.open(args.folder) if args.folder else Run.create(args.settings[0], args.out, args.name)
        return _run_one(run)
    except ValueError as error:
        print(f"text-to-3d: {error}", file=sys.stderr)
        return 2


def _run_one(run: Run) -> int:
    if run.settings.device not in ("auto", "cpu") and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = run.settings.device  # torch reads it once
    terminal = Terminal(run.settings.prompt, sys.stderr)
    print(f"text-to-3d: {run.settings.prompt!r} -> {run.folder}", flush=True)
    try:
        with _stops_on_signals(run, terminal):
            results = run.start(terminal)
    except (Stopped, KeyboardInterrupt) as stop:
        terminal.close()
        terminal.say(f"stopped{f' ({stop})' if str(stop) else ''}; run again to continue")
        return 1
    except StageError as error:
        terminal.close()
        terminal.say(str(error))
        return 2
    print("text-to-3d: results")
    for path in results.values():
        print(f"  {path}")
    return 0


class _stops_on_signals:
    """The first Ctrl-C or SIGTERM stops the run after the present step, the second leaves at once."""

    def __init__(self, run: Run, terminal: Terminal) -> None:
        self.run, self.terminal, self.asked = run, terminal, False

    def __enter__(self) -> None:
        try:
            self.before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are somebody else's
            self.before = {}

    def _hear(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.run.stop()
        self.terminal.say("stopping after this step; once more to leave at once")

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
