"""Whole runs by command line: killed and resumed, two processes, mistakes in one line, files that are left behind."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from PIL import Image
from processes import KILL, command, same_tensors, script
from safetensors import safe_open
from tiny_runs import tiny_network

from uni_instruct_guidance.distill2d.cli import main
from uni_instruct_guidance.distill2d.trainer import EDMConfig, train_edm
from uni_instruct_guidance.teachers.edm.checkpoint import load_edm, save_edm

CONFIG = """
data: {name: digits}
method: {name: uni_instruct, divergence: jkl, weighting: x0_normalised}
steps: 5
batch: 8
lr: [0, 1.0e-3, 1.0e-4, 5]
loss_scale: {student: 1.0}
save_every: 2
sample_every: 0
log_every: 1
grid: 4
trainer: {accelerator: cpu}
"""


@pytest.fixture
def config(tmp_path):
    """A configuration with its teacher."""
    save_edm(tmp_path / "teacher.safetensors", tiny_network(classes=10, resolution=8))
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + f"teacher: {tmp_path / 'teacher.safetensors'}\n")
    return path


def test_killed_and_resumed_is_as_if_nothing_had_happened(config, tmp_path, capsys):
    assert command("--config", config, f"out={tmp_path / 'whole'}") == 0
    killed = script("--config", config, f"out={tmp_path / 'killed'}", code=KILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert state["progress"]["done_steps"] == 2
    assert command("--config", config, f"out={tmp_path / 'killed'}") == 0
    same_tensors(tmp_path / "whole/student.safetensors", tmp_path / "killed/student.safetensors", rtol=0, atol=0)
    whole, resumed = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "killed"))
    torch.testing.assert_close(whole["state_dict"], resumed["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(
        [s["state"] for s in whole["optimizer_states"]],
        [s["state"] for s in resumed["optimizer_states"]],
        rtol=0,
        atol=0,
    )
    # Step 3 was logged before the kill and again after it: once is kept.
    lines = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    expected = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    for line, other in zip(lines, expected):
        assert all(line[key] == other[key] for key in line if key != "images_per_second")

    # A finished run is finished; a longer one goes on; another one needs another folder.
    assert command("--config", config, f"out={tmp_path / 'whole'}") == 0
    assert command("--config", config, f"out={tmp_path / 'whole'}", "steps=6") == 0
    capsys.readouterr()
    assert command("--config", config, f"out={tmp_path / 'whole'}", "method.divergence=fkl", "steps=6") == 2
    error = capsys.readouterr().err
    assert "holds a run with method.divergence='jkl', now 'fkl'" in error and error.count("\n") == 1


def test_a_run_leaves_what_one_needs(config, tmp_path, capsys):
    out = tmp_path / "run"
    assert command("--config", config, f"out={out}", "steps=1") == 0
    names = {
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "tensorboard" not in path.parts
    }
    assert names == {"last.ckpt", "student.safetensors", "log.jsonl", "samples/teacher.png", "samples/step-000001.png"}
    assert list(out.glob("tensorboard/events*"))
    assert Image.open(out / "samples/step-000001.png").size == (4 * 26 + 2, 28)  # four digits, enlarged three times
    with safe_open(out / "student.safetensors", "pt") as file:
        assert file.metadata()["init_sigma"] == "2.5"
    assert load_edm(out / "student.safetensors").label_dim == 10
    assert command("--config", config, f"out={out}", "steps=1", "trainer.device=2") == 2
    assert "trainer has no key 'device'" in capsys.readouterr().err, "a typo is none the better for a finished run"

    # The next run can begin with this one's student, as weights or as a whole run with its fake score.
    for start in ("student.safetensors", "last.ckpt"):
        assert command("--config", config, f"out={tmp_path / start}", "steps=1", f"start={out / start}") == 0


@pytest.mark.parametrize("launcher", ["lightning", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(config, tmp_path, launcher):
    overrides = ["method=dmd2", "method.weighting=x0_normalised", "steps=2", "micro_batch=3", f"bank.path={tmp_path}"]
    overrides += ["method.fake_updates=2", "real=teacher", "bank.count=16", "bank.batch=8", "bank.steps=3"]
    assert command("--config", config, f"out={tmp_path / 'one'}", *overrides) == 0
    devices = ["trainer.devices=2"] if launcher == "lightning" else []
    two = script("--config", config, f"out={tmp_path / 'two'}", *overrides, *devices, torchrun=launcher == "torchrun")
    assert two.returncode == 0, two.stderr
    # Sums in another order, amplified by Adam where a gradient is near zero: a step moves a weight by 1e-3.
    same_tensors(tmp_path / "one/student.safetensors", tmp_path / "two/student.safetensors", rtol=0, atol=1e-4)
    one, other = (json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0]) for name in ("one", "two"))
    for name in ("loss/fake_score", "loss/discriminator", "loss/student", "grad_norm/student", "grad_norm/fake_score"):
        assert one[name] == pytest.approx(other[name], rel=1e-3), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.divergence=kl"], "divergence='kl' is not known"),
        (["method=sds"], "method='sds' does not apply to one-step distillation"),
        (["stepz=1"], "there is no key 'stepz'"),
        (["teacher=none.safetensors"], "none.safetensors: no such file"),
        (["data={name: zip, path: missing.zip}"], "data.path='missing.zip' does not exist"),
        (["out=null"], "out is missing"),
        (["out=/proc/nowhere"], "out='/proc/nowhere' cannot be written"),
        (["trainer.devices=3"], "batch=8 must divide"),
    ],
)
def test_mistakes_cost_one_line(config, tmp_path, capsys, monkeypatch, overrides, message):
    if "trainer" in overrides[0]:
        monkeypatch.setattr("pytorch_lightning.Trainer.world_size", 3)
        overrides = []
    assert command("--config", config, f"out={tmp_path / 'run'}", *overrides) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_damaged_files_cost_one_line(config, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "last.ckpt").write_bytes(b"not a checkpoint")
    assert command("--config", config, f"out={out}") == 2
    assert f"cannot read checkpoint {out / 'last.ckpt'}: it is truncated, damaged or" in capsys.readouterr().err
    torch.save({"x": 1}, out / "last.ckpt")
    assert command("--config", config, f"out={out}") == 2
    assert "was not written by this trainer" in capsys.readouterr().err
    bad = tmp_path / "bad.yaml"
    bad.write_text("steps: [1")
    assert command("--config", bad) == 2 and "is no YAML" in capsys.readouterr().err
    assert command("--config", tmp_path / "none.yaml") == 2 and "does not exist" in capsys.readouterr().err


def test_an_edm_network_is_trained_and_resumed(tmp_path):
    """The loss falls, a resumed run equals an unbroken one, and the result serves as a teacher."""
    network = "{preset: tiny, label_dim: 10, sigma_data: 0.75}"
    common = ["--config", "{}", f"network={network}", "batch=32", "lr=5e-3", "log_every=1", "grid=4", "save_every=20"]
    config = tmp_path / "edm.yaml"
    config.write_text("trainer: {accelerator: cpu}\n")
    common[1] = str(config)
    assert main(EDMConfig, train_edm, "", [*common, f"out={tmp_path / 'a'}", "steps=30"]) == 0
    assert main(EDMConfig, train_edm, "", [*common, f"out={tmp_path / 'b'}", "steps=15"]) == 0
    assert main(EDMConfig, train_edm, "", [*common, f"out={tmp_path / 'b'}", "steps=30"]) == 0
    same_tensors(tmp_path / "a/network.safetensors", tmp_path / "b/network.safetensors", rtol=0, atol=0)
    losses = [json.loads(line)["loss/denoising"] for line in (tmp_path / "a/log.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert load_edm(tmp_path / "a/network.safetensors").label_dim == 10
