"""Whole text-to-image runs: killed and resumed, two processes, another teacher, mistakes that leave nothing behind."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from omegaconf import OmegaConf
from processes import KILL, command, same_tensors, script

from uni_instruct_guidance.distill2d.trainer import distill


@pytest.fixture
def file(config, tmp_path):
    """(overrides) ↦ a configuration file of the tiny run."""

    def write(*overrides: str):
        path = tmp_path / "config.yaml"
        OmegaConf.save(OmegaConf.structured(config(*overrides)), path)
        return path

    return write


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_nothing_had_happened(file, tmp_path):
    path = file("method=sida", "steps=5", "save_every=2")
    assert command("--config", path, f"out={tmp_path / 'whole'}") == 0
    killed = script("--config", path, f"out={tmp_path / 'killed'}", code=KILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(tmp_path / "killed/last.ckpt", weights_only=True)["progress"]["done_steps"] == 2
    assert command("--config", path, f"out={tmp_path / 'killed'}") == 0
    whole, resumed = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "killed"))
    torch.testing.assert_close(whole["state_dict"], resumed["state_dict"], rtol=0, atol=0)
    unet = "student/unet/diffusion_pytorch_model.safetensors"
    same_tensors(tmp_path / "whole" / unet, tmp_path / "killed" / unet, rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_train_as_one(file, tmp_path):
    path = file("method={name: dmd2, fake_updates: 2}", "steps=2", "micro_batch=3", "batch=8")
    assert command("--config", path, f"out={tmp_path / 'one'}") == 0
    two = script("--config", path, f"out={tmp_path / 'two'}", "trainer.devices=2")
    assert two.returncode == 0, two.stderr
    unet = "student/unet/diffusion_pytorch_model.safetensors"
    # Sums in another order, amplified by Adam where a gradient is near zero: a step moves a weight by 1e-3.
    same_tensors(tmp_path / "one" / unet, tmp_path / "two" / unet, rtol=0, atol=1e-4)
    one, other = (json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0]) for name in ("one", "two"))
    for name in ("loss/fake_score", "loss/discriminator", "loss/student", "grad_norm/student", "grad_norm/fake_score"):
        assert one[name] == pytest.approx(other[name], rel=1e-3), name


def test_a_run_goes_on_with_the_very_same_teacher_only(config, teacher, tmp_path):
    moved = shutil.copytree(teacher, tmp_path / "moved")
    run = ("method=swiftbrush", f"out={tmp_path / 'run'}")
    distill(config(*run, "steps=1", "save_every=0"), quiet=True)
    state = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    module = distill(config(*run, "steps=1", f"teacher={moved}"), quiet=True).module  # content, not place
    assert state["teacher"] == module.fingerprint()
    tokenizer = next((moved / "tokenizer").glob("*.json"))
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(ValueError, match="holds a run with another teacher than .*choose another out") as error:
        distill(config(*run, "steps=2", f"teacher={moved}"), quiet=True)
    assert "\n" not in str(error.value)
    after = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert after["progress"]["done_steps"] == 1 and after["teacher"] == state["teacher"]
    state.pop("teacher")  # a run from before teachers were noted goes on
    module.on_load_checkpoint(state)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["text.prompts={blank}"], "no prompts, only"),
        (["text.prompts={empty}"], "text.prompts"),
        (["text.t_init=1000"], "text.t_init=1000 must be an index"),
        (["teacher={mute}"], "lacks .'text_encoder'"),
        (["method=di_pp", "text.reward={rewards}:deaf"], "not differentiable"),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(config, teacher, tmp_path, overrides, message):
    places = {name: tmp_path / name for name in ("blank", "empty", "mute")} | {"rewards": tmp_path / "rewards.py"}
    places["blank"].write_text("\n  \n# nothing\n")
    places["empty"].write_text("")
    shutil.copytree(teacher, places["mute"], ignore=shutil.ignore_patterns("text_encoder"))
    given = [override.format(**places) for override in overrides]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        distill(config(*given, f"out={tmp_path / 'out'}"), quiet=True)
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not (tmp_path / "bank").exists()
