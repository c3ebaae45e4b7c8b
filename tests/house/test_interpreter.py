"""`python scripts/NAME.py` with nothing activated: the project's own interpreter answers, or one line says how."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [ROOT / "launch.py", *(path for path in sorted((ROOT / "scripts").glob("*.py")) if path.name[0] != "_")]


@pytest.fixture
def command(tmp_path):
    """A project of one script, run by an interpreter that lacks it; returns what came of it."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "_interpreter.py", tmp_path / "scripts")
    (tmp_path / "scripts" / "command.py").write_text("import _interpreter\nprint('the wrong interpreter')\n")

    def run() -> subprocess.CompletedProcess:
        words = [sys.executable, "-E", "-s", str(tmp_path / "scripts" / "command.py"), "two words", "a=b"]
        return subprocess.run(words, cwd="/", capture_output=True, text=True, check=False)

    return run


def test_the_command_is_started_again_by_the_projects_interpreter(command, tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "project: $#"; for word; do echo "$word"; done; exit 7\n')
    python.chmod(0o755)
    done = command()
    assert done.returncode == 7 and done.stdout.startswith("project: 5")
    assert done.stdout.splitlines()[-2:] == ["two words", "a=b"]


def test_without_one_a_line_says_how_to_make_it(command, tmp_path):
    done = command()
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path}/.venv is not set up; run: bash {tmp_path}/scripts/setup.sh\n"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_nothing_but_the_standard_library_is_imported_before(path):
    """Else a ModuleNotFoundError comes first."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        if any(name in ("_environment", "scripts") for name in names):
            return
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names), f"{path.name} imports {names}"
    raise AssertionError(f"{path.name} does not look for its interpreter")
