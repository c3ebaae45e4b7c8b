"""scripts/score.py: the table, the numbers, the sheet, and an exit status that tells."""

from __future__ import annotations

import json

import numpy as np
import pytest
import score
import torch
from PIL import Image

from threestudio.models.mesh import Mesh
from threestudio.utils.mesh_files import obj_text
from uni_instruct_3d.shapes_world import instance_mesh
from uni_instruct_guidance.models.glb import glb_bytes

SMALL = ["--views", "2", "--size", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    vertices, faces, rgb = instance_mesh("mug", "red", "striped", 0, resolution=32)
    mesh = Mesh(torch.from_numpy(vertices), torch.from_numpy(faces).long())
    mesh.set_vertex_color(torch.from_numpy(rgb.astype(np.float32)))
    (folder / "mug.glb").write_bytes(glb_bytes(mesh, vertex_color=True))
    (folder / "mug.obj").write_text(obj_text(mesh, vertex_color=True))
    (folder / "empty.obj").write_text("v 0 0 0\n")
    (folder / "list.txt").write_text("# colours\na blue mug\n\na red chair\n\n")
    (folder / "blank.txt").write_text("\n  \n# nothing\n")
    (folder / "twice.txt").write_text("a red mug\na red mug\n")
    return folder


@pytest.fixture(autouse=True)
def _device():
    """The script fixes the process's device; tests leave none behind."""
    from threestudio.utils.misc import set_device

    yield
    set_device(None)


def run(args, tmp_path, capsys):
    status = score.main([*map(str, args), *SMALL, "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    errors = [line for line in captured.err.replace("\r", "\n").splitlines() if line.startswith("score: ")]
    return status, captured.out.splitlines(), errors


def test_a_comparison_of_two_files(files, tmp_path, capsys):
    args = [files / "mug.glb", files / "mug.obj", "--prompt", "a red mug", "--prompts-file", files / "list.txt"]
    status, out, errors = run(args, tmp_path, capsys)
    assert status == 0 and not errors
    # without weights every single line says that it is the small one
    assert out and all(line.startswith("[built-in small CLIP (load/clip/shapes; ") for line in out)
    assert any("list.txt: 2 blank lines passed over, 2 prompts" in line for line in out)
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert result["protocol"] == "shapes-8@1[views=2,size=64]" and result["prompt"] == "a red mug"
    assert result["prompt_list"] == ["a blue mug", "a red chair", "a red mug"]
    glb, obj = result["assets"]
    assert glb["kind"] == "mesh" and len(glb["per_view"]["cosine"]) == glb["views"] == 2
    assert glb["cosine"] == pytest.approx(np.mean(glb["per_view"]["cosine"]))
    assert glb["clip_x100"] == pytest.approx(100 * glb["cosine"])
    assert abs(glb["clip_x100"] - obj["clip_x100"]) <= 0.1
    assert glb["rank"] == 1 and glb["r_precision"] == 1.0
    assert 0 <= result["diversity"] < 1e-3  # the same object twice
    table = (tmp_path / "out" / "table.txt").read_text().splitlines()
    assert table == [line for line in out if line in table] and len(table) == 3
    assert f"x100 {glb['clip_x100']:.2f}" in table[0]
    assert Image.open(tmp_path / "out" / "sheet.png").size == (2 * score.SHEET_SIZE, 2 * score.SHEET_SIZE)


def test_the_wrong_prompt_scores_less_and_comes_later(files, tmp_path, capsys):
    args = [files / "mug.glb", "--prompt", "a blue chair", "--prompts-file", files / "list.txt"]
    (asset,) = (run(args, tmp_path, capsys), json.loads((tmp_path / "out" / "scores.json").read_text()))[1]["assets"]
    assert asset["rank"] > 1 and asset["r_precision"] == 0.0 and asset["cosine"] < 0.6


def test_a_background_that_the_small_clip_never_saw_is_said(files, tmp_path, capsys):
    args = [files / "mug.obj", "--prompt", "a red mug", "--protocol"]
    for protocol, said in (("ring-8", 1), ("threestudio-120", 0)):
        _, out, _ = run([*args, protocol], tmp_path, capsys)
        assert sum("it has only seen light backgrounds" in line for line in out) == said


def test_what_can_be_scored_is_scored(files, tmp_path, capsys):
    args = [files / "empty.obj", files / "mug.obj", "--prompt", "a red mug"]
    status, _, errors = run(args, tmp_path, capsys)
    assert status == 2 and len(errors) == 1 and "empty.obj: the mesh is empty" in errors[0]
    (asset,) = json.loads((tmp_path / "out" / "scores.json").read_text())["assets"]
    assert asset["path"].endswith("mug.obj")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "ring-9"], "protocol='ring-9' is not known; choose one of threestudio-120, ring-8"),
        (["--prompt", " "], "--prompt is empty"),
        (["--light", "sun"], "light='sun' is not known"),
        (["--views", "99"], "views=99 of protocol shapes-8@1; choose 1 to 8"),
        (["--prompts-file", "{files}/blank.txt"], "no prompts, only 3 blank lines and comments"),
        (["--prompts-file", "{files}/twice.txt"], "'a red mug' is there twice"),
        (["--prompts-file", "{files}/none.txt"], "cannot be read"),
        (["--clip", "ViT-B-32"], "is no weights file and no tag"),
        (["--aesthetic", "{files}/none.pth"], "aesthetic predictor .*none.pth: no such file"),
        (["--preference", "hpsv3"], "preference score='hpsv3' is not known"),
        (["--up", "x"], "up='x' is not known; choose one of y, z"),
    ],
)
def test_mistakes_are_one_line_and_status_2(options, message, files, tmp_path, capsys):
    import re

    options = [option.format(files=files) for option in options]
    status = score.main(
        [str(files / "mug.obj"), "--prompt", "a red mug", *SMALL, "--out", str(tmp_path / "out"), *options]
    )
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("score: ")]
    assert status == 2 and len(errors) == 1 and re.search(message, errors[0])
    assert not (tmp_path / "out" / "scores.json").exists()


def test_the_predictor_of_another_clip_is_refused(files, tmp_path, capsys, predictor_file):
    args = [files / "mug.obj", "--prompt", "a red mug", "--aesthetic", predictor_file("linearMSE")]
    status, _, errors = run(args, tmp_path, capsys)
    assert status == 2 and "those of local-dir:load/clip/shapes have 128" in errors[0]
