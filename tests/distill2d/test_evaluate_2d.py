"""scripts/evaluate_2d.py: table, JSON and grids of student and teacher; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import evaluate_2d as command
import pytest
import torch

from uni_instruct_guidance.teachers.edm import build_network
from uni_instruct_guidance.teachers.edm.checkpoint import save_edm

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "distill2d" / "digits-uncond.yaml")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A teacher and a student with random weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    save_edm(folder / "teacher.safetensors", build_network("tiny"))
    save_edm(folder / "student.safetensors", build_network("tiny"), init_sigma="2.5")
    return folder


def run(files, out, *arguments):
    return command.main([*arguments, "--config", CONFIG, f"teacher={files / 'teacher.safetensors'}", "--out", str(out),
                         "--samples", "40", "--steps", "2"])  # fmt: skip


def test_student_and_teacher(files, tmp_path, capsys):
    assert run(files, tmp_path, str(files / "student.safetensors")) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    student, teacher = report["generators"]["student"], report["generators"]["teacher"]
    assert (student["evaluations"], teacher["evaluations"]) == (1, 3) and student["samples"] == 40
    assert report["real"] == 1797 and report["judge"] == "digits" and "accuracy" not in student
    for space in ("pixel", "classifier"):
        assert report["ratio"][space] == student[f"fd_{space}"] / teacher[f"fd_{space}"]
        assert f"{report['floor'][space]:.4g}" in printed and f"{report['ratio'][space]:.4g}" in printed
    assert (tmp_path / "student.png").is_file() and (tmp_path / "teacher.png").is_file()


def test_teacher_or_student_alone(files, tmp_path):
    assert run(files, tmp_path / "t", "teacher") == 0
    assert run(files, tmp_path / "s", str(files / "student.safetensors"), "--no-teacher") == 0
    for folder, name in (("t", "teacher"), ("s", "student")):
        report = json.loads((tmp_path / folder / "report.json").read_text())
        assert list(report["generators"]) == [name] and "ratio" not in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.ckpt"], "'nothing.ckpt' does not exist"),
        (["teacher", "--judge", "inception"], "inception weights 'None' not found"),
        (["teacher", "--judge-weights", str(ROOT / "load" / "judge" / "shapes.safetensors")], "digit classifier"),
        (["teacher", "init_sigma=-1"], "init_sigma=-1"),
        (["teacher", "--reference-moments", "none.npz"], "reference moments 'none.npz'"),
    ],
)
def test_mistakes_are_one_line(files, tmp_path, capsys, arguments, message):
    assert run(files, tmp_path, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
