"""Inputs that once ended in a traceback, one by one."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import benchmark
import pytest
import report
import score
from PIL import Image
from tiny_runs import tiny_config

from threestudio.utils.config import merge_config
from threestudio.utils.misc import set_device
from uni_instruct_3d import ROOT
from uni_instruct_guidance.distill2d import cli
from uni_instruct_guidance.distill2d.data import DataConfig, load_data
from uni_instruct_guidance.distill2d.methods import one_step_method
from uni_instruct_guidance.distill2d.trainer import DistillConfig
from uni_instruct_guidance.scoring.frames import load_frames
from uni_instruct_guidance.scoring.mesh_files import check_files


def bomb() -> bytes:
    """A PNG of 100 bytes that promises 60,000 x 60,000 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_decompression_bombs_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "bombs.zip", "w") as archive:
        archive.writestr("a/0.png", bomb())
    with pytest.raises(ValueError, match="a/0.png in .*bombs.zip is no readable image: .*exceeds limit"):
        load_data(DataConfig("zip", str(tmp_path / "bombs.zip")))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "0.png").write_bytes(bomb())
    with pytest.raises(ValueError, match="0.png: cannot be read as a picture: .*exceeds limit"):
        load_frames(tmp_path / "frames", (1, 1, 1))
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd frames/0.png\n")
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nv 0 0 0\n")
    with pytest.raises(ValueError, match="its texture 0.png cannot be read: .*exceeds limit"):
        check_files(tmp_path / "a.obj")


@pytest.mark.parametrize("header", [b"[]", b'{"nodes": [{"mesh": 3}]}', b'{"images": [3]}', b'{"meshes": [7]}'])
def test_a_damaged_gltf_header_is_named(header, tmp_path):
    (tmp_path / "a.gltf").write_bytes(header)
    with pytest.raises(ValueError, match="a.gltf: cannot be read as glTF: its header is damaged"):
        check_files(tmp_path / "a.gltf")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("configs/parsed.yaml", b"a: [1,\nb: 2", "parsed.yaml: cannot be read as YAML"),
        ("configs/parsed.yaml", b"\xff\xfe\xfa", "parsed.yaml: is no text"),
        ("configs/parsed.yaml", b"[" * 3000, "parsed.yaml: cannot be read as YAML"),
        ("scores.json", b'{"clip": ', "scores.json: cannot be read as JSON"),
        ("scores.json", b"[1, 2]", "scores.json: must hold scores by name, got list"),
        ("save/it3-export/model.glb", b"glTF broken", "model.glb: cannot be read as a mesh"),
    ],
)
def test_a_report_of_a_damaged_trial_names_the_file(name, content, said, tmp_path, capsys):
    path = tmp_path / "trial" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert report.main([str(tmp_path / "trial"), "--out", str(tmp_path / "r.html")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("report: ") and said in lines[0]
    assert not (tmp_path / "r.html").exists()


def test_a_wrong_device_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        score.main(["x.obj", "--prompt", "a mug", "--device", "wrong"])
    assert stop.value.code == 2 and "argument --device: 'wrong' cannot be used here" in capsys.readouterr().err
    with pytest.raises(ValueError, match="device='wrong' cannot be used here"):
        set_device("wrong")
    set_device(None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objects", "0"], "--objects: 0 must be at least 1"),
        (["--size", "-1"], "--size: -1 must be"),
        (["--protocols", "orbit"], "'orbit'"),
    ],
)
def test_a_benchmark_of_nothing_is_one_line(words, said, capsys):
    try:
        status = benchmark.command(["ranking", *words])
    except SystemExit as stop:  # argparse
        status = stop.code
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in line and said in line


@pytest.mark.parametrize("text", ["[" * 2000, "{a: " * 500, "a: [1", "- 1", "3", "a: *b", "\x00", "steps: &a [*a]"])
def test_a_file_that_is_no_configuration_is_one_line(text, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    assert cli.main(DistillConfig, lambda cfg: None, "", ["--config", str(tmp_path / "bad.yaml"), "out=x"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "bad.yaml" in lines[0]


@pytest.mark.parametrize("override", ["lr={a: 1}", "betas=[1]", "text.targets={a: 1}", "steps=abc", "ema=[1]"])
def test_a_value_of_another_kind_is_named(override, capsys):
    """Where the file has a list, a mapping once ended in a traceback."""
    words = ["--config", str(ROOT / "configs/distill2d/digits-cond.yaml"), "out=x", override]
    assert cli.main(DistillConfig, lambda cfg: None, "", words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {override}: ")


@pytest.mark.parametrize("override", ["data.fovy_range={a: 1}", "system.guidance=[1]", "data=[1]"])
def test_a_mapping_for_a_list_is_named_in_3d(override):
    words = [override, "system.prompt_processor.prompt=x"]
    with pytest.raises(ValueError) as caught:
        merge_config(str(ROOT / "configs/shapes-nerf.yaml"), cli_args=words)
    assert str(caught.value).startswith(f"{override}: a list cannot stand where a mapping was")


@pytest.mark.parametrize("override", ["lr=[1", "lr={a", "=3", "steps", "lr=&a *a", "method={name: sid, kappa: }"])
def test_an_override_that_cannot_be_read_is_one_sentence(override):
    with pytest.raises(ValueError) as caught:
        one_step_method(tiny_config(override).method)
    assert "\n" not in str(caught.value)
