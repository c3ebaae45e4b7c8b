"""Files that are there whole or not at all, lists in text files, and files of the project under their short names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError, naming

#: The project's folder, also where the extension is linked into a checkout of threestudio.
PROJECT = Path(__file__).resolve().parents[3]


def found(name: str | Path) -> Path:
    """A file or folder of the working folder, else of the project: `load/teachers/shapes` holds in any folder."""
    path = Path(name).expanduser()
    return PROJECT / path if not path.exists() and (PROJECT / path).exists() else path


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(partial)` into a neighbour file, flushed to the disk, then one rename; a failure leaves what was there.

    Raises:
        OSError: full disk, no permission; it names `path`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            os.chmod(partial, _usual_mode())  # safetensors keeps its files to their owner
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def folder_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(partial)` fills a neighbour folder, which then takes the place of what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        write(partial)
        if path.exists():
            os.replace(path, old)  # a folder that is not empty cannot be replaced in one step
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def listed_lines(path: str | Path, what: str) -> tuple[list[str], int]:
    """Entries of a text file, one a line, and how many blank lines were passed over; lines with # first are comments.

    Raises:
        UserError: missing, not text, or nothing but blank lines and comments; `what` names the list.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path}: cannot be read: {error}") from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise UserError(f"{what} {path}: no prompts, only {len(lines)} blank lines and comments")
    return entries, sum(not line for line in lines)


def _usual_mode() -> int:
    """Of a new file; the mask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask
