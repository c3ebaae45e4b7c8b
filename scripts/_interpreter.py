"""Importing this makes sure that the project's own environment runs the command, whatever ``python`` was called.

``python scripts/score.py`` works with nothing activated: where this interpreter does not have the project installed,
the command is started again by ``.venv/bin/python``. Without a ``.venv`` one line says how to make it.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"


def has_the_project() -> bool:
    """Whether this interpreter has this checkout of the project and the largest of its libraries."""
    spec = importlib.util.find_spec("uni_instruct_3d")
    here = spec is not None and spec.origin is not None and Path(spec.origin).resolve().parents[1] == ROOT
    return here and importlib.util.find_spec("torch") is not None


def switch() -> None:
    """Start the command again with the project's interpreter, unless this one will do."""
    if has_the_project():
        return
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if Path(sys.prefix).resolve() == VENV.resolve() or not python.is_file():
        print(f"error: {VENV} is not set up; run: bash {ROOT / 'scripts' / 'setup.sh'}", file=sys.stderr)
        raise SystemExit(2)
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.orig_argv[1:]])


switch()
