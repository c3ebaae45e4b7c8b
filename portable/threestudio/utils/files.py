"""Files that are either complete or absent, and file names that any file system takes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Longest file name made from a prompt, in bytes. File systems stop at 255; the rest is for a timestamp and a suffix.
MAX_NAME_BYTES = 160


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Path to write to; it replaces ``path`` when the block ends, and vanishes when the block fails.

    The temporary file lies beside the target (same file system) and keeps its suffix, which image and video writers
    choose the format by. Parent folders are made.

    Raises:
        OSError: full disk, no permission; it names ``path``, which a write that fails late does not by itself.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:100]}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        of_another_file = error.filename is not None and Path(error.filename) != temporary
        if error.errno is None or of_another_file:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def safe_name(text: str) -> str:
    """One folder name from any text: slashes, control characters and the ``$`` of ``${`` become ``_``, long texts end
    in a digest.

    Unlike the reference, which makes nested folders of a prompt with slashes and fails on a long one.
    """
    name = re.sub(r"\\*\$\{", "_{", text)  # in a path it would be a reference of the configuration
    name = re.sub(r"[/\\\x00-\x1f\x7f]", "_", name)
    if not name.strip("."):
        name = name.replace(".", "_")  # "." and ".." are folders already
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    head = name.encode()[: MAX_NAME_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{head}-{digest}"
