"""Train, validate, test or export from a configuration, with threestudio's command line.

    python launch.py --config configs/shapes-nerf.yaml --train system.prompt_processor.prompt="a red mug"

Picks the host: threestudio where it is installed or where this is run from a checkout of it, else the built-in one in
``portable/``. Then every folder of ``custom/`` is loaded as an extension. ``key=value`` arguments override the file.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from scripts import _interpreter  # noqa: F401  first: the project's environment, whatever python was called

ROOT = Path(__file__).resolve().parent
PORTABLE = ROOT / "portable"
HOSTS = ("auto", "builtin", "threestudio")


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the ``key=value`` overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", required=True, action="append", metavar="FILE",
        help="YAML file; configs/parsed.yaml of a trial to go on with it; repeated: later files override earlier ones",
    )  # fmt: skip
    gpu_help = "GPUs as 0 or 0,1 (CUDA_VISIBLE_DEVICES goes first), cpu; default 0"
    parser.add_argument("--gpu", type=gpus, default="0", help=gpu_help)
    parser.add_argument("--host", default="auto", choices=HOSTS, help="which threestudio answers; default auto")
    parser.add_argument("--verbose", action="store_true", help="log more, and show tracebacks")
    parser.add_argument("--typecheck", action="store_true", help="check array shapes at run time (threestudio only)")
    action = parser.add_mutually_exclusive_group(required=True)
    for name, text in (
        ("train", "train, then test"),
        ("validate", "render the validation views"),
        ("test", "render the turntable"),
        ("export", "write a mesh"),
    ):
        action.add_argument(f"--{name}", action="store_const", const=name, dest="action", help=text)
    args, overrides = parser.parse_known_args(argv)
    for override in overrides:
        if override.startswith("-") or "=" not in override:
            parser.error(f"unknown argument {override!r}; overrides are written key=value")
    return args, overrides


def found(config: str) -> str:
    """A configuration file of the working folder, else the project's own of that name."""
    own = ROOT / config
    return str(own) if not os.path.exists(config) and own.is_file() else config


def gpus(text: str) -> str:
    """Type of ``--gpu``: device numbers joined by commas, or ``cpu``."""
    if text != "cpu" and not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} must be GPU numbers as 0 or 0,1, or cpu")
    return text


def find_checkout() -> Path | None:
    """Folder of a real threestudio: what THREESTUDIO names, the working folder, one beside it, or what Python finds."""
    here = Path.cwd()
    named = os.environ.get("THREESTUDIO")
    for folder in [Path(named)] if named else [here, here / "threestudio", here.parent / "threestudio"]:
        if (folder / "threestudio" / "__init__.py").is_file() and folder.resolve() != PORTABLE:
            return folder.resolve()
    spec = importlib.util.find_spec("threestudio")
    if named or spec is None or spec.origin is None:
        return None
    checkout = Path(spec.origin).resolve().parents[1]
    return None if checkout == PORTABLE else checkout


def why_not_importable(checkout: Path) -> str | None:
    """What keeps threestudio from being imported, in a process of its own; None if nothing does."""
    command = [sys.executable, "-c", "import threestudio"]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["it crashed"])[-1]


def one_config(files: list[str]) -> str:
    """threestudio's own launcher takes one file: several are merged into a temporary one."""
    if len(files) == 1:
        return files[0]
    import tempfile

    from omegaconf import OmegaConf

    merged = Path(tempfile.mkdtemp(prefix="uni_instruct_")) / Path(files[0]).name
    OmegaConf.save(OmegaConf.merge(*map(OmegaConf.load, files)), merged)
    return str(merged)


def run_in_checkout(checkout: Path, args: argparse.Namespace, overrides: list[str]) -> int:
    """Hand over to threestudio's own launcher, with stand-ins for the CUDA builds that do not work here."""
    if not (checkout / "launch.py").is_file():
        print(f"error: threestudio at {checkout} has no launch.py; use --host builtin", file=sys.stderr)
        return 2
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1" if args.gpu == "cpu" else args.gpu)
    from uni_instruct_3d import upstream  # after CUDA_VISIBLE_DEVICES, which torch reads once

    flags = [f"--{name}" for name in ("verbose", "typecheck") if getattr(args, name)]
    gpu = "0" if args.gpu == "cpu" else args.gpu
    return upstream.run_in_checkout(checkout, one_config(args.config), args.action, gpu, flags, overrides)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line about what the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    args, overrides = arguments(argv)
    args.config = [found(path) for path in args.config]
    checkout = find_checkout() if args.host != "builtin" else None
    if args.host == "threestudio" and checkout is None:
        print(
            "error: --host threestudio, but there is none: run this in or beside a checkout of it, or say where it is "
            "with THREESTUDIO=/path",
            file=sys.stderr,
        )
        return 2
    if args.host == "threestudio":
        return run_in_checkout(checkout, args, overrides)
    if checkout is not None:
        reason = why_not_importable(checkout)
        if reason is None:
            return run_in_checkout(checkout, args, overrides)
        print(
            f"threestudio in {checkout} cannot be imported: {reason}; --host threestudio runs it with stand-ins for "
            "CUDA builds",
            file=sys.stderr,
        )
    if args.typecheck:
        print("error: --typecheck is threestudio's own; the built-in host checks shapes in its tests", file=sys.stderr)
        return 2
    if args.gpu != "cpu" and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu
    import uni_instruct_3d  # noqa: F401  opens the house: built-in host and extension
    from threestudio.runner import run  # after CUDA_VISIBLE_DEVICES, which torch reads once

    extension_folders = [ROOT / "custom", Path.cwd() / "custom"]
    return run(args.config, args.action, overrides, extension_folders, cpu=args.gpu == "cpu", verbose=args.verbose)


if __name__ == "__main__":
    raise SystemExit(main())
