"""launch.py from the command line's point of view: results, resuming, and one clear line for each mistake."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

HERE = Path(__file__).parent


def error_line(capsys) -> str:
    """The one line a user sees; anything else on the way is the log."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def weights(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def same(a, b) -> bool:
    """Bitwise equality of nested states."""
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_training_leaves_the_trial_folder_of_the_contract(run, workplace, capfd):
    assert run("--config", "toy.yaml", "--train", "system.loss.lambda_fit=1.0") == 0
    trial = workplace / "outputs" / "toy" / "run"
    expected = ["ckpts/last.ckpt", "configs/raw.yaml", "configs/parsed.yaml", "cmd.txt", "save/it8-test/0.png"]
    expected += ["save/it8-test.mp4", "save/it3-0.png", "save/it6-0.png"]
    for name in expected:
        assert (trial / name).is_file(), name
    assert list(trial.glob("csv_logs/version_0/metrics.csv")) and list(trial.glob("tb_logs/version_0/events*"))
    assert OmegaConf.load(trial / "configs" / "parsed.yaml").system.loss.lambda_fit == 1.0
    assert (trial / "configs" / "raw.yaml").read_text() == (workplace / "toy.yaml").read_text()
    assert not [path for path in trial.rglob("*") if ".tmp" in path.name]
    log = capfd.readouterr().err
    for said in ("host: built-in threestudio 0.2.3", "device: cpu", "backends:", "teacher: none", "extensions: toy"):
        assert said in log
    assert "training: 100%" in log and "fit=" in log


def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(run, workplace):
    assert run("--config", "toy.yaml", "--train", "tag=whole") == 0
    kill_at = random.Random(os.urandom(4)).randrange(2, 8)
    code = "import sys, launch; from pathlib import Path; launch.ROOT = Path.cwd(); sys.exit(launch.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--gpu", "cpu", "--config", "toy.yaml", "--train", "tag=killed"]
    paths = [str(HERE.parents[1]), str(HERE.parents[1] / "portable")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    env.pop("PL_GLOBAL_SEED")
    killed = subprocess.run([*command, f"system.kill_at={kill_at}"], env=env, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    trial = workplace / "outputs" / "toy" / "killed"
    assert weights(trial / "ckpts" / "last.ckpt")["global_step"] == kill_at // 2 * 2
    resume = ("--config", str(trial / "configs" / "parsed.yaml"), f"resume={trial / 'ckpts' / 'last.ckpt'}")
    assert run(*resume, "--train", "system.kill_at=-1") == 0
    whole, resumed = weights(workplace / "outputs/toy/whole/ckpts/last.ckpt"), weights(trial / "ckpts" / "last.ckpt")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(whole[part], resumed[part]), f"{part} differs after a kill at step {kill_at}"
    assert [path.name for path in (trial / "ckpts").glob("last*")] == ["last.ckpt"]
    assert len((trial / "cmd.txt").read_text().splitlines()) == 2


def test_test_and_validate_know_the_step_of_their_checkpoint(run, workplace):
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=2") == 0
    trial = workplace / "outputs" / "toy" / "run"
    resume = f"resume={trial / 'ckpts' / 'last.ckpt'}"
    shutil.rmtree(trial / "save")
    assert run("--config", str(trial / "configs" / "parsed.yaml"), "--test", resume) == 0
    assert run("--config", str(trial / "configs" / "parsed.yaml"), "--validate", resume) == 0
    assert (trial / "save" / "it2-test.mp4").is_file() and (trial / "save" / "it2-0.png").is_file()


def test_another_seed_gives_another_result(run, workplace):
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=2", "tag=a") == 0
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=2", "tag=b", "seed=4") == 0
    a, b = (weights(workplace / f"outputs/toy/{tag}/ckpts/last.ckpt")["state_dict"] for tag in "ab")
    assert not same(a, b)


def test_non_finite_steps_change_nothing_and_are_counted(run, workplace, capfd):
    bad = ("system.non_finite_from=2", "system.non_finite_until=4", "checkpoint.every_n_train_steps=1")
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=5", *bad) == 0
    ckpts = workplace / "outputs" / "toy" / "run" / "ckpts"
    by_step = {c["global_step"]: c for c in map(weights, ckpts.glob("epoch*.ckpt"))}
    nets = {s: {k: v for k, v in c["state_dict"].items() if k.startswith("net")} for s, c in by_step.items()}
    assert same(nets[2], nets[4]) and not same(nets[4], nets[5]) and not same(nets[1], nets[2])
    assert by_step[5]["skipped_steps"] == [2, 0]
    assert "skipped=2" in capfd.readouterr().err


def test_a_run_that_stays_non_finite_is_stopped(run, capsys):
    bad = ("system.non_finite_from=2", "system.non_finite_until=99", "system.max_skipped_steps=3")
    assert run("--config", "toy.yaml", "--train", *bad) == 2
    assert "stopped at step 4: gradients were not finite in 3 consecutive steps" in error_line(capsys)


LONG = "x" * 500
MISTAKES = {
    "unknown top-level key": (["sytem={}"], "no key sytem (did you mean system?)"),
    "unknown system key": (["system.widht=3"], "ToySystem has no key widht (did you mean width?); its keys:"),
    "unknown data key": (["data.hight=3"], "no key hight (did you mean height?)"),
    "wrong type": (["system.width=wide"], "system.width: Value 'wide' of type 'str' could not be converted"),
    "wrong top-level type": (["seed=many"], "seed"),
    "unknown system": (["system_type=toy-sistem"], "unknown name 'toy-sistem'; did you mean toy-system"),
    "unknown data module": (["data_type=cameras"], "unknown name 'cameras'"),
    "no system": (["system_type="], "system_type is missing"),
    "resolution 0": (["data.height=0"], "data.height must be a whole number of at least 1, got 0"),
    "unknown optimiser": (["system.optimizer.name=Adm"], "unknown system.optimizer.name 'Adm'; choices:"),
    "unknown optimiser argument": (["system.optimizer.args.lrate=1"], "system.optimizer.args has no argument lrate"),
    "unknown module of the optimiser": (["system.optimizer.params={nett: {lr: 1}}"], "params.nett: no such module"),
    "malformed schedule": (["system.loss.lambda_fit=[1,2]"], "system.loss.lambda_fit=[1, 2]: a schedule is"),
    "unknown trainer key": (["trainer.max_stepss=3"], "trainer has no key max_stepss; its keys:"),
    "unknown checkpoint key": (["checkpoint.evry=3"], "checkpoint has no key evry; its keys:"),
    "missing checkpoint": (["resume=gone.ckpt"], "no such checkpoint: gone.ckpt"),
    "truncated checkpoint": (["resume=cut.ckpt"], "cannot read checkpoint cut.ckpt: it is truncated"),
    "missing weights": (["system.weights=gone.ckpt"], "no such checkpoint: gone.ckpt"),
    "dangling reference": (["tag=${system.gone}"], "system.gone"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_one_line(what, run, workplace, capsys):
    overrides, message = MISTAKES[what]
    torch.save({"state_dict": {"net": torch.zeros(9999)}}, "whole.ckpt")
    Path("cut.ckpt").write_bytes(Path("whole.ckpt").read_bytes()[:20000])
    assert run("--config", "toy.yaml", "--train", *overrides) == 2
    assert message in error_line(capsys)
    assert not (workplace / "outputs").exists(), "nothing half-written is left"


def test_missing_and_malformed_files_are_one_line(run, workplace, capsys):
    assert run("--config", "gone.yaml", "--train") == 2
    assert "no such configuration file: gone.yaml" in error_line(capsys)
    Path("bad.yaml").write_text("a: [1,\nb: 2")
    assert run("--config", "bad.yaml", "--train") == 2
    assert "bad.yaml is not valid YAML" in error_line(capsys)


def test_a_broken_extension_stops_the_run(run, workplace, capsys):
    (workplace / "custom" / "broken").mkdir()
    (workplace / "custom" / "broken" / "__init__.py").write_text("import no_such_package")
    assert run("--config", "toy.yaml", "--train") == 2
    assert "broken cannot be imported: ModuleNotFoundError: No module named 'no_such_package'" in error_line(capsys)
    (workplace / "custom" / "broken").rename(workplace / "custom" / "broken.disabled")
    assert run("--config", "toy.yaml", "--validate") == 0


def test_an_unwritable_output_folder_is_one_line(run, workplace, capsys):
    Path("outputs").write_text("a file where the folder should be")
    assert run("--config", "toy.yaml", "--train") == 2
    assert "cannot make the output folder" in error_line(capsys)


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_whole(run, workplace, capsys, monkeypatch):
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=2") == 0
    last = workplace / "outputs" / "toy" / "run" / "ckpts" / "last.ckpt"
    before = last.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=8", f"resume={last}") == 2
    assert "No space left on device" in error_line(capsys)
    assert last.read_bytes() == before
    assert not [path for path in last.parent.iterdir() if ".tmp" in path.name]


def test_a_checkpoint_of_another_shape_is_one_line(run, workplace, capsys):
    assert run("--config", "toy.yaml", "--train", "trainer.max_steps=2") == 0
    last = workplace / "outputs" / "toy" / "run" / "ckpts" / "last.ckpt"
    capsys.readouterr()
    assert run("--config", "toy.yaml", "--train", "system.width=5", f"resume={last}") == 2
    assert "the checkpoint does not fit this configuration; differing: net.0.bias" in error_line(capsys)


def test_a_bug_keeps_its_traceback(run, workplace):
    """Only what a user can mend is shortened: an error in the middle of training (here at step 2) is a bug."""
    module = workplace / "custom" / "toy" / "__init__.py"
    module.write_text(
        module.read_text().replace(
            '        return {"loss": loss}', '        {0: 0, 1: 0}[step]\n        return {"loss": loss}'
        )
    )
    with pytest.raises(KeyError):
        run("--config", "toy.yaml", "--train")


def test_unknown_arguments_are_refused(run, capsys):
    for word in ("--trian", "max_steps"):
        with pytest.raises(SystemExit) as stop:
            run("--config", "toy.yaml", "--train", word)
        assert stop.value.code == 2
        assert "overrides are written key=value" in capsys.readouterr().err


@pytest.mark.parametrize("gpu", ["abc", "-1", "0,x", "1.5", ""])
def test_gpus_are_numbers_or_cpu(gpu, run, workplace, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--config", "toy.yaml", "--train", f"--gpu={gpu}")
    assert stop.value.code == 2 and not (workplace / "outputs").exists()
    assert f"argument --gpu: {gpu!r} must be GPU numbers as 0 or 0,1, or cpu" in capsys.readouterr().err


def test_a_checkout_of_threestudio_in_the_working_folder_is_the_host(workplace):
    """In a process of its own, for the built-in host is closed there; threestudio's requirements are excused."""
    (workplace / "threestudio").mkdir()
    (workplace / "threestudio" / "__init__.py").touch()
    (workplace / "custom" / "uni_instruct_guidance").mkdir()
    (workplace / "launch.py").write_text("import sys, pathlib\npathlib.Path('said').write_text(' '.join(sys.argv[1:]))")
    (workplace / "c.yaml").write_text("name: c\n")
    code = (
        "import os, sys, launch; from uni_instruct_3d.upstream import packages; packages.missing_packages = lambda: [];"
        f"os.chdir({str(workplace)!r}); sys.exit(launch.main(sys.argv[1:]))"
    )
    words = ["--config", "c.yaml", "--train", "--gpu", "1", "a.b=1", "--host", "threestudio"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (workplace / "said").read_text() == f"--config {workplace / 'c.yaml'} --train --gpu 1 a.b=1"
    assert "host: threestudio in" in done.stderr


def test_a_missing_threestudio_is_one_line(run, capsys):
    assert run("--config", "toy.yaml", "--train", "--host", "threestudio") == 2
    assert "--host threestudio, but there is none" in error_line(capsys)


def test_later_configurations_override_earlier_ones(run, workplace):
    """An overlay lists only what differs; the trial keeps one merged file."""
    (workplace / "overlay.yaml").write_text("trainer: {max_steps: 2}\nsystem: {loss: {lambda_fit: 3.0}}\n")
    assert run("--config", "toy.yaml", "--config", str(workplace / "overlay.yaml"), "--train", "tag=overlaid") == 0
    configs = workplace / "outputs" / "toy" / "overlaid" / "configs"
    for name in ("raw.yaml", "parsed.yaml"):
        cfg = OmegaConf.load(configs / name)
        assert cfg.trainer.max_steps == 2 and cfg.system.loss.lambda_fit == 3.0


def test_typecheck_is_refused_by_the_builtin_host(run, capsys):
    assert run("--config", "toy.yaml", "--train", "--typecheck") == 2
    assert "--typecheck is threestudio's own" in error_line(capsys)


def test_a_run_stopped_by_a_signal_does_not_count_as_finished(workplace):
    """SIGTERM in the middle of training: non-zero exit, one line, and no turntable of half a run."""
    code = "import sys, launch; from pathlib import Path; launch.ROOT = Path.cwd(); sys.exit(launch.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--gpu", "cpu", "--config", "toy.yaml", "--train", "tag=stopped"]
    paths = [str(HERE.parents[1]), str(HERE.parents[1] / "portable")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    env.pop("PL_GLOBAL_SEED", None)
    with open(workplace / "said", "w") as said:
        process = subprocess.Popen([*command, "trainer.max_steps=100000"], cwd=workplace, env=env, stderr=said)
    trial = workplace / "outputs" / "toy" / "stopped"
    deadline = time.monotonic() + 60
    while not (trial / "ckpts" / "last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=60) != 0, (workplace / "said").read_text()[-500:]
    assert not list((trial / "save").glob("*-test.mp4"))
