"""One stage of one run: trained in this process by the built-in host, or by launch.py in a process of its own.

The one place where a stage is run, for the pipeline and for comparisons.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import ROOT
from .events import StageError
from .quiet import logged
from .stages import Stage, quoted

DONE = "done"


@dataclass(frozen=True)
class StageJob:
    """A stage to be trained into ``folder/<stage>``.

    configs: YAML files, later ones over earlier ones. overrides: ``key=value`` on top.
    device: ``auto``, ``cpu`` or GPU indices. log: takes everything that is said meanwhile.
    """

    stage: Stage
    folder: Path
    configs: tuple[Path, ...]
    prompt: str
    seed: int
    log: Path
    overrides: tuple[str, ...] = ()
    device: str = "auto"

    @property
    def trial(self) -> Path:
        """Trial folder."""
        return self.folder / self.stage.name

    @property
    def checkpoint(self) -> Path:
        """The newest one; absent before the first."""
        return self.trial / "ckpts" / "last.ckpt"

    @property
    def done(self) -> bool:
        """Finished, by an earlier run or by this one."""
        return (self.trial / DONE).is_file()

    @property
    def seconds(self) -> float:
        """Of training so far, all its runs together."""
        path = self.trial / (DONE if self.done else "spent")
        return float(path.read_text().split()[0]) if path.is_file() else 0.0

    def arguments(self) -> list[str]:
        """``key=value`` strings for the launcher: fresh, or going on from the last checkpoint."""
        given = [
            f"exp_root_dir={self.folder.parent}", f"name={self.folder.name}", f"tag={self.stage.name}",
            "use_timestamp=false", f"seed={self.seed}", f"system.prompt_processor.prompt={quoted(self.prompt)}",
        ]  # fmt: skip
        if self.stage.after:
            given.append(f"{self.stage.starts_from}={self.folder / self.stage.after / 'ckpts' / 'last.ckpt'}")
        if self.checkpoint.is_file():
            given.append(f"resume={self.checkpoint}")
        return [*given, *self.overrides]


def run_stage(
    job: StageJob,
    callbacks: Iterable = (),
    host: str | None = None,
    before_done: Callable[[], None] = lambda: None,
) -> float:
    """Train the stage, or take it as it is where it is finished; one that was cut short goes on. Returns its seconds.

    Args:
        callbacks: Lightning callbacks beside those of every run; in this process only.
        host: None: in this process. ``builtin``, ``threestudio``: in a process of its own, by that host.
        before_done: called when it has come to its end, before it counts as finished.

    Raises:
        StageError: it stopped before its end.
        Stopped: a callback stopped it.
    """
    if job.done:
        return job.seconds
    job.log.parent.mkdir(parents=True, exist_ok=True)
    before, start = job.seconds, time.monotonic()
    try:
        if host is None:
            with logged(job.log):
                _in_process(job, callbacks)
        else:
            _launch(job, "train", job.configs, job.arguments(), host)
        if not job.checkpoint.is_file():
            raise StageError(f"{job.stage.name} ended without a word and without a checkpoint; see {job.log}")
    finally:
        seconds = before + time.monotonic() - start
        if job.trial.is_dir():
            _write(job.trial / "spent", f"{seconds:.1f}\n")
    before_done()
    _write(job.trial / DONE, f"{seconds:.1f} s\n")
    return seconds


def check_stage(job: StageJob) -> None:
    """Refuse settings that the stage would not take, before anything runs. Raises StageError."""
    from threestudio.runner import check
    from threestudio.utils.errors import UserError

    try:
        with logged(job.log):
            check([*map(str, job.configs)], job.arguments(), [ROOT / "custom"])
    except UserError as error:
        raise StageError(f"{job.stage.name}: {error}") from error


def export(job: StageJob, host: str) -> None:
    """Let another host write the mesh of a finished stage, as its exporter is configured. Raises StageError."""
    _launch(job, "export", [job.trial / "configs" / "parsed.yaml"], [f"resume={job.checkpoint}"], host)


def _in_process(job: StageJob, callbacks: Iterable) -> None:
    from threestudio.runner import carry_out
    from threestudio.utils.errors import UserError

    files, folders, cpu = [*map(str, job.configs)], [ROOT / "custom"], job.device == "cpu"
    try:
        # whoever runs stages in a row renders the last one alone, larger
        carry_out(files, "train", job.arguments(), folders, cpu=cpu, callbacks=callbacks, turntable=False)
    except UserError as error:
        raise StageError(f"{job.stage.name}: {error}") from error


def _launch(job: StageJob, action: str, configs: Iterable[Path], arguments: list[str], host: str) -> None:
    gpu = "0" if job.device == "auto" else job.device
    command = [sys.executable, str(ROOT / "launch.py"), f"--{action}", "--gpu", gpu, "--host", host]
    for path in configs:
        command += ["--config", str(path)]
    with job.log.open("a", encoding="utf-8") as file:
        status = subprocess.call([*command, *arguments], stdout=file, stderr=subprocess.STDOUT)
    if status:
        raise StageError(f"{job.stage.name}: {last_line(job.log)}")


def last_line(log: Path) -> str:
    """The last thing a log says, without the progress bars that overwrite themselves."""
    lines = [line.split("\r")[-1].strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing").removeprefix("error: ")


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text)
    os.replace(scratch, path)
