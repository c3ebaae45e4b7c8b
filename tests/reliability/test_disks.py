"""Full disks and places that cannot be written: one line with the path, before the work where it can be known, and what
was there before stays whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import ablation
import benchmark
import compare
import evaluate_2d
import lab
import look_at_world
import pytest
import report
import score
import train_digit_classifier
from small_disk import fill
from tiny_runs import tiny_config, tiny_data, tiny_network

from threestudio.utils.files import atomic_path
from uni_instruct_3d import ROOT
from uni_instruct_guidance.core.errors import naming, require_writable
from uni_instruct_guidance.core.files import atomically
from uni_instruct_guidance.distill2d import cli
from uni_instruct_guidance.distill2d.trainer import DistillConfig, distill


def one_line(capsys) -> str:
    """The one line of the standard error that says what went wrong; no traceback."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    return line


def distil(out: Path, *overrides: str) -> int:
    """scripts/distill_2d.py with a toy teacher and data."""
    given = ["out=" + str(out), "method=sid", "batch=6", "log_every=1", "grid=4", "lr=1e-3", "sample_every=0",
             "save_every=1", "trainer.accelerator=cpu", *overrides]  # fmt: skip

    def run(cfg):
        return distill(cfg, teacher=tiny_network(), data=tiny_data(), quiet=True)

    config = out.parent / "empty.yaml"
    config.write_text("steps: 2\n")
    return cli.main(DistillConfig, run, "", ["--config", str(config), *given])


def test_distillation_on_a_full_disk_names_the_file_and_keeps_the_checkpoint(disk, capsys):
    place = disk(4096)
    assert distil(place / "run") == 0
    last = place / "run" / "last.ckpt"
    before = last.read_bytes()
    fill(place, leave_kib=32)
    assert distil(place / "run", "steps=4") == 2
    line = one_line(capsys)
    assert "No space left on device" in line and str(place / "run") in line
    assert last.read_bytes() == before
    assert not [path for path in last.parent.rglob("*") if path.name.endswith((".tmp", ".tmp.ckpt"))]
    (place / "ballast").unlink()
    assert distil(place / "run", "steps=4") == 0, "goes on once there is space"


def mesh_file(folder: Path) -> Path:
    path = folder / "box.obj"
    corners = [(x, y, z) for x in (-0.3, 0.3) for y in (-0.3, 0.3) for z in (-0.3, 0.3)]
    faces = [(1, 2, 4), (1, 4, 3), (5, 8, 6), (5, 7, 8), (1, 6, 2), (1, 5, 6), (3, 4, 8), (3, 8, 7)]
    lines = [f"v {x} {y} {z} 0.8 0.1 0.1" for x, y, z in corners] + [f"f {a} {b} {c}" for a, b, c in faces]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_scores_on_a_full_disk(disk, tmp_path, capsys):
    place = disk(64)
    command = [str(mesh_file(tmp_path)), "--prompt", "a red box", "--views", "2", "--size", "64", "--device", "cpu"]
    fill(place, leave_kib=8)  # for two small files, not for the picture
    assert score.main([*command, "--out", str(place)]) == 2
    assert f"score: {place / 'sheet.png'}: No space left on device" in capsys.readouterr().err
    fill(place)
    assert score.main([*command, "--out", str(place)]) == 2
    said = capsys.readouterr().err
    assert f"--out='{place}' cannot be written: No space left on device" in said, "before the work"


def test_a_report_on_a_full_disk(disk, tmp_path, capsys):
    trial = tmp_path / "trial"
    (trial / "configs").mkdir(parents=True)
    (trial / "configs" / "parsed.yaml").write_text("a: " + "x" * 50_000 + "\n")
    place = disk(32)
    assert report.main([str(trial), "--out", str(place / "report.html")]) == 2
    assert f"report: {place / 'report.html'}: No space left on device" in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_tables_of_a_comparison_on_a_full_disk(disk, tmp_path, capsys, monkeypatch):
    place = disk(256)
    (tmp_path / "prompts.txt").write_text("a red mug\n")
    command = ["--methods", "sds", "--prompts", str(tmp_path / "prompts.txt"), "--seeds", "0", "--out", str(place)]

    def result(plan, matrix, runner, args):
        fill(place)
        done = {"status": "done", "reason": "", "scores": {}, "cost": {}, "pictures": {}, "seconds": 1.0}
        return dict.fromkeys(matrix, done)

    monkeypatch.setattr(compare, "run", result)
    assert compare.main(command) == 2
    assert f"compare: error: {place / 'comparison.csv'}: No space left on device" in capsys.readouterr().err


@pytest.fixture
def blocked(tmp_path) -> Path:
    """A place that nobody can write to, root neither: below a file."""
    (tmp_path / "file").write_text("here")
    return tmp_path / "file" / "out"


DIGITS = str(ROOT / "configs" / "distill2d" / "digits-cond.yaml")
BLOCKED = {
    "score": (score.main, ["x.obj", "--prompt", "a mug", "--out", "OUT"]),
    "report": (report.main, ["TRIAL", "--out", "OUT/report.html"]),
    "compare": (compare.main, ["--methods", "sds", "--out", "OUT"]),
    "lab": (lab.main, ["--methods", "sid", "--out", "OUT"]),
    "benchmark": (benchmark.command, ["core", "--out", "OUT/figures.json"]),
    "evaluate_2d": (evaluate_2d.main, ["teacher", "--config", DIGITS, "--out", "OUT"]),
    "ablation": (ablation.main, ["--out", "OUT"]),
    "look_at_world": (look_at_world.main, ["OUT/sheet.png"]),
    "train_digit_classifier": (train_digit_classifier.main, ["--out", "OUT/digits.safetensors"]),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_an_unwritable_place_is_found_before_any_work(name, blocked, tmp_path, capsys):
    main, words = BLOCKED[name]
    assert main([word.replace("OUT", str(blocked)).replace("TRIAL", str(tmp_path)) for word in words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(blocked) in lines[0] and "cannot be written: Not a directory" in lines[0]


def test_an_unwritable_run_or_bank_of_the_distillation(blocked):
    with pytest.raises(ValueError, match="out='.*/file/out' cannot be written: Not a directory"):
        distill(tiny_config("method=sid", f"out={blocked}"), teacher=tiny_network(), data=tiny_data(), quiet=True)
    bank = tiny_config("method=dmd", f"bank.path={blocked}")
    with pytest.raises(ValueError, match="bank.path='.*/file/out' cannot be written: Not a directory"):
        distill(bank, teacher=tiny_network(), data=tiny_data(), quiet=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_what_cannot_be_written_is_named_and_what_was_there_stays(number, tmp_path, monkeypatch):
    """On any machine: the flush to the disk fails, as on one that is full."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="weights.bin") as caught:
        atomically(path, lambda partial: partial.write_bytes(b"new"))
    assert caught.value.errno == number and caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError) as caught, atomic_path(path):
        raise OSError(number, os.strerror(number))
    assert caught.value.filename == str(path) and path.read_bytes() == b"old"


def test_naming_tells_whose_error_it_is(tmp_path):
    with pytest.raises(OSError) as caught, naming(tmp_path / "a"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # safetensors
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "a"):
        (tmp_path / "elsewhere" / "b").read_bytes()
    assert caught.value.filename == str(tmp_path / "elsewhere" / "b"), "not the file that is written"
    with pytest.raises(RuntimeError, match="a bug"), naming(tmp_path / "a"):
        raise RuntimeError("a bug")


def test_require_writable_leaves_nothing_behind(tmp_path):
    assert require_writable("out", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(ValueError, match="out='a.x00b' cannot be written"):
        require_writable("out", "a\0b")
