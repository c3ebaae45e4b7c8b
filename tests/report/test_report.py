"""The report: complete, self-contained, and drawn by a real browser where one is installed."""

import base64
import csv
import html.parser
import io
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threestudio.models.mesh import Mesh
from threestudio.utils.images import write_video
from uni_instruct_3d.report import read_stage, write_report
from uni_instruct_3d.report.charts import charts, summary
from uni_instruct_3d.report.page import BRIGHTER, viewer
from uni_instruct_guidance.models.glb import glb_bytes

SETTINGS = (
    "name: mug\nsystem:\n  prompt_processor:\n    prompt: a <red> mug & spoon\n  loss:\n    lambda_sparsity: 1.0\n"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _write_log(folder: Path, steps) -> None:
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        names = ["epoch", "step", "train/loss", "train/loss_sds", "train/log_r_mean", "train/grad_norm"]
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for step in steps:
            loss = "nan" if step == 3 else 1 / (step + 1)
            writer.writerow({"epoch": 0, "step": step, "train/loss": loss, "train/log_r_mean": 0.1 * step})
            writer.writerow({"epoch": 0, "step": step, "train/loss_sds": step})


@pytest.fixture
def trial(tmp_path):
    """A finished stage: settings, two versions of logs, pictures of two steps, a turntable, an exported red ball."""
    folder = tmp_path / "run" / "texture"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "parsed.yaml").write_text(SETTINGS)
    _write_log(folder / "csv_logs" / "version_0", range(20))
    _write_log(folder / "csv_logs" / "version_1", range(10, 30))
    save = folder / "save"
    save.mkdir()
    for name, level in (("it5-0.png", 0), ("it30-0.png", 200), ("it30-1.png", 100)):
        Image.fromarray(np.full((16, 16, 3), level, dtype=np.uint8)).save(save / name)
    frames = [np.full((32, 32, 3), 10 * i, dtype=np.uint8) for i in range(8)]
    write_video(save / "it5-test.gif", frames, 8)
    write_video(save / "it30-test.mp4", frames, 8)
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    mesh = Mesh(torch.tensor(ball.vertices).float(), torch.tensor(ball.faces))
    mesh.set_vertex_color(torch.tensor([[0.9, 0.05, 0.05]]).expand(len(mesh.v_pos), 3))
    (save / "it30-export").mkdir()
    (save / "it30-export" / "model.glb").write_bytes(glb_bytes(mesh, vertex_color=True))
    (folder / "done").write_text("83 s\n")
    (folder / "scores.json").write_text('{"3d_clip": 31.5, "note": "text"}')
    return folder


def test_reads_what_a_trial_folder_holds(trial):
    stage = read_stage(trial)
    assert stage.name == "texture" and stage.prompt == "a <red> mug & spoon" and stage.settings == SETTINGS
    assert [p.name for p in stage.pictures] == ["it30-0.png", "it30-1.png"]
    assert stage.turntable.name == "it30-test.mp4"
    assert [p.name for p in stage.meshes] == ["model.glb"] and stage.seconds == 83
    assert stage.scores == {"3d_clip": 31.5}
    # The resumed version replaces steps 10 to 19; not-a-number is left out.
    assert [s for s, _ in stage.curves["train/loss"]] == [s for s in range(30) if s != 3]
    assert dict(stage.curves["train/loss_sds"])[29] == 29
    assert "train/grad_norm" not in stage.curves


def test_the_viewer_keeps_vertex_colours(trial):
    """The mesh in the page, read back: 16-bit linear colours have become 8-bit ones, not their low bytes."""
    (path,) = read_stage(trial).meshes
    embedded = max(re.findall(r"[A-Za-z0-9+/=]{1000,}", viewer(path)), key=len)
    (mesh,) = trimesh.load_scene(io.BytesIO(base64.b64decode(embedded)), file_type="glb").geometry.values()
    red, green = 255 * ((0.9 + 0.055) / 1.055) ** 2.4, 255 * ((0.05 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(mesh.visual.vertex_attributes["color"][0, :3], [red, green, green], atol=1)


def test_an_empty_folder_is_read_and_a_missing_one_named(tmp_path):
    stage = read_stage(tmp_path, name="nothing")
    assert (stage.name, stage.curves, stage.meshes, stage.turntable) == ("nothing", {}, [], None)
    text = write_report([stage], tmp_path / "report.html").read_text()
    assert "No mesh was exported" in text
    with pytest.raises(ValueError, match="no such trial folder"):
        read_stage(tmp_path / "absent")
    with pytest.raises(ValueError, match="at least one stage"):
        write_report([], tmp_path / "x.html")


def test_statistics_of_the_density_ratio(trial):
    rows = summary(read_stage(trial).curves)
    assert [row[0] for row in rows] == ["train/log_r_mean"]
    # Steps 0 to 29, 0.1 per step: the last tenth is 2.7, 2.8, 2.9.
    assert rows[0][1:] == pytest.approx((2.8, 2.9, 0.0, 2.9))


def test_charts_are_grouped(trial):
    made = dict(charts(read_stage(trial).curves))
    assert list(made) == ["Losses", "Density ratio and discriminator"]
    assert all(svg.startswith("<svg") for svg in made.values())
    assert charts({"train/loss": [(0, 1.0)]}) == []


class _Links(html.parser.HTMLParser):
    """Every address that a browser would load."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.frames = []

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key in ("src", "href", "poster", "data") and tag != "a":
                self.found.append(value)
            if key == "srcdoc":
                self.frames.append(value)


def test_the_page_is_complete_and_loads_nothing_from_outside(trial, tmp_path):
    out = write_report([read_stage(trial)], tmp_path / "report.html")
    text = out.read_text()
    links = _Links()
    links.feed(text)
    assert len(links.found) >= 3 and all(link.startswith(("data:", "#")) for link in links.found)
    assert len(links.frames) == 1
    # The viewer's script is a library's: say so when its lamp moves elsewhere.
    assert all(line in links.frames[0] for line in BRIGHTER.values())
    inner = _Links()
    inner.feed(links.frames[0])
    assert all(link.startswith("data:") for link in inner.found)
    assert "video/mp4" in text and "image/png" in text and text.count("<svg") == 2
    for expected in ("a &lt;red&gt; mug &amp; spoon", "1 min 23 s", "3d_clip", "31.5", "lambda_sparsity", "model.glb"):
        assert expected in text
    assert "<red>" not in text
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_an_interrupted_report_leaves_the_old_one(trial, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("uni_instruct_3d.report.page.os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report([read_stage(trial)], out)
    assert out.read_text() == "old" and not list(tmp_path.glob("*.tmp"))


def test_script(trial, capsys):
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "report.py"))["main"]
    assert script([str(trial)]) == 0
    assert Path(capsys.readouterr().out.strip()) == trial.parent.resolve() / "report.html"
    assert script([str(trial / "absent")]) == 2
    assert capsys.readouterr().err.startswith("report: no such trial folder")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed; the page was not drawn by a browser")
def test_a_browser_draws_the_object(trial, tmp_path):
    """Screenshot with every network access blocked: the red ball appears in the 3D view."""
    out = write_report([read_stage(trial)], tmp_path / "report.html")
    picture = tmp_path / "screen.png"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-extensions"]
    command += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--window-size=1200,1600", "--virtual-time-budget=8000", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--v=0", f"--screenshot={picture}", out.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert picture.is_file(), done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if re.search(r"CONSOLE.*(Uncaught|Error)", line)]
    assert errors == []
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    frame = pixels[60:640, 40:620]
    red = (frame[..., 0] > 150) & (frame[..., 0] > 2 * frame[..., 1]) & (frame[..., 0] > 2 * frame[..., 2])
    # The viewer fits the object to its window: a disc of at least a tenth of it.
    assert red.mean() > 0.1
