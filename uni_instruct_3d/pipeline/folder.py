"""A run's folder: its settings, how far it is, its lock, and which folder settings belong to.

    outputs/a-red-mug/
      model.glb, model.obj …, preview.png, turntable.mp4, report.html     results
      run.json  progress.json  log.txt                                     settings, state, everything that was said
      nerf/ geometry/ texture/                                             trial folders
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .settings import Settings
from .stages import DEFAULT_SET, slug

RUN, PROGRESS, LOG, LOCK, STOP = "run.json", "progress.json", "log.txt", ".lock", "stop"
STATES = ("waiting", "running", "stopped", "failed", "done")


@dataclass
class Progress:
    """How far a run is. state: of :data:`STATES`; one that was killed is ``stopped``.

    step, steps: of the stage. losses: the last that were read. seconds: spent so far, all its runs together.
    seconds_left: of the stage, None where unknown. error: why it failed. notes: what a person should read.
    updated: seconds since 1970.
    """

    state: str = "waiting"
    stage: str = ""
    step: int = 0
    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_left: float | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)
    updated: float = 0.0


def default_name(settings: Settings) -> str:
    """Folder name: the prompt, then what differs from the defaults; overrides as a digest."""
    parts = [slug(settings.prompt)]
    if settings.config_set != DEFAULT_SET:
        parts.append(settings.config_set)
    if settings.method:
        parts.append(settings.method.replace("_", "-"))
    if settings.quality != "normal":
        parts.append(settings.quality)
    if settings.edit is not None:
        parts.append(f"from-{slug(Path(settings.edit).name)}")
        if settings.keep != "geometry":
            parts.append(f"keep-{settings.keep}")
    if settings.overrides:
        parts.append(hashlib.sha256("\0".join(sorted(settings.overrides)).encode()).hexdigest()[:6])
    if settings.seed:
        parts.append(f"seed{settings.seed}")
    return "-".join(parts)


def choose_folder(out: Path, settings: Settings, name: str | None = None) -> Path:
    """The folder of these settings: theirs from an earlier run, or a new one.

    Raises:
        ValueError: `name` is given, and its folder holds a run of other settings (the differences are named) or
            something else; or it is no folder name.
    """
    if name is not None:
        if not name.strip(". ") or Path(name).name != name or "\\" in name:
            raise ValueError(f"name {name!r} must be the name of one folder")
        _refuse_other(out / name, settings)
        return out / name
    base = default_name(settings)
    for number in range(1, 1000):
        folder = out / (base if number == 1 else f"{base}-{number}")
        if not folder.exists() or not any(folder.iterdir()) or _holds(folder, settings):
            return folder
    raise ValueError(f"{out}: a thousand folders are called {base}-…; delete some or give --name")


def _holds(folder: Path, settings: Settings) -> bool:
    try:
        return not settings.differences(read_settings(folder))
    except ValueError:
        return False


def _refuse_other(folder: Path, settings: Settings) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    differences = settings.differences(read_settings(folder))
    if differences:
        raise ValueError(
            f"{folder} holds a run of other settings ({'; '.join(differences)}); choose another --name, or delete it"
        )


def read_settings(folder: Path) -> Settings:
    """Settings of the run in a folder. Raises ValueError where there is none that can be read."""
    path = folder / RUN
    try:
        return Settings.from_json(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no run of this pipeline: it has no {RUN}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def write_settings(folder: Path, settings: Settings) -> None:
    """Whole or not at all."""
    write_json(folder / RUN, {"settings": settings.as_json()})


def read_progress(folder: Path) -> Progress:
    """How far the run in a folder is; a run that says it goes on, and that nobody holds, was killed."""
    try:
        content = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        progress = Progress(**{key: content[key] for key in asdict(Progress()) if key in content})
    except (OSError, ValueError, TypeError):
        return Progress()
    if progress.state == "running" and not is_held(folder):
        progress.state = "stopped"
    return progress


def write_progress(folder: Path, progress: Progress) -> None:
    """Whole or not at all. On a full disk the last one makes room: a run must be able to say why it failed."""
    progress.updated = time.time()
    try:
        write_json(folder / PROGRESS, asdict(progress))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        (folder / PROGRESS).unlink(missing_ok=True)
        write_json(folder / PROGRESS, asdict(progress))


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Whether some process works on it."""
    if not (folder / LOCK).is_file():
        return False
    lock = FileLock(folder / LOCK, is_singleton=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def held(folder: Path):
    """Work on a folder alone. Raises ValueError where another run does."""
    lock = FileLock(folder / LOCK, is_singleton=False, thread_local=False)
    try:
        lock.acquire(timeout=1.0)  # whoever only looks holds it for an instant
    except Timeout:
        raise ValueError(f"another run works in {folder}; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()
