"""The studio with jobs that train nothing but do with their folder what a run does: for tests of the page.

As a server: ``light_studio.py --out DIR --port N …``. As a job: ``light_studio.py train|score FOLDER``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from uni_instruct_3d.pipeline.folder import LOG, PROGRESS, Progress, held, write_json, write_progress
from uni_instruct_3d.pipeline.run import Run

#: Steps of the only stage, and seconds of each; with a file ``hurry`` in the folder the rest are left out.
STEPS, PACE = 1000, 0.5


def start(run: Run, work: str, environment: dict[str, str]) -> subprocess.Popen:
    with (run.folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, __file__, work, str(run.folder)], env={**os.environ, **environment},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def train(folder: Path) -> None:
    """Steps until it is told to stop, going on where it was; at the end mesh files."""
    import numpy as np
    from PIL import Image

    with held(folder):
        (folder / "stop").unlink(missing_ok=True)
        known = folder / PROGRESS
        first = json.loads(known.read_text())["step"] if known.is_file() else 0
        for step in range(first, STEPS + 1):
            losses, left = {"sparsity": 1 / (1 + step)}, PACE * (STEPS - step)
            seen = Progress("running", "nerf", step, STEPS, losses, seconds=PACE * step, seconds_left=left)
            write_progress(folder, seen)
            if step % 10 == 0:
                picture = Image.fromarray(np.full((96, 384, 3), step % 256, dtype=np.uint8))
                picture.paste("white" if step else "black", (10, 10, 80, 80))
                picture.save(folder / ".preview.png")
                os.replace(folder / ".preview.png", folder / "preview.png")
            if (folder / "stop").exists():
                checkpoint = folder / "nerf" / "ckpts" / "last.ckpt"
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.touch()
                seen.state = "stopped"
                return write_progress(folder, seen)
            if (folder / "hurry").exists():
                break
            time.sleep(PACE)
        write_files(folder)
        seen.state, seen.stage = "done", "files"
        return write_progress(folder, seen)


def write_files(folder: Path) -> None:
    """A red ball."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    red = trimesh.visual.material.PBRMaterial(baseColorFactor=[230, 20, 20, 255], metallicFactor=0.0)
    ball.visual = trimesh.visual.TextureVisuals(material=red)
    ball.export(folder / "model.glb")


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(Path(sys.argv[2]))
    elif sys.argv[1] == "score":
        write_json(Path(sys.argv[2]) / "scores.json", {"stage": "nerf", "clip_x100": 81.5})
    else:
        from uni_instruct_3d.studio import cli, jobs

        jobs.start_process = start
        sys.exit(cli.main())
