"""Three lines of Python: from a prompt to an asset, with previews; stopped, gone on with, made once."""

from __future__ import annotations

import functools
import re
import webbrowser

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from small_disk import fill

from uni_instruct_3d import ROOT, TextTo3D, pipeline
from uni_instruct_3d.pipeline import Asset, Preview, Run, StageDone, StageError, Step, Stopped, folder

#: The tiny teacher draws single views.
TINY = {"device": "cpu", "config_set": "shapes"}


@pytest.fixture
def pipe(small, tmp_path):
    return TextTo3D(out=tmp_path / "out", overrides=small, method="sds", **TINY)


def weights(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return torch.load(run.job(stage).checkpoint, weights_only=True)["state_dict"]


def test_prompt_to_asset(pipe, tmp_path, capfd):
    """The lines of the README; a second call makes nothing again."""
    seen, events = [], []
    asset = pipe("a red mug", seed=0, on_preview=seen.append, on_event=events.append, preview_every=2)
    out = capfd.readouterr()
    assert out.out == out.err == "", "a library spoke"
    assert [event.stage for event in events if isinstance(event, StageDone)] == ["nerf", "geometry", "texture"]
    steps = [(event.stage, event.step) for event in events if isinstance(event, Step)]
    assert steps == [(stage, step) for stage in ("nerf", "geometry", "texture") for step in (1, 2, 3)]
    # the first step, every second, the last
    assert len(seen) == 9 and all(picture.size == (64, 16) for picture in seen)
    assert np.asarray(seen[-1]).std() > 0

    assert isinstance(asset.mesh, trimesh.Trimesh) and len(asset.mesh.faces) > 20
    assert asset.turntable.stat().st_size > 500 and asset.preview.size[0] == 4 * asset.preview.size[1]
    assert "data:video/mp4;base64," in asset._repr_html_() and "a red mug" in asset._repr_html_()
    for name in ("mug.glb", "mug.obj", "mug.ply", "mug.stl", "mug.png", "mug.mp4", "mug.html"):
        assert asset.save(tmp_path / "saved" / name).stat().st_size > 100
    assert len(trimesh.load(tmp_path / "saved" / "mug.obj", force="mesh").faces) == len(asset.mesh.faces)
    with pytest.raises(ValueError, match=r"cannot save as '.doc'; choices: .obj, .glb"):
        asset.save(tmp_path / "mug.doc")
    assert Asset.open(asset.folder).prompt == "a red mug"

    before = {path: path.stat().st_mtime_ns for path in asset.folder.rglob("last.ckpt")}
    again = pipe("a red mug")
    assert again.folder == asset.folder and before == {path: path.stat().st_mtime_ns for path in before}
    assert pipe.settings.seed == 0 and folder.choose_folder(pipe.out, again.run.settings) == asset.folder


def test_scores(pipe):
    """Of a NeRF alone: CLIP, and ground truth because the prompt is of the built-in world."""
    pipe = TextTo3D(out=pipe.out, overrides=pipe.settings.overrides, method="sds", stages=("nerf",), **TINY)
    asset = pipe("a red mug", on_event=lambda event: None)
    scores = asset.scores()
    assert {"clip_x100", "class", "iou"} <= scores.keys()
    assert asset.scores() == scores and (asset.folder / "scores.json").is_file()


def test_previews_and_stops_change_nothing(small, tmp_path):
    """Stopped after every step and gone on with, with a picture each time: the weights of a run left alone."""
    settings = {"overrides": small, "method": "vsd", **TINY, "stages": ("nerf",)}
    alone = TextTo3D(out=tmp_path / "alone", **settings)("a red mug", on_event=lambda event: None, preview_every=0)
    pipe, stops = TextTo3D(out=tmp_path / "stopped", **settings), []

    def stop(event):
        if isinstance(event, Step):
            run.stop()

    run = Run.create(alone.run.settings, pipe.out)
    run.preview_every = 1
    assert run.progress.state == "waiting" and run.preview is None
    for _ in range(3):
        with pytest.raises(Stopped, match="nerf at step"):
            run.start(stop)
        stops.append(run.progress.step)
        assert run.progress.state == "stopped"
        with Image.open(run.preview) as picture:
            assert picture.size == (64, 16)
    assert stops == [1, 2, 3]
    run.start()
    assert run.progress.state == "done" and run.progress.seconds > 0
    one, other = weights(alone.run, "nerf"), weights(run, "nerf")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_is_worked_on_once_and_deleted_whole(pipe):
    run = Run.create(pipe.settings, pipe.out)
    with folder.held(run.folder):
        assert folder.is_held(run.folder)
        with pytest.raises(ValueError, match="another run works in"):
            run.start()
        with pytest.raises(ValueError, match="another run works in"):
            run.delete()
    folder.write_progress(run.folder, folder.Progress(state="running"))
    assert run.progress.state == "stopped", "nobody holds it: it was killed"
    run.delete()
    assert not run.folder.exists()


def test_failures_are_one_line(pipe):
    """A key that no stage knows; a stage whose predecessor is missing."""
    broken = TextTo3D(out=pipe.out, overrides=[*pipe.settings.overrides, "system.nonsense=1"], **TINY)
    with pytest.raises(StageError, match="nerf: .*nonsense"):
        broken("a red mug", on_event=lambda event: None)
    run = Run.create(TextTo3D(stages=("texture",)).settings, pipe.out, name="later")
    with pytest.raises(StageError, match="texture needs geometry first"):
        run.start()
    assert run.progress.state == "failed" and "texture needs geometry" in run.progress.error


def test_a_listener_that_fails_ends_the_run(pipe):
    def listen(event):
        if isinstance(event, Preview):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pipe("a red mug", on_event=listen)


def test_the_lines_of_the_readme(small, tmp_path, monkeypatch):
    """As they stand there, each of them; only what a run costs is made small."""
    lines = re.search(r"```python\n(from uni_instruct_3d import.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    cheap = functools.partial(TextTo3D, overrides=small, method="sds", stages=("nerf",), **TINY)
    opened = []
    monkeypatch.setattr(pipeline, "TextTo3D", cheap)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path)
    assert len(lines.splitlines()) == 5
    exec(compile(lines, "README.md", "exec"), {})
    assert len(trimesh.load(tmp_path / "mug.glb", force="mesh").faces) > 0
    (report,) = opened
    assert report.startswith("file://") and report.endswith("/report.html")


def test_a_disk_that_fills_up(small, disk):
    """The run ends with a line, keeps its last checkpoint, and goes on once there is space."""
    place = disk(100_000)
    every = (*small, "checkpoint.every_n_train_steps=1")
    pipe = TextTo3D(out=place, overrides=every, method="sds", stages=("nerf",), **TINY)

    def listen(event):
        if isinstance(event, Step) and event.step == 2:
            fill(place)

    with pytest.raises(StageError, match="No space left on device"):
        pipe("a red mug", on_event=listen)
    with pytest.raises(ValueError, match="cannot write to .*No space left on device"):
        pipe("a red mug")
    (made,) = place.glob("a-red-mug*")
    run = Run.open(made)
    assert run.progress.state == "failed" and "No space left" in run.progress.error
    assert run.job("nerf").checkpoint.is_file()
    (place / "ballast").unlink()
    assert pipe("a red mug", on_event=lambda event: None).turntable.is_file()
