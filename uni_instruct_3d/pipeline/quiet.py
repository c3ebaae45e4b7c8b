"""A quiet terminal: while a run works, everything that libraries say goes to its log."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

#: Libraries that made up their mind where to speak when they were imported.
LOUD = ("transformers", "diffusers", "pytorch_lightning", "lightning", "huggingface_hub", "trimesh", "numba")


class _Stream:
    """Stands in for one of the terminal's streams: writes to the log of the moment, else to the terminal.

    There are two of them for good, since handlers and bars that were made while a log was open outlive it.
    """

    terminal: TextIO
    log: TextIO | None = None

    def write(self, text: str) -> int:
        return (self.log or self.terminal).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log or self.terminal, name)


OUT, ERR = _Stream(), _Stream()


class logged:
    """What is printed inside goes to the end of a file; :meth:`outside` is for those who speak to the user."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> logged:
        if sys.stdout is OUT:
            raise RuntimeError("one log at a time in one process")
        self._file = self._log.open("a", encoding="utf-8", buffering=1)
        OUT.terminal, ERR.terminal = sys.stdout, sys.stderr
        OUT.log = ERR.log = self._file
        sys.stdout, sys.stderr = OUT, ERR
        _turn_handlers()
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = OUT.terminal, ERR.terminal
        OUT.log = ERR.log = None
        self._file.close()

    @staticmethod
    @contextlib.contextmanager
    def outside() -> Iterator[None]:
        """The streams as they were before."""
        if sys.stdout is not OUT:
            yield
            return
        sys.stdout, sys.stderr = OUT.terminal, ERR.terminal
        try:
            yield
        finally:
            sys.stdout, sys.stderr = OUT, ERR


def _turn_handlers() -> None:
    """Let the handlers of loud libraries write to what stands in for the terminal, for good."""
    for name in LOUD:
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) in (OUT.terminal, ERR.terminal, sys.__stdout__, sys.__stderr__):
                handler.setStream(ERR)
