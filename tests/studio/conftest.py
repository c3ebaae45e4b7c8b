"""Runs in all states, made without training anything."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from uni_instruct_3d.pipeline.folder import Progress, write_progress
from uni_instruct_3d.pipeline.run import Run
from uni_instruct_3d.pipeline.settings import Settings
from uni_instruct_3d.studio.jobs import Queue, Slot
from uni_instruct_3d.studio.library import Library


@pytest.fixture
def library(tmp_path) -> Library:
    """An empty outputs folder, beside a file that nobody may see."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outputs").mkdir()
    return Library(tmp_path / "outputs")


@pytest.fixture
def make_run(library):
    """make_run("a red mug", state="done", seed=1) -> Run; a finished one has mesh files, a picture, a log."""

    def make(prompt: str, state: str = "waiting", **settings) -> Run:
        run = Run.create(Settings(prompt=prompt, **settings), library.out)
        if state != "waiting":
            write_progress(run.folder, Progress(state=state, stage="files" if state == "done" else "nerf", seconds=83))
        if state == "done":
            ball = trimesh.creation.icosphere(subdivisions=1, radius=0.5)
            ball.visual.vertex_colors = np.tile(np.uint8([200, 20, 20, 255]), (len(ball.vertices), 1))
            ball.export(run.folder / "model.glb")
            (run.folder / "model.obj").write_text("mtllib model.mtl\n")
            (run.folder / "model.mtl").write_text("newmtl a\nmap_Kd texture_kd.png\n")
            Image.new("RGB", (8, 8)).save(run.folder / "texture_kd.png")
            Image.new("RGB", (64, 16), "red").save(run.folder / "preview.png")
            (run.folder / "log.txt").write_text("said\n")
            (run.folder / "nerf").mkdir()
            (run.folder / "nerf" / "last.ckpt").write_text("weights")
        return run

    return make


class Work:
    """Stands for the work of jobs: processes that wait. started: (run, work, environment) of each, in order."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, dict]] = []
        self.processes: list[subprocess.Popen] = []

    def __call__(self, run: Run, work: str, environment: dict) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], start_new_session=True)
        self.started.append((run.folder.name, work, environment))
        self.processes.append(process)
        return process

    def end(self, index: int, folder: Path | None = None, state: str = "done") -> None:
        """The process ends; the run in `folder` has come to `state`."""
        if folder is not None:
            write_progress(folder, Progress(state=state))
        self.processes[index].kill()
        deadline = time.monotonic() + 10
        while self.processes[index].poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture
def work():
    made = Work()
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.fixture
def queue(library, work) -> Queue:
    """Two slots whose jobs only wait."""
    return Queue(library, [Slot("core 1", {"OMP_NUM_THREADS": "1"}), Slot("core 2", {})], start=work)
