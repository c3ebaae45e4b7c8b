"""The queue: a folder of small files, and processes that outlive whoever started them.

    outputs/.studio/lock                  one studio per outputs folder
    outputs/.studio/queue/<number>.json   {"run": name, "work": "train" | "score", "slot": …, "pid": …, "born": …}

A file appears when a job is asked for, names its process once it was started, and goes when that has ended. A server
that is killed leaves files and processes; the next one finds both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from .. import ROOT
from ..pipeline.folder import LOG, write_json
from ..pipeline.run import Run
from .library import Library, RunItem

#: Seconds between two looks at the queue.
PACE = 0.5
#: How far behind the server a job stands, as the system counts niceness; alone on the machine it is as fast as before.
BEHIND = 5


@dataclass
class Job:
    """One entry of the queue. born: when its process began, which tells it from a later one of the same number."""

    run: str
    work: str = "train"
    slot: int | None = None
    pid: int | None = None
    born: float | None = None

    @property
    def process(self) -> psutil.Process | None:
        """Where it is alive."""
        if self.pid is None:
            return None
        try:
            process = psutil.Process(self.pid)
            alive = abs(process.create_time() - self.born) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return process if alive else None


@dataclass(frozen=True)
class Slot:
    """A place for one job. environment: what its process is given on top."""

    name: str
    environment: dict[str, str]


def slots(jobs: int | None = None, gpus: list[str] | None = None, cores: int | None = None) -> list[Slot]:
    """One per GPU, or one per core where there is no GPU; `jobs` of them if given.

    Raises:
        ValueError: fewer than one job.
    """
    if gpus is None:
        from ..comparison.engines import visible_gpus

        gpus = visible_gpus()
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = jobs if jobs is not None else len(gpus) or cores
    if count < 1:
        raise ValueError(f"--jobs {count} must be at least 1")
    # as many threads as fit, the same for every job: results depend on their number in the last digits
    threads = str(max(1, cores // count))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if not gpus:
        return [Slot(f"core {index + 1}", environment) for index in range(count)]
    return [
        Slot(f"GPU {gpus[index % len(gpus)]}", {**environment, "CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]})
        for index in range(count)
    ]


def start_process(run: Run, work: str, environment: dict[str, str]) -> subprocess.Popen:
    """The work of a job in a process of its own, which outlives this one."""
    if work == "train":
        return run.spawn(environment)
    with (run.folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "uni_instruct_3d.studio.score_job", str(run.folder)], cwd=ROOT,
            env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def step_back(process: psutil.Process) -> None:
    """A job takes what the page and the browser leave: with all cores at work a reload took more than 20 s."""
    if os.name == "nt":
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        process.nice(min(19, psutil.Process().nice() + BEHIND))


class Queue:
    """Jobs of one library, `slots` at a time, in the order in which they were asked for."""

    def __init__(self, library: Library, slots: list[Slot], start: Callable[..., subprocess.Popen] | None = None):
        self.library, self.slots, self._start = library, slots, start or start_process
        self.folder = library.out / ".studio" / "queue"
        self._alone, self._children = threading.RLock(), {}

    # ------------------------------------------------------------------------------------------------ asking
    def add(self, name: str, work: str = "train") -> None:
        """At the end of the queue, unless it is in there.

        Raises:
            ValueError: no run of that name. OSError: the disk is full.
        """
        if not isinstance(self.library.find(name), RunItem):
            raise ValueError(f"{name} is a trial of launch.py, which the studio can show but not go on with")
        with self._alone:
            if not any(job.run == name and job.work == work for _, job in self._entries()):
                self._write(self.folder / f"{time.time_ns():020d}.json", Job(name, work))

    def stop(self, name: str) -> None:
        """Take it out of the queue, or ask its process to write a checkpoint and leave.

        Raises:
            ValueError: no run of that name.
        """
        with self._alone:
            for path, job in self._entries():
                if job.run == name:
                    process = job.process
                    run = Run.open(self.library.find(name).folder)
                    if process is not None and (job.work == "score" or run.progress.state != "running"):
                        process.terminate()  # still importing: nothing is lost
                    elif process is not None:
                        run.stop()
                        return
                    path.unlink(missing_ok=True)
                    return
            item = self.library.find(name)
            if isinstance(item, RunItem) and item.progress.state == "running":
                item.run.stop()  # started on a command line

    def delete(self, name: str) -> None:
        """The run's folder, for good. Raises ValueError while somebody works on it."""
        item = self.library.find(name)
        if not isinstance(item, RunItem):
            raise ValueError(f"{name} is a trial of launch.py; delete its folder by hand")
        with self._alone:
            for path, job in self._entries():
                if job.run == name and job.process is not None:
                    raise ValueError(f"{name} is being worked on; stop it first")
                if job.run == name:
                    path.unlink(missing_ok=True)
            item.run.delete()
            self.library.forget()

    def state(self, item: RunItem) -> str:
        """``queued``, ``starting``, ``scoring``, or the pipeline's own word for it."""
        state = item.progress.state
        for job in self.jobs():
            if job.run == item.name:
                if job.work == "score":
                    return state if job.pid is None else "scoring"
                return "queued" if job.pid is None else state if state == "running" else "starting"
        return state

    def jobs(self) -> list[Job]:
        """In their order."""
        return [job for _, job in self._entries()]

    # ------------------------------------------------------------------------------------------------ working
    def run_forever(self, stop: threading.Event) -> None:
        """Look after the queue until `stop` is set."""
        while not stop.wait(PACE):
            try:
                self.step()
            except OSError as error:  # a full disk: what waits goes on waiting
                print(f"studio: the queue waits: {error}", file=sys.stderr)
                stop.wait(10 * PACE)

    def step(self) -> None:
        """Take out what has ended, start what there is room for."""
        with self._alone:
            for path, job in self._entries():
                if job.pid is not None and job.process is None:
                    self._ended(path, job)
            entries = self._entries()
            taken = {job.slot for _, job in entries if job.pid is not None}
            busy = {job.run for _, job in entries if job.pid is not None}
            for path, job in entries:
                free = [index for index in range(len(self.slots)) if index not in taken]
                if not free:
                    return
                if job.pid is None and job.run not in busy:
                    self._begin(path, job, free[0])
                    taken.add(free[0])

    def _begin(self, path: Path, job: Job, slot: int) -> None:
        try:
            run = Run.open(self.library.find(job.run).folder)
        except ValueError:  # deleted meanwhile
            path.unlink(missing_ok=True)
            return
        if run.progress.state == "running":
            return  # somebody works on it, on a command line
        process = self._start(run, job.work, self.slots[slot].environment)
        try:
            started = psutil.Process(process.pid)
            step_back(started)
            job.slot, job.pid, job.born = slot, process.pid, started.create_time()
            self._write(path, job)
        except BaseException:  # a process that no file names would be started twice
            process.kill()
            process.wait()
            raise
        self._children[process.pid] = process

    def _ended(self, path: Path, job: Job) -> None:
        child = self._children.pop(job.pid, None)
        if child is not None:
            child.poll()  # a zombie otherwise
        path.unlink(missing_ok=True)
        try:
            item = self.library.find(job.run)
        except ValueError:
            return
        if job.work == "train" and item.progress.state == "done" and not item.scores:
            self.add(job.run, "score")

    def _entries(self) -> list[tuple[Path, Job]]:
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append((path, Job(**json.loads(path.read_text(encoding="utf-8")))))
            except FileNotFoundError:
                continue
            except (ValueError, TypeError):  # not one of ours
                path.unlink(missing_ok=True)
        return found

    def _write(self, path: Path, job: Job) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(job))
