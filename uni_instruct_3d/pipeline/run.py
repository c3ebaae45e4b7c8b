"""A run: one prompt's way to files, in one folder, that can be watched, stopped and gone on with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

from .. import ROOT
from . import folder as on_disk
from .edits import edit_job, source_of
from .events import (
    Done,
    Event,
    Listener,
    ListenerError,
    Note,
    Preview,
    StageDone,
    StageError,
    StageStart,
    Step,
    Stopped,
)
from .folder import Progress
from .settings import Settings
from .stages import EDITED, STAGES, Stage, config_files

#: Seconds between two writings of progress.json.
WRITE_EVERY = 0.5


class Run:
    """One prompt with its settings and its folder.

    ``start`` works here and now, ``spawn`` in a process of its own. Whoever knows the folder can look at
    ``progress``, ``preview`` and ``results`` and call ``stop``, from any thread, process or machine.
    """

    def __init__(self, folder: Path, settings: Settings, preview_every: int = 10) -> None:
        self.folder, self.settings, self.preview_every = Path(folder).resolve(), settings, preview_every
        #: What a person should know about the prompt; set by ``start``.
        self.notes: list[str] = []

    @classmethod
    def create(cls, settings: Settings, out: str | Path = "outputs", name: str | None = None) -> Run:
        """A run in its folder below `out`: a new one, or that of an earlier run of the same settings.

        Raises:
            ValueError: see :func:`folder.choose_folder`; or the folder cannot be made; or an edit of what is not there.
        """
        if settings.edit is not None:
            source_of(settings.edit, settings.keep)
        folder = on_disk.choose_folder(Path(out).expanduser().resolve(), settings, name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            on_disk.write_settings(folder, settings)
        except OSError as error:
            raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run that a folder holds. Raises ValueError where there is none."""
        return cls(Path(folder), on_disk.read_settings(Path(folder)))

    # ------------------------------------------------------------------------------------------------ looking
    @property
    def progress(self) -> Progress:
        """How far it is, whoever works on it."""
        return on_disk.read_progress(self.folder)

    @property
    def preview(self) -> Path | None:
        """The newest picture."""
        path = self.folder / "preview.png"
        return path if path.is_file() else None

    @property
    def results(self) -> dict[str, Path]:
        """Files at the top of the folder, by name; those that are there."""
        from .results import top_files

        return top_files(self.folder)

    @property
    def finished(self) -> bool:
        """Everything that its settings ask for is there."""
        from .finish import is_made

        return all(self.job(stage).done for stage in self.settings.stages) and is_made(self)

    @property
    def scored(self) -> bool:
        """``scores`` are there already."""
        from .scores import kept

        return kept(self) is not None

    def scores(self) -> dict[str, float]:
        """See :func:`scores.score_run`; made once."""
        from .scores import score_run

        return score_run(self)

    # ------------------------------------------------------------------------------------------------ working
    def start(self, listen: Listener | None = None) -> dict[str, Path]:
        """Do what is left to do, in this process; returns ``results``.

        Args:
            listen: is given every event; what it raises ends the run, which can be gone on with.

        Raises:
            ValueError: somebody else works in the folder.
            StageError: a stage did not come to its end; the message is one line.
            Stopped: ``stop`` was called.
        """
        from uni_instruct_guidance.core.errors import one_line

        from .quiet import logged

        with on_disk.held(self.folder):
            (self.folder / on_disk.STOP).unlink(missing_ok=True)
            self._listen, self._progress = listen, on_disk.read_progress(self.folder)
            self._progress.state, self._progress.error, self._progress.notes = "running", "", []
            self.notes = []
            self._spent, self._started, self._written = self._progress.seconds, time.monotonic(), 0.0
            try:
                self._write()
                self._work()
                self._progress.state = "done"
            except ListenerError as error:
                self._progress.state = "stopped"
                raise error.__cause__ from None
            except Stopped:
                self._progress.state = "stopped"
                raise
            except StageError as error:
                self._progress.state, self._progress.error = "failed", str(error)
                raise
            except OSError as error:  # the disk is full, a place cannot be written
                self._progress.state, self._progress.error = "failed", one_line(error, self.folder)
                raise StageError(self._progress.error) from error
            except BaseException as error:
                known = isinstance(error, KeyboardInterrupt | SystemExit)
                self._progress.state = "stopped" if known else "failed"
                self._progress.error = "" if known else f"{type(error).__name__}: {error}"
                raise
            finally:
                (self.folder / on_disk.STOP).unlink(missing_ok=True)
                with suppress(OSError) if self._progress.state == "failed" else nullcontext():
                    self._write()
        with logged.outside():
            self._tell(Done(self.results))
        return self.results

    def spawn(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
        """``start`` in a process of its own, which outlives this one; it says nothing but to the folder's log.

        environment: variables on top of this process's own, such as CUDA_VISIBLE_DEVICES.
        """
        log = (self.folder / on_disk.LOG).open("ab")
        command = [sys.executable, str(ROOT / "scripts" / "text_to_3d.py"), "--folder", str(self.folder)]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip

    def stop(self) -> None:
        """Ask whoever works on it to write a checkpoint and leave; takes until the present step is done."""
        (self.folder / on_disk.STOP).touch()

    def delete(self) -> None:
        """The folder and everything in it. Raises ValueError while somebody works on it."""
        with on_disk.held(self.folder):
            pass
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------------------------------------------ inside
    def _work(self) -> None:
        from .finish import finish
        from .stage_runner import run_stage

        chosen = [stage for stage in STAGES if stage.name in self.settings.stages]
        host = self.settings.host if self.settings.processes or self.settings.host != "builtin" else None
        self._look_first(chosen)
        for stage in chosen:
            job = self.job(stage.name)
            if not job.done:
                from .watch import Watch

                watch = Watch(stage.name, self._tell, self._asked_to_stop, str(job.checkpoint), self.preview_every)
                run_stage(job, [watch], host)
            self._tell(StageDone(stage.name, job.seconds))
            if self._asked_to_stop():
                raise Stopped(f"after {stage.name}")
        self._tell(StageStart("files", 0, 0))
        finish(self, self._tell)

    def _look_first(self, chosen: list[Stage]) -> None:
        """What can be found before anything runs: unknown words, a stage that is missing, settings of any stage."""
        from .stage_runner import check_stage
        from .words import note

        text = note(self.settings)
        if text:
            self.notes.append(text)
            self._tell(Note(text))
        names = [stage.name for stage in chosen]
        for stage in chosen:
            if not self.job(stage.name).done:
                after = self.job(stage.name).stage.after
                if after and after not in names and not self.job(after).done:
                    raise StageError(f"{stage.name} needs {after} first; add it to the stages")
                if self.settings.host == "builtin":
                    check_stage(self.job(stage.name))

    def job(self, stage: str):
        """The stage as the runner takes it."""
        from .stage_runner import StageJob

        row, settings = next(row for row in STAGES if row.name == stage), self.settings
        if settings.edit is not None and stage == EDITED[settings.keep][0]:
            return edit_job(row, self.folder, settings)
        return StageJob(
            stage=row, folder=self.folder,
            configs=tuple(config_files(row, settings.config_set, settings.method, settings.quality)),
            prompt=settings.prompt, seed=settings.seed, log=self.folder / on_disk.LOG, overrides=settings.overrides,
            device=settings.device,
        )  # fmt: skip

    def _asked_to_stop(self) -> bool:
        return (self.folder / on_disk.STOP).exists()

    def _tell(self, event: Event) -> None:
        from .quiet import logged

        progress = self._progress
        if isinstance(event, StageStart):
            progress.stage, progress.step, progress.steps = event.stage, event.step, event.steps
            progress.seconds_left, progress.losses = None, {}
        elif isinstance(event, Step):
            progress.step, progress.losses, progress.seconds_left = event.step, event.losses, event.seconds_left
        elif isinstance(event, Preview):
            self._save_preview(event)
        elif isinstance(event, Note):
            progress.notes.append(event.text)
        if not isinstance(event, Step) or time.monotonic() - self._written > WRITE_EVERY:
            self._write()
        if self._listen is not None:
            try:
                with logged.outside():
                    self._listen(event)
            except Exception as error:  # not to be taken for a mistake in the settings
                raise ListenerError from error

    def _save_preview(self, event: Preview) -> None:
        from threestudio.utils.files import atomic_path

        with atomic_path(self.folder / "preview.png") as temporary:
            event.picture.save(temporary)

    def _write(self) -> None:
        self._progress.seconds = self._spent + time.monotonic() - self._started
        on_disk.write_progress(self.folder, self._progress)
        self._written = time.monotonic()
