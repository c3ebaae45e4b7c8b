"""The laboratory: targets, metrics on known samples, a run end to end, a calibrated discriminator."""

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from uni_instruct_3d.lab2d.causes import critic_at_the_start, flow
from uni_instruct_3d.lab2d.experiments import default_experiments, kappa_sweep, plan, run_job
from uni_instruct_3d.lab2d.metrics import assess
from uni_instruct_3d.lab2d.report import kappa_plot, picture_grid, table
from uni_instruct_3d.lab2d.targets import TARGETS, Mixture
from uni_instruct_3d.lab2d.training import LabConfig, Trainer
from uni_instruct_guidance.core import METHODS, calibration, get_method

TINY = LabConfig(steps=4, batch=32, width=8, pretrain=2)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_normalised_and_scored(name):
    target = TARGETS[name]()
    samples = target.sample(50_000)
    assert samples.var(0).mean().item() == pytest.approx(1.0, abs=0.05)
    x = torch.randn(64, 2, dtype=torch.float64).requires_grad_()
    target64 = Mixture(name, target.means.double(), target.std)
    alpha, sigma = torch.full((64,), 0.7, dtype=torch.float64), torch.full((64,), 0.4, dtype=torch.float64)
    (score,) = torch.autograd.grad(target64.log_density(x, alpha, sigma).sum(), x)
    tweedie = (x + sigma[:, None] ** 2 * score) / alpha[:, None]
    torch.testing.assert_close(target64.denoise(x, alpha, sigma), tweedie)
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    grid, ones = torch.cartesian_prod(axis, axis), torch.ones(401**2, dtype=torch.float64)
    mass = target64.log_density(grid, ones, 0.1 * ones).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=1e-6)


def test_metrics_on_known_samples():
    target = TARGETS["grid25"]()
    perfect = assess(target.sample(20_000), target)
    # 3 stds hold 1 − e^(−4.5) = 98.9 % of a Gaussian in the plane.
    assert perfect.modes == 25 and perfect.precision == pytest.approx(0.989, abs=0.003)
    assert max(perfect.forward_kl, perfect.reverse_kl, perfect.sliced_w1) < 0.03
    uniform = assess(torch.rand(20_000, 2) * 3 - 1.5, target)
    assert uniform.modes == 0  # a uniform sheet over the grid covers nothing
    one = assess(target.means[12] + target.std * torch.randn(5000, 2), target)
    assert one.modes == 1 and one.forward_kl > 6
    assert one.reverse_kl == pytest.approx(math.log(25), abs=0.05)  # KL(one of 25 ‖ all)
    shifted = assess(target.sample(20_000) + torch.tensor([0.3, 0.0]), target)
    assert shifted.sliced_w1 == pytest.approx(0.3 * 2 / torch.pi, abs=0.02)  # mean |cos| over directions
    broken = assess(torch.full((100, 2), torch.nan), target)
    assert broken.modes == 0 and broken.precision == 0 and broken.reverse_kl > 10


def test_every_row_trains_and_is_tabulated(tmp_path):
    experiments = default_experiments(TINY.steps, "epsilon")
    assert {e.method.name for e in experiments} <= set(METHODS) and len(experiments) == 37
    results = [r for job in plan(experiments, ["ring8"], TINY, [0]) for r in run_job(job)]
    assert {r.label for r in results} == {e.label for e in experiments}
    assert table(results).count("\n") == 2 + len(results)
    picture_grid(tmp_path / "ring8.png", results)
    assert (tmp_path / "ring8.png").stat().st_size > 1000


def test_replicas_are_independent():
    """A method trained in a stack is the method trained alone: same start, same noise."""
    target, methods = TARGETS["ring8"](), [get_method("diff_instruct"), get_method("sid")]
    together = Trainer(methods, target, TINY, seed=1).run().sample(50)
    alone = Trainer(methods[1:], target, TINY, seed=1).run().sample(50)
    torch.testing.assert_close(together[1], alone[0], rtol=1e-4, atol=1e-5)


def test_kappa_sweep_plots(tmp_path):
    experiments = kappa_sweep()[::7]
    results = [r for job in plan(experiments, ["grid25"], TINY, [0]) for r in run_job(job)]
    everything = [type(results[0])("grid25", e.label, 0, results[0].quality, 1.0, results[0].samples)
                  for e in kappa_sweep()]  # fmt: skip
    kappa_plot(tmp_path / "kappa.png", everything)
    assert (tmp_path / "kappa.png").exists()


def test_discriminator_learns_the_ratio_of_two_gaussians():
    """Untrained generators are N(0, I); the target is one Gaussian: log r is known at every noise level."""
    target = Mixture("one", torch.tensor([[0.6, -0.3]]), 0.8)
    trainer = Trainer([get_method("uni_instruct")], target, LabConfig(batch=512, width=64), seed=0)
    trainer.train_critic(1500)
    x0 = torch.cat([target.sample(4000), torch.randn(4000, 2)])
    drawn = trainer.sampler.sample(trainer.process, 8000)
    x_t = x0 + drawn.sigma[:, None] * torch.randn_like(x0)
    student = Mixture("student", torch.zeros(1, 2), 1.0)
    true = target.log_density(x_t, drawn.alpha, drawn.sigma) - student.log_density(x_t, drawn.alpha, drawn.sigma)
    with torch.no_grad():
        logit = trainer.critic.logit(x_t[None], drawn.alpha[None], drawn.sigma[None])[0]
    report = calibration(logit, true)
    assert report.mean_abs_error < 0.1
    assert report.expected_calibration_error < 0.02


def test_an_untrained_critic_turns_the_exact_form_round():
    """The cause of Jensen-Shannon's divergence: the ratio, not the scores; by parts keeps its direction."""
    exact, by_parts = (critic_at_the_start("js", form, 100, count=4096) for form in ("exact", "by_parts"))
    assert exact.slope < 0.1 and exact.gradient_slope < 0.2
    assert exact.cosine < 0 and exact.size > 10 and exact.cosine_scores > 0.95
    assert by_parts.cosine > 0.5


@pytest.mark.slow
def test_by_parts_survives_a_ratio_that_is_off():
    assert flow("js", "by_parts", factor=0.4, clamp=None, start=2.0, steps=200) < 0.1
    assert flow("js", "exact", factor=0.4, clamp=None, start=2.0, steps=200) > 2
    assert flow("js", "exact", clamp=None, start=2.0, steps=200) < 0.1


@pytest.mark.slow
def test_forward_and_jeffreys_kl_cover_the_grid():
    """Learned ratio, 25 modes: forward KL alone, Jeffreys KL with its adversarial term."""
    config, wanted = LabConfig(), ("uni_fkl_paper", "uni_jkl_paper_gan")
    experiments = [e for e in default_experiments(config.steps, "epsilon") if e.label in wanted]
    (job,) = plan(experiments, ["grid25"], config, [0])
    assert all(result.quality.modes >= 24 for result in run_job(job))


def load_script():
    path = Path(__file__).parents[2] / "scripts" / "lab.py"
    spec = importlib.util.spec_from_file_location("lab_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_command_line(tmp_path, capsys):
    script = load_script()
    assert script.main(["--methods", "nothing"]) == 2
    assert re.search(r"error: --methods: 'nothing' is not known.*uni_fkl_paper", capsys.readouterr().err)
    options = ["--steps", "20", "--batch", "16", "--workers", "1", "--targets", "ring8", "--out", str(tmp_path)]
    script.main(["--methods", "sid", "uni_fkl_paper", *options])
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["method"] for row in rows] == ["sid", "uni_fkl_paper"]
    assert "| ring8 | sid |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("finished", [1, 0])
def test_ctrl_c_keeps_what_is_finished_and_says_so_in_one_line(finished, tmp_path, monkeypatch, capsys):
    script = load_script()

    def interrupted(jobs, workers, progress):
        for job in jobs[:finished]:
            yield run_job(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "run_all", interrupted)
    monkeypatch.setattr(script, "LabConfig", lambda **_: TINY)
    arguments = ["--methods", "sid", "sim", "--targets", "ring8", "--seeds", "3", "--out", str(tmp_path)]
    assert script.main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "stopped by a signal" in lines[0]
    if finished:
        assert f"what is finished is in {tmp_path}" in lines[0]
        assert json.loads((tmp_path / "results.json").read_text()) and (tmp_path / "table.md").is_file()
    else:
        assert "nothing was finished" in lines[0] and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_every_process_at_once(tmp_path):
    """As a terminal sends it: to the whole group."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "scripts/lab.py", "--methods", "sid", "--steps", "100000", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(60)  # processes start, import torch and train
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and "Traceback" not in said and said.count("error: stopped by a signal") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
