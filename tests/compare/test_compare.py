"""The whole command: run, fail, resume, tables, page."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import compare
import pytest

from uni_instruct_3d.comparison import stages
from uni_instruct_3d.comparison.cell import CellRunner, read_result
from uni_instruct_3d.comparison.matrix import cells, parse_columns
from uni_instruct_3d.comparison.stages import Cost, StageError, run_stage


def setup(argv: list[str], labels: list[str]):
    """Plan, cells and runner of a command line, to be used in this process."""
    args = compare.parse_arguments(["--methods", *labels, *argv])
    plan, (prompts, _) = compare.make_plan(args), compare.read_prompts(args.prompts)
    columns = parse_columns(labels)
    matrix = cells(columns, prompts, args.seeds)
    return plan, matrix, CellRunner(plan, compare.teacher_digests(plan, columns), tuple(prompts))


def test_two_methods_and_one_that_fails(arguments, tmp_path, capsys, in_this_process):
    """Workers of their own; the wrong option fails its column alone; a second call runs nothing but that."""
    argv = ["--methods", "sds", "vsd:kapa=1", *arguments, "--backbones", "nerf", "--preset", "compare-cpu"]
    assert compare.main(argv) == 1
    said = capsys.readouterr()
    assert "failed: vsd:kapa=1 · a red mug · seed 0: nerf: " in said.err and "kapa" in said.err
    assert "| SDS (DreamFusion) | 1 |" in said.out
    out = tmp_path / "out"
    rows = list(csv.DictReader((out / "comparison.csv").open()))
    assert [row["status"] for row in rows] == ["done", "failed"] and 0 <= float(rows[0]["class"]) <= 1
    facts = json.loads((out / "comparison.json").read_text())
    cost = facts["cells"][0]["cost"]["nerf"]
    # two steps of one view each: guidance asks the teacher twice a view, SDS has no fake score
    assert (cost["steps"], cost["teacher_images"], cost["vae_images"]) == (2, 4, 2) and "fake_images" not in cost
    page = (out / "comparison.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and "kapa" in page
    in_this_process()
    assert compare.main(argv) == 1
    assert "1 of 2 runs are finished; 1 to go" in capsys.readouterr().err
    assert compare.main([*argv, "--table-only"]) == 1
    assert "runs are finished" not in capsys.readouterr().err


def test_killed_between_stages_goes_on(arguments, monkeypatch):
    """A cell that dies after its NeRF keeps it: the second run trains what is left, and gives all scores."""
    plan, (cell,), runner = setup(arguments, ["vsd"])
    trained = []

    def die_after_nerf(stage, *rest):
        if stage.name == "geometry" and "geometry" not in trained:
            trained.append("geometry")
            raise KeyboardInterrupt
        trained.append(stage.name)
        return run_stage(stage, *rest)

    monkeypatch.setattr(stages, "run_stage", die_after_nerf)
    with pytest.raises(KeyboardInterrupt):
        runner(cell)
    assert read_result(plan, cell, runner.teacher(cell)) is None
    nerf = plan.out / cell.folder / "nerf" / "cost.json"
    written = nerf.stat().st_mtime_ns
    # a fresh worker has to find its way in what another process trained
    assert compare.main(["--methods", "vsd", *arguments]) == 0
    result = read_result(plan, cell, runner.teacher(cell))
    assert nerf.stat().st_mtime_ns == written and trained == ["nerf", "geometry"]
    measured = {"clip_x100", "class", "color", "pattern", "view", "janus", "iou", "chamfer", "f_score"}
    assert measured <= result["scores"]["mesh"].keys()
    assert "chamfer" not in result["scores"]["nerf"]
    assert result["cost"]["texture"]["fake_images"] == 4  # two steps: one answer and one lesson each
    assert read_result(plan, cell, "another teacher") is None
    assert not (plan.out / cell.folder / "texture" / "ckpts").exists()


def test_counts_go_on_after_a_resume(arguments):
    """A stage cut short after its first step: the second process counts from there."""
    plan, (cell,), _ = setup(arguments, ["sds"])
    folder, stage = plan.out / cell.folder, plan.stages[0]
    short = replace(plan, overrides=(*plan.overrides, "trainer.max_steps=1"))
    first = run_stage(stage, cell, short, folder)
    (folder / "nerf" / "cost.json").unlink()
    assert first["steps"] == 1
    both = run_stage(stage, cell, plan, folder)
    assert both["steps"] == 2 and both["teacher_images"] == 4 and both["seconds"] > first["seconds"]


def test_a_stage_that_cannot_start_says_why(arguments):
    plan, (cell,), _ = setup([*arguments, "system.guidance.method=dream"], ["sds"])
    with pytest.raises(StageError, match="nerf: .*'dream'"):
        run_stage(plan.stages[0], cell, plan, plan.out / cell.folder)


def test_cost_reads_rows_of_any_call():
    """Positional and keyword calls count alike."""
    cost = Cost()
    count = cost._counter("teacher")
    count(None, ([1, 2, 3],), {})
    count(None, (), {"sample": [1, 2]})
    assert cost.counts == {"teacher_calls": 2, "teacher_images": 5}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--methods", "dream"], "'dream' is no overlay"),
        (["--methods", "sds", "--baseline", "vsd"], "--baseline 'vsd' is none of --methods: sds"),
        (["--methods", "sds", "--prompts", "none.txt"], "prompt list none.txt"),
        (["--methods", "sds", "--protocol", "orbit"], "'orbit'"),
        (["--methods", "sds", "--clip", "ViT-X"], "'ViT-X' is no open-clip architecture"),
    ],
)
def test_mistakes_are_one_line(argv, message, tmp_path, capsys):
    assert compare.main([*argv, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--methods", "sds", "--jobs", "0"], "argument --jobs: 0 must be at least 1"),
        (["--methods", "sds", "--engine", "slurm"], "invalid choice: 'slurm'"),
        (["--methods", "sds", "--", "maxsteps"], "'maxsteps' is not of the form key=value"),
    ],
)
def test_mistakes_on_the_command_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        compare.main(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_nothing_finished_yet(arguments, capsys):
    assert compare.main(["--methods", "sds", *arguments, "--table-only"]) == 1
    assert "no run is finished yet" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_new_teacher_makes_results_old(arguments, tiny_teacher, tmp_path, part):
    """Whichever of its networks was trained again."""
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, teacher)
    argv = [*arguments, f"system.prompt_processor.pretrained_model_name_or_path={teacher}"]
    before = setup(argv, ["sds"])[2].teachers
    assert setup(argv, ["sds"])[2].teachers == before
    (weights,) = (teacher / part).glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert setup(argv, ["sds"])[2].teachers != before


def test_ground_truth_is_right_by_every_measure(arguments, tmp_path, capsys, in_this_process):
    """Its column bounds what others can reach, so the measures must find nothing wrong with it; elsewhere than in the
    built-in world there is none."""
    in_this_process()
    (tmp_path / "prompts.txt").write_text("a blue chair\nan astronaut\n")
    assert compare.main(["--methods", "ground_truth", *arguments, "--clip", "local-dir:load/clip/shapes"]) == 1
    assert "failed: ground_truth · an astronaut · seed 0: ground_truth: prompt 'an astronaut' names no object" in (
        capsys.readouterr().err
    )
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (chair,) = [cell for cell in facts["cells"] if cell["prompt"] == "a blue chair"]
    assert chair["cost"] == {}
    for backbone in ("nerf", "mesh"):
        scores = chair["scores"][backbone]
        assert {scores[name] for name in ("class", "color", "pattern", "view", "r_precision")} == {1.0}
        assert scores["janus"] == 0 and scores["iou"] > 0.85  # the nearest of eight others of its class
    # marching cubes of other proportions: hundredths of an object of size one
    assert scores["f_score"] > 0.95 and scores["chamfer"] < 0.02


@pytest.mark.slow
def test_the_matrix_on_a_ray_cluster(arguments, tmp_path, cluster, capsys):
    """Two machines joined by RAY_ADDRESS, an NeRF for each of two methods, the same files as from this machine."""
    argv = ["--methods", "sds", "vsd", *arguments, "--backbones", "nerf", "--engine", "ray"]
    assert compare.main(argv) == 0, capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    assert [(row["method"], row["status"]) for row in rows] == [("sds", "done"), ("vsd", "done")]
    capsys.readouterr()
    assert compare.main([*argv, "--engine", "local"]) == 0
    assert " to go" not in capsys.readouterr().err
