"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import naming


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


def _usual_mode() -> int:
    """Of a new file; the mask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask
