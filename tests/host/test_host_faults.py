"""What goes wrong outside the program: damage, foreign files, signals, a second run, no git. One line each, no loss."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from threestudio import runner
from threestudio.utils.callbacks import StepProgressBar
from threestudio.utils.errors import UserError
from threestudio.utils.guard import LOCK, only_run
from threestudio.utils.misc import load_checkpoint
from threestudio.utils.sealed import damage, load_sealed, save_sealed

CONTENT = {"state_dict": {"net": torch.arange(3000.0)}, "step": 7, "name": "toy"}


@pytest.fixture
def errors(capsys):
    """The lines that a user sees of the last command."""

    def lines() -> list[str]:
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]

    return lines


@pytest.fixture
def trained(run, workplace) -> Path:
    """Checkpoints of a finished toy run."""
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=4") == 0
    return workplace / "outputs" / "toy" / "run" / "ckpts"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(tmp_path):
    """Every bit of a sealed file either makes it unreadable or leaves what is read as it was."""
    path, seed = tmp_path / "a.ckpt", random.randrange(2**32)
    save_sealed(CONTENT, path)
    whole, draw, refused = path.read_bytes(), random.Random(seed), 0
    tail = [len(whole) - 1 - index for index in range(100)]  # end of the archive, and the seal
    for position in [*tail, *(draw.randrange(len(whole)) for _ in range(300))]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            read = load_sealed(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            same = torch.equal(read["state_dict"]["net"], CONTENT["state_dict"]["net"]) and read["step"] == 7
            assert same, f"byte {position} of {len(whole)}, seed {seed}"
    assert refused > 380


def test_a_checkpoint_without_a_seal_is_held_to_its_archives_check_sums(tmp_path):
    path = tmp_path / "upstream.ckpt"
    torch.save(CONTENT, path)
    assert damage(path) is None and load_sealed(path)["step"] == 7
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 4
    path.write_bytes(whole)
    with pytest.raises(UserError, match="check sum"):
        load_sealed(path)


def test_sealed_files_are_plain_torch_files(tmp_path):
    save_sealed(CONTENT, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["step"] == 7
    assert torch.load(tmp_path / "a.ckpt", weights_only=True, mmap=True)["name"] == "toy"


def test_a_full_disk_is_told_by_its_number_and_costs_nothing(tmp_path):
    """A real refusal by the system in the middle of the file; torch reports it without the number."""
    path = tmp_path / "a.ckpt"
    save_sealed(CONTENT, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError) as refused:
            save_sealed({"big": torch.zeros(10**6)}, path, keep_as="b.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.errno is not None
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_damaged_checkpoint_is_named_with_the_newest_whole_one(run, trained, errors):
    last = trained / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    by_age = sorted(trained.glob("epoch*.ckpt"), key=lambda path: path.stat().st_mtime)
    by_age[-1].write_bytes(by_age[-1].read_bytes()[:-200])  # the newest older one is damaged as well
    os.utime(by_age[-1])
    assert run("--config", "toy.yaml", "--train", f"resume={last}") == 2
    (line,) = errors()
    whole = line.rpartition("the newest whole one beside it is ")[2]
    assert f"cannot read checkpoint {last}" in line and Path(whole).name not in ("", by_age[-1].name)
    assert load_checkpoint(whole)["global_step"] < 4
    assert run("--config", "toy.yaml", "--train", f"resume={whole}") == 0


def test_the_last_checkpoint_and_the_one_before_it_are_kept(run, workplace):
    """Also of the steps after the last multiple of every_n_train_steps."""
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=5", "checkpoint.save_top_k=0") == 0
    ckpts = workplace / "outputs" / "toy" / "run" / "ckpts"
    steps = {path.name: load_checkpoint(path)["global_step"] for path in ckpts.iterdir()}
    assert steps == {"last.ckpt": 5, "before-last.ckpt": 4}


# --- files that are something else --------------------------------------------------------------------------------


def edited(entry: str, value) -> dict:
    """A run's own checkpoint with one entry changed by hand; None takes it away."""

    def write(path: Path, last: Path) -> None:
        checkpoint = torch.load(last, weights_only=True)
        checkpoint[entry] = value
        torch.save({key: item for key, item in checkpoint.items() if item is not None}, path)

    return write


FOREIGN = {
    "safetensors": lambda path, last: save_file({"net": torch.zeros(3)}, path),
    "bare tensor": lambda path, last: torch.save(torch.zeros(3), path),
    "list": lambda path, last: torch.save([1, 2], path),
    "bare state_dict": lambda path, last: torch.save({"net.0.weight": torch.zeros(3)}, path),
    "text": lambda path, last: path.write_text("not a checkpoint"),
    "empty": lambda path, last: path.touch(),
    "folder": lambda path, last: path.mkdir(),
    "no optimiser": edited("optimizer_states", None),
    "empty optimiser": edited("optimizer_states", [{}]),
    "no optimisers": edited("optimizer_states", []),
    "odd optimiser": edited("optimizer_states", [{"state": {0: {"step": "x"}}, "param_groups": [{"lr": 1}]}]),
    "step is a text": edited("global_step", "four"),
    "state_dict of numbers": edited("state_dict", {"net.0.weight": 3}),
    "loops of another kind": edited("loops", {"fit_loop": 3}),
    "version of nobody": edited("pytorch-lightning_version", "abc"),
    "schedulers of another kind": edited("lr_schedulers", [3]),
}


#: Of them, those that hold no weights either.
NO_WEIGHTS = ("safetensors", "bare tensor", "list", "bare state_dict", "state_dict of numbers", "text", "folder")


def test_a_checkpoint_of_another_kind_is_one_line(run, trained, errors):
    for index, (what, write) in enumerate(FOREIGN.items()):
        path = trained.parents[3] / f"foreign-{index}.ckpt"
        write(path, trained / "last.ckpt")
        keys = [f"resume={path}", *([f"system.weights={path}"] if what in NO_WEIGHTS else [])]
        for key in keys:
            assert run("--config", "toy.yaml", "--train", "tag=again", "trainer.max_steps=6", key) == 2, (what, key)
            (line,) = errors()
            assert path.name in line, (what, key, line)
            assert not (trained.parents[1] / "again").exists()


def test_weights_of_another_size_are_one_line(run, trained, errors):
    last = trained / "last.ckpt"
    assert run("--config", "toy.yaml", "--train", "tag=again", f"system.weights={last}", "system.width=5") == 2
    (line,) = errors()
    assert f"system.weights={last}" in line and "net.0" in line


# --- signals, and a second run ----------------------------------------------------------------------------------------


def test_ctrl_c_in_the_first_step_leaves_nothing_and_advises_nothing(run, workplace, errors):
    assert run("--config", "toy.yaml", "--train", "system.interrupt_at=0") == 2
    (line,) = errors()
    assert "stopped by a signal at step 0" in line and "resume=" not in line
    assert not (workplace / "outputs").exists()


def test_ctrl_c_later_names_a_file_that_is_there(run, workplace, errors):
    assert run("--config", "toy.yaml", "--train", "system.interrupt_at=5") == 2
    (line,) = errors()
    assert "stopped by a signal at step 5" in line
    last = line.rpartition("resume=")[2]
    assert load_checkpoint(last)["global_step"] == 4


def test_sigterm_does_not_wait_for_the_end_of_a_step(run, workplace, errors, monkeypatch):
    """The first step may hold minutes of teacher sampling. The signal comes from within it, however long the set-up."""
    before, sleep, sent = signal.getsignal(signal.SIGTERM), time.sleep, []

    def stopped_soon(seconds: float) -> None:
        if seconds == 60:  # the step's own, of no thread of a library
            stop = threading.Timer(0.2, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGTERM)))
            stop.start()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", stopped_soon)
    assert run("--config", "toy.yaml", "--train", "system.sleep_at=0") == 2
    assert time.monotonic() - sent[0] < 30
    assert "stopped by a signal at step 0" in errors()[0]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_run_in_a_folder_is_refused(run, trained, errors):
    """Not a file of the first one is touched; when it has ended, the next one may go on."""
    trial = trained.parent
    before = {path: path.stat().st_mtime_ns for path in trial.rglob("*") if path.name != LOCK and path.is_file()}
    with only_run(trial, "tag"):
        assert run("--config", "toy.yaml", "--train") == 2
    (line,) = errors()
    assert f"another run is at work in {trial.relative_to(Path.cwd())}" in line and "tag" in line
    assert before == {path: path.stat().st_mtime_ns for path in before}
    (trained / ".last.1.tmp.ckpt").write_bytes(b"cut short by a kill")
    assert run("--config", "toy.yaml", "--train") == 0
    assert not [path.name for path in trial.rglob(".*")]


def test_two_processes_cannot_hold_one_folder(tmp_path):
    """The lock is the system's: a killed holder leaves it free."""
    holder = os.fork()
    if holder == 0:
        try:
            with only_run(tmp_path, "tag"):
                (tmp_path / "held").touch()
                time.sleep(60)
        finally:
            os._exit(1)  # whatever happens: the tests after this one are the other process's
    while not (tmp_path / "held").is_file():
        time.sleep(0.01)
    with pytest.raises(UserError, match="another run is at work"), only_run(tmp_path, "tag"):
        pass
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with only_run(tmp_path, "tag"):
        pass


# --- code snapshot ----------------------------------------------------------------------------------------------------


def test_training_needs_no_git_and_copies_what_is_loaded(run, workplace, monkeypatch):
    """Outputs in the extension's own folder are not copied, however often one trains."""
    monkeypatch.setenv("PATH", "")
    (workplace / "custom" / "toy" / "never_imported.py").write_text("")
    for tag in ("a", "b", "c"):
        where = ("exp_root_dir=custom/toy/outputs", f"tag={tag}", "trainer.max_steps=2")
        assert run("--config", "toy.yaml", "--train", *where) == 0
        code = workplace / "custom" / "toy" / "outputs" / "toy" / tag / "code"
        copied = sorted(str(path.relative_to(code)) for path in code.rglob("*") if path.is_file())
        assert copied == ["configs/0-toy.yaml", "toy/__init__.py"]


# --- what a user sees -------------------------------------------------------------------------------------------------


def test_the_time_left_is_told_from_the_steps_after_the_first():
    """The first step held 100 seconds of sampling; the others take one each."""
    bar, trainer = StepProgressBar(), SimpleNamespace(max_steps=1000, global_step=0, callback_metrics={})
    bar.on_train_start(trainer, None)

    def step(seconds: float) -> None:
        trainer.global_step += 1
        bar._bar.start_t -= seconds
        bar._bar.last_print_t -= seconds
        bar.on_train_batch_end(trainer, None, None, None, 0)

    step(100.0)
    for _ in range(12):
        step(1.0)
    rate = bar._bar.format_dict["rate"]
    bar._close()
    assert rate == pytest.approx(1.0, rel=0.2)


def test_skipped_and_rejected_steps_are_in_the_bar():
    metrics = {"train/loss_fit": 0.5, "train/skipped_steps": 0.0, "train/rejected_steps": 3.0}
    shown = StepProgressBar._losses(SimpleNamespace(callback_metrics=metrics))
    assert shown == {"fit": "0.5", "rejected": "3"}


def test_an_extensions_own_user_error_is_one_line_at_any_step():
    from uni_instruct_guidance.core.errors import UserError as ExtensionsError

    assert runner._users_to_mend(ExtensionsError("stopped"), training=True)
    assert not runner._users_to_mend(ValueError("a bug"), training=True)
