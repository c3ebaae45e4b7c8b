"""A run's hold on its folder, and its way to stop: one run at a time, and a signal takes effect at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_rank

#: File in a run's folder that is locked while it trains. The system unlocks it when the process ends, however it ends.
LOCK = ".lock"


@contextlib.contextmanager
def only_run(folder: str | os.PathLike, key: str) -> Iterator[None]:
    """Hold the folder for this run; the first process of a run holds it for all of them.

    Args:
        key: setting that names another folder, for the message.

    Raises:
        UserError: another run is at work there.
    """
    if get_rank() > 0:
        yield
        return
    lock = FileLock(Path(folder) / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another run is at work in {folder}; wait for it, or choose another folder ({key})") from None
    except NotImplementedError:  # a file system that cannot lock
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # gone with its folder
            os.unlink(Path(folder) / LOCK)
        lock.release()


def remove_leftovers(*folders: str | os.PathLike) -> None:
    """Remove what killed runs left half-written; call it while holding the folder."""
    for folder in folders:
        for leftover in Path(folder).glob(".*.tmp*"):
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """SIGTERM raises SystemExit where the program is, as Ctrl-C raises KeyboardInterrupt.

    Lightning on its own waits for the end of the step, and the first step may hold minutes of sampling.
    """
    # Slurm announces by SIGTERM that a job will be queued again, which Lightning sees to
    if threading.current_thread() is not threading.main_thread() or "SLURM_JOB_ID" in os.environ:
        yield
        return

    def stop(signum: int, _frame: object) -> None:
        signal.signal(signum, signal.SIG_IGN)  # one is enough: the second must not cut the clearing up short
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
