"""Benchmarks, one subcommand each; every module of `uni_instruct_3d/benchmarks` is one (`_harness`: what they share).

    python scripts/benchmark.py core
    python scripts/benchmark.py core --help

A module gives `add_arguments(parser)` and `run(args) -> dict` of figures; its docstring is its help. Figures are
printed and, with `--out FILE`, written as JSON together with the machine they were measured on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from pathlib import Path

import _environment  # noqa: F401
import torch

from uni_instruct_3d import benchmarks
from uni_instruct_3d.command import require_file_place, run_command
from uni_instruct_3d.help import Help
from uni_instruct_guidance.core.files import atomically


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "device": device,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main(arguments: list[str] | None = None) -> dict:
    """Figures of one benchmark; its module is imported only when it is asked for."""
    modules = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    names = sorted(name for name in modules if not name.startswith("_"))
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("benchmark", choices=names)
    chosen, rest = parser.parse_args(given[:1]), given[1:]
    module = importlib.import_module(f"uni_instruct_3d.benchmarks.{chosen.benchmark}")

    options = argparse.ArgumentParser(
        prog=f"benchmark.py {chosen.benchmark}",
        description=module.__doc__,
        formatter_class=Help,
    )
    options.add_argument("--out", type=Path, help="JSON file for the figures")
    module.add_arguments(options)
    args = options.parse_intermixed_args(rest)
    require_file_place("--out", args.out)
    figures = {"benchmark": chosen.benchmark, **module.run(args), "machine": machine()}
    text = json.dumps(figures, indent=1)
    print(text)
    if args.out:
        atomically(args.out, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
    return figures


def command(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line about what the user can mend."""
    return run_command("error", lambda: main(arguments) and 0)


if __name__ == "__main__":
    sys.exit(command())
