"""The ablation: cells as the paper's table, keyed and resumable runs, summaries and verdicts on known numbers."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ablation as command
import pytest
import torch
from tqdm import tqdm

from uni_instruct_guidance.distill2d import ablation, ablation_report
from uni_instruct_guidance.distill2d.ablation import CELLS, Assessment, cell_config, plan, settings_of, with_starts
from uni_instruct_guidance.distill2d.config import DistillConfig, read_config
from uni_instruct_guidance.teachers.edm import build_network
from uni_instruct_guidance.teachers.edm.checkpoint import save_edm

ROOT = Path(__file__).resolve().parents[2]
JUDGE = str(ROOT / "load" / "judge" / "digits.safetensors")
CONFIG = ROOT / "configs" / "distill2d" / "ablation-digits.yaml"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "tiny.safetensors"
    torch.manual_seed(0)
    save_edm(path, build_network("tiny"))
    return path


def base(teacher, *overrides) -> DistillConfig:
    return read_config(DistillConfig, [CONFIG], [f"teacher={teacher}", "steps=2", "batch=4", "grid=4", *overrides])


def test_eleven_cells_of_table_4():
    assert len(CELLS) == 11
    assert [cell.paper for cell in CELLS.values() if not cell.gan] == [1.92, 1.88]
    assert sum(cell.start is not None for cell in CELLS.values()) == 3
    names = [cell.name for cell in with_starts(["fkl + gan, from rkl"])]
    assert names == ["rkl + gan", "fkl + gan, from rkl"]
    with pytest.raises(ValueError, match="cells='vsd' is not known; choose one of gan only, chi2"):
        with_starts(["vsd"])


def test_cells_change_nothing_but_divergence_gan_and_start(teacher, tmp_path):
    shared = base(teacher)
    plain = {name: settings_of(cell_config(shared, cell, 0, tmp_path), None, Assessment(weights=JUDGE))["config"]
             for name, cell in CELLS.items()}  # fmt: skip
    gan_only = plain["gan only"]
    assert gan_only["loss_scale"]["student"] == 0 and gan_only["method"]["auxiliary"]["gan"] > 0
    for name, cell in CELLS.items():
        config = plain[name]
        if cell.divergence:
            assert config["loss_scale"]["student"] == shared.loss_scale.student
            assert config["method"]["divergence"] == cell.divergence
        assert bool(config["method"]["auxiliary"]["gan"]) == cell.gan
        for key in config.keys() - {"method", "loss_scale"}:
            assert config[key] == gan_only[key], key
    started = cell_config(shared, CELLS["fkl + gan, from rkl"], 3, tmp_path)
    assert started.start == str(tmp_path / "rkl+gan" / "seed3" / "last.ckpt") and started.seed == 3


def test_runs_are_planned_after_what_they_start_from(teacher, tmp_path):
    runs = plan(base(teacher), list(CELLS.values()), [0, 1], tmp_path, Assessment(weights=JUDGE))
    assert len(runs) == 22 and len({str(run.folder) for run in runs}) == 22
    for run in runs:
        if run.cell.start:
            start = next(r for r in runs if (r.cell.name, r.seed) == (run.cell.start, run.seed))
            assert runs.index(start) < runs.index(run) and run.settings["start"] == start.settings


def test_settings_know_what_changes_a_result(teacher, tmp_path):
    cell, judged = CELLS["rkl"], Assessment(weights=JUDGE)

    def settings(*overrides, assessment=judged, out=tmp_path):
        return settings_of(cell_config(base(teacher, *overrides), cell, 0, out), None, assessment)

    same = settings()
    assert settings("log_every=7", out=tmp_path / "elsewhere") == same
    assert settings("lr=1e-4") != same and settings("steps=3") != same
    assert settings(assessment=Assessment(samples=20, weights=JUDGE)) != same
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(teacher.read_bytes())
    assert settings(f"teacher={copied}") == same
    torch.manual_seed(1)
    save_edm(copied, build_network("tiny"))
    assert settings(f"teacher={copied}") != same


def test_command_runs_resumes_and_reports(teacher, tmp_path, capsys, monkeypatch):
    """Three cells in a process of their own; then nothing is run again; then one changed setting is."""
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--config", str(CONFIG), "--cells", "gan only", "fkl + gan, from rkl"]
    arguments += ["--seeds", "0", "--jobs", "1", "--samples", "40"]
    arguments += [f"teacher={teacher}", "steps=2", "batch=4", "grid=4"]
    assert command.main(arguments) == 0
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out
    for name in ("| gan only | 1 |", "| rkl + gan | 1 |", "| fkl + gan, from rkl | 1 |", "| teacher, 35 evaluations"):
        assert name in table
    for name in ("ablation.png", "grids.png", "runs.csv"):
        assert (out / name).stat().st_size > 100
    content = json.loads((out / "results.json").read_text())
    assert len(content["runs"]) == 3 and all(run["samples"] == 40 for run in content["runs"])
    assert content["teacher"]["samples"] == 40 and set(content["teacher"]["floor"]) == {"pixel", "classifier"}

    started = []

    def fail(run):
        started.append(run.cell.name)
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(ablation, "carry_out", fail)
    monkeypatch.setattr(ablation, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    assert command.main(arguments) == 0
    assert (out / "table.md").read_text() == table and not started
    assert command.main([*arguments, "lr=1e-3"]) == 2
    assert started == ["gan only", "rkl + gan"]
    assert "no run finished; gan only, seed 0: RuntimeError: no memory" in capsys.readouterr().err


def test_a_failed_run_does_not_stop_the_others(teacher, tmp_path, monkeypatch):
    """The start of one cell fails: that cell is named with the reason, a third one is finished."""

    def some_fail(run):
        if run.cell.name == "rkl + gan":
            raise ValueError("not finite")
        return {"cell": run.cell.name, "seed": run.seed}

    monkeypatch.setattr(ablation, "carry_out", some_fail)
    monkeypatch.setattr(ablation, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    cells = with_starts(["gan only", "fkl + gan, from rkl"])
    runs = plan(base(teacher), cells, [0], tmp_path, Assessment(weights=JUDGE))
    with tqdm(total=6, disable=True) as bar:
        results, failures = ablation.run_all(runs, 2, bar)
    assert results == [{"cell": "gan only", "seed": 0}]
    assert failures == {
        ("rkl + gan", 0): "ValueError: not finite",
        ("fkl + gan, from rkl", 0): "its start failed: ValueError: not finite",
    }


def test_only_a_run_with_the_same_settings_goes_on(teacher, tmp_path, monkeypatch):
    """Cut short before its result: the same settings resume, others begin anew."""

    class Killed(Exception):
        pass

    resumed = []

    def killed(config, quiet):
        resumed.append(config.resume)
        raise Killed

    monkeypatch.setattr(ablation, "distill", killed)
    monkeypatch.setattr(ablation.torch, "set_num_threads", lambda count: None)
    for overrides in ((), (), ("steps=3",), ("steps=3",), ()):
        (run,) = plan(base(teacher, *overrides), [CELLS["rkl"]], [0], tmp_path, Assessment(weights=JUDGE))
        with pytest.raises(Killed):
            ablation.carry_out(run)
        assert run.result() is None
    assert resumed == [False, True, False, True, False]


def test_missing_teacher_is_one_line(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path), "--config", str(CONFIG), "teacher=none.safetensors"]) == 2
    assert capsys.readouterr().err.strip() == "error: teacher='none.safetensors' does not exist"


def made_up(cell, seed, pixel):
    return {"cell": cell, "seed": seed, "fd_pixel": pixel, "coverage": 1.0, "recall": 0.5, "precision": 0.5}


def test_summary_and_verdicts_on_known_numbers():
    teacher = {"fd_pixel": 2.0, "floor": {"pixel": 0.5}, "precision": 0.9, "recall": 0.9, "coverage": 1.0}
    results = [made_up("rkl", seed, value) for seed, value in enumerate((3.0, 4.0, 5.0))]
    results += [made_up("rkl + gan", seed, value) for seed, value in enumerate((1.0, 2.1, 2.9))]
    results += [made_up("fkl", seed, value) for seed, value in enumerate((1.0, 1.0, 1.0))]
    results += [made_up("fkl + gan", seed, value) for seed, value in enumerate((2.0, 2.5, 0.2))]
    rows = {row.cell: row for row in ablation_report.summarise(results, teacher)}
    assert list(rows) == ["rkl", "fkl", "rkl + gan", "fkl + gan"]
    assert rows["rkl"].figures["fd_pixel"] == (4.0, 1.0) and rows["rkl"].figures["ratio_pixel"] == (2.0, 0.5)
    table = ablation_report.markdown(list(rows.values()), teacher)
    assert "| rkl | 3 | 4.000 ± 1.000 | 2.000 ± 0.500 |" in table
    verdicts = {v.claim: v for v in ablation_report.judge_claims(results, "fd_pixel")}
    assert set(verdicts) == {"the GAN helps RKL", "the GAN helps FKL"}
    rkl, fkl = verdicts["the GAN helps RKL"], verdicts["the GAN helps FKL"]
    assert rkl.margin == pytest.approx(2.0) and rkl.verdict == "confirmed"  # leads 2.0, 1.9, 2.1
    assert rkl.error == pytest.approx(0.1 / math.sqrt(3)) and (rkl.agree, rkl.seeds) == (3, 3)
    assert fkl.verdict == "open" and fkl.agree == 1  # leads -1, -1.5, 0.8
    flipped = [{**r, "fd_pixel": -r["fd_pixel"]} for r in results]
    assert {v.claim: v.verdict for v in ablation_report.judge_claims(flipped, "fd_pixel")}[
        "the GAN helps RKL"
    ] == "refuted"
    # Three seeds: Student's t at 95 % is 4.30, so leads of 1.0, 2.0, 3.0 (2 ± 0.58) do not decide.
    wide = [made_up("rkl", seed, 1.0) for seed in range(3)]
    wide += [made_up("rkl + gan", seed, -float(seed)) for seed in range(3)]
    (verdict,) = ablation_report.judge_claims(wide, "fd_pixel")
    assert verdict.margin == 2.0 and verdict.agree == 3 and verdict.verdict == "open"
    single = ablation_report.judge_claims([r for r in results if r["seed"] == 0], "fd_pixel")
    assert all(v.verdict == "open" and math.isnan(v.error) for v in single)
