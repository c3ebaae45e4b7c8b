"""What goes wrong outside the one-step trainer: a teacher that answers NaN, damage, signals, a second run."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from tiny_runs import tiny_config, tiny_data, tiny_network

from threestudio.utils.guard import only_run
from uni_instruct_guidance.core.errors import UserError
from uni_instruct_guidance.distill2d import base_module, cli
from uni_instruct_guidance.distill2d.base_module import StepModule
from uni_instruct_guidance.distill2d.trainer import distill


def run(*overrides, teacher=None, **fields):
    teacher = tiny_network() if teacher is None else teacher
    return distill(tiny_config("method=sid", *overrides, **fields), teacher=teacher, data=tiny_data(), quiet=True)


def answering_nan(first: int = 0, last: int = 10**9):
    """A teacher whose calls number first … last - 1 answer NaN; its weights, which others copy, are whole."""
    network, calls = tiny_network(), []

    def poison(module, arguments, answer):
        calls.append(1)
        return answer * float("nan") if first < len(calls) <= last else answer

    network.register_forward_hook(poison)
    return network


def test_a_teacher_that_always_answers_nan_stops_the_run():
    stopped = pytest.raises(UserError, match=r"20 steps in a row \(step 19\); check the teacher's weights")
    with pytest.warns(UserWarning, match="step 0: teacher, .* not finite") as warned, stopped:
        run("steps=40", teacher=answering_nan())
    assert len([w for w in warned if "not finite" in str(w.message)]) == 1


@pytest.mark.filterwarnings("ignore:step 1")
def test_a_teacher_that_answers_nan_now_and_then_is_counted(monkeypatch):
    monkeypatch.setattr(base_module, "MAX_REJECTED_IN_A_ROW", 3)
    result = run("steps=5", teacher=answering_nan(1, 3))
    assert result.skipped == {"rejected": 2} and result.scalars["skipped/rejected"] == 2


@pytest.mark.filterwarnings("ignore:step")
def test_a_bad_micro_batch_rejects_no_step():
    assert not run("steps=2", "micro_batch=3", teacher=answering_nan(1, 2)).skipped


def test_the_command_line_tells_rejected_steps_and_ends_with_a_status(tmp_path, capsys, monkeypatch):
    (tmp_path / "c.yaml").write_text("steps: 1\n")

    def stopped(cfg):
        raise UserError("training cannot go on")

    arguments = ["--config", str(tmp_path / "c.yaml"), f"out={tmp_path / 'run'}"]
    assert cli.main(type(tiny_config()), stopped, "", arguments) == 2
    assert capsys.readouterr().err == "error: training cannot go on\n"


def test_a_damaged_checkpoint_is_named_with_the_whole_one_before_it(tmp_path):
    out = tmp_path / "run"
    run("steps=3", f"out={out}", "save_every=1")
    last, before = out / "last.ckpt", out / "before-last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(UserError, match=f"{last}.*newest whole one beside it is {before}.*rename a whole one"):
        run("steps=3", f"out={out}")
    os.replace(before, last)
    assert run("steps=3", f"out={out}").module.done_steps == 3


def test_a_second_run_in_a_folder_is_refused_and_leftovers_of_a_killed_one_go(tmp_path):
    out = tmp_path / "run"
    run("steps=1", f"out={out}")
    names = (".last.1.tmp.ckpt", ".student.safetensors.2.tmp.safetensors", "samples/.a.png.3.tmp.png")
    left = [out / name for name in names]
    for path in left:
        path.write_bytes(b"cut short by a kill")
    with only_run(out, "out"), pytest.raises(ValueError, match="another run is at work in .*run; .* another folder"):
        run("steps=2", f"out={out}")
    assert all(path.is_file() for path in left)
    assert run("steps=2", f"out={out}").module.done_steps == 2
    assert not [path for path in out.rglob(".*")]


def test_sigterm_does_not_wait_and_promises_no_checkpoint_that_is_not_there(tmp_path, monkeypatch):
    sent = []

    def takes_a_minute(*_) -> None:
        threading.Timer(0.2, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGTERM))).start()
        time.sleep(60)

    monkeypatch.setattr(StepModule, "training_step", takes_a_minute)
    with pytest.raises(UserError, match="stopped by a signal at step 0; there is no checkpoint to go on from"):
        run("steps=2", f"out={tmp_path / 'run'}")
    assert time.monotonic() - sent[0] < 30


def test_ctrl_c_names_the_checkpoint(tmp_path, monkeypatch):
    original = StepModule.training_step

    def interrupted(self, *arguments):
        if self.done_steps == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(StepModule, "training_step", interrupted)
    out = tmp_path / "run"
    with pytest.raises(UserError, match=f"stopped by a signal at step 2; .* goes on from {out / 'last.ckpt'}"):
        run("steps=3", f"out={out}", "save_every=1")
    assert torch.load(out / "last.ckpt", weights_only=True)["progress"]["done_steps"] == 2
