"""Run threestudio's own launcher in an unmodified checkout, with stand-ins for what this machine lacks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from pathlib import Path

from .. import ROOT

EXTENSION = "uni_instruct_guidance"
#: overrides whose value is a file of the folder the command was given in.
FILE_KEYS = ("resume", "system.geometry_convert_from", "system.weights")


def close_builtin_host() -> None:
    """Of ``portable/`` only the torch twins stay importable: ``threestudio`` is the checkout's."""
    for folder in (ROOT / "portable", ROOT / "custom"):
        while str(folder) in sys.path:
            sys.path.remove(str(folder))
    if "backends" not in sys.modules:
        folder = ROOT / "portable" / "backends"
        spec = importlib.util.spec_from_file_location(
            "backends", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["backends"] = module
        spec.loader.exec_module(module)


def prepare(checkout: Path) -> str:
    """Make ``import threestudio`` give the checkout's, whatever CUDA builds are missing. Returns who answers.

    Raises:
        ValueError: pip packages are missing (all are named).
    """
    from .packages import missing_packages, optional_packages_excused

    close_builtin_host()
    missing = missing_packages()
    if missing:
        raise ValueError(f"threestudio needs packages that are not installed: pip install {' '.join(missing)}")
    sys.path.insert(0, str(checkout))
    from backends import libraries

    from . import repairs

    replaced = libraries.install()
    repairs.install()
    with optional_packages_excused() as absent:
        importlib.import_module("threestudio")
    said = [f"{name}: {'torch stand-in (' + replaced[name] + ')' if name in replaced else 'the library'}"
            for name in libraries.LIBRARIES]  # fmt: skip
    if absent:
        said.append(f"not installed and only named: {', '.join(absent)}")
    return "; ".join([f"device: {repairs.device()}", *said])


def load_extension(checkout: Path) -> None:
    """Register our names, unless the checkout's own launcher will: it loads what is linked into its ``custom/``."""
    if (checkout / "custom" / EXTENSION).exists():
        return
    folder = ROOT / "custom" / EXTENSION
    spec = importlib.util.spec_from_file_location(
        EXTENSION, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[EXTENSION] = module
    spec.loader.exec_module(module)


def from_here(overrides: list[str], start: Path) -> list[str]:
    """Overrides that mean the same in another working folder: files become absolute, and results land here."""
    moved = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in FILE_KEYS and (start / value).exists():
            override = f"{key}={(start / value).resolve()}"
        moved.append(override)
    if not any(override.startswith("exp_root_dir=") for override in overrides):
        moved.append(f"exp_root_dir={start / 'outputs'}")
    return moved


def run_in_checkout(checkout: Path, config: str, action: str, gpu: str, flags: list[str], overrides: list[str]) -> int:
    """Hand over to threestudio's launcher, which has the same command line.

    Args:
        checkout: unmodified checkout of threestudio; nothing in it is changed.
        config: YAML file. action: train | validate | test | export. gpu: as ``--gpu``.
        flags: further options of its launcher. overrides: ``key=value``.

    Returns:
        exit status: 0, or 2 after one line about what the user can mend.
    """
    start, config = Path.cwd(), str(Path(config).resolve())
    if start != checkout:
        overrides = from_here(overrides, start)
        os.chdir(checkout)  # its grids and prompts are found by relative names
    try:
        print(f"host: threestudio in {checkout}; {prepare(checkout)}", file=sys.stderr)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    load_extension(checkout)
    sys.argv = ["launch.py", "--config", config, f"--{action}", "--gpu", gpu, *flags, *overrides]
    runpy.run_path(str(checkout / "launch.py"), run_name="__main__")
    return 0
