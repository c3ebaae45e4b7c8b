"""One way to refuse a user's value: name the argument, the value and the choices."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

Row = TypeVar("Row")


class UserError(ValueError):
    """A wrong configuration, file or circumstance; the message names it and says what is possible, in one line."""


def choose(argument: str, value: Any, table: Mapping[str, Row]) -> Row:
    """Look `value` up in `table`; a ValueError names `argument`, `value` and every choice."""
    if isinstance(value, str) and value in table:
        return table[value]
    raise ValueError(f"{argument}={value!r} is not known; choose one of {', '.join(table)}")


def require_known(argument: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys outside `known`, naming the first one."""
    known = list(known)
    for key in keys:
        if key not in known:
            raise ValueError(f"{argument} has no option {key!r}; choose one of {', '.join(known)}")


def require_shape(argument: str, tensor: torch.Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{argument} must be a tensor of shape {list(shape)}, got {type(tensor).__name__}")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{argument} has shape {list(tensor.shape)}, expected {list(shape)}")


def one_line(error: BaseException, place: str | os.PathLike | None = None) -> str:
    """An error as one sentence; an operating system's begins with its file, or with `place` where it knows none."""
    if isinstance(error, OSError) and error.strerror:
        where = place if error.filename is None else error.filename
        return " ".join(f"{'' if where is None else f'{where}: '}{error.strerror}".split())
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """What fails to be written inside is an OSError that names `path`, whichever library wrote.

    A full disk shows late, when nobody remembers the file's name; safetensors (Rust) puts the number into a text.
    """
    try:
        yield
    except OSError as error:
        of_another_file = error.filename is not None and Path(error.filename).parent != Path(path).parent
        if error.errno is None or of_another_file:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def require_writable(argument: str, folder: str | os.PathLike) -> Path:
    """`folder`, made and tried out: hours of work must not end at a place that cannot be written.

    Raises:
        ValueError: with the argument, the folder and the reason.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        try:
            probe.write_bytes(b"0")
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{argument}={str(folder)!r} cannot be written: {reason}") from error
    return folder
