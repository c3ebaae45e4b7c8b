"""The one command: arguments, folder names, and the whole chain with a tiny teacher."""

from __future__ import annotations

import pytest
import trimesh

from uni_instruct_3d.pipeline import cli, stages

# Small enough for a test; keys that a stage does not have would be refused, so these are common to all three.
SMALL = [
    "trainer.max_steps=3", "trainer.val_check_interval=3", "checkpoint.every_n_train_steps=3", "data.width=8",
    "data.height=8", "data.eval_width=16", "data.eval_height=16", "data.n_val_views=1", "data.n_test_views=2",
    "system.guidance.bank.size=1", "system.guidance.bank.steps=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red mug", "a-red-mug"),
        ("A thorny rose.", "a-thorny-rose"),
        ("../../etc/passwd", "etc-passwd"),
        ("two\nlines / and \\ slashes", "two-lines-and-slashes"),
    ],
)
def test_folder_names_are_safe(prompt, name):
    assert stages.slug(prompt) == name


def test_long_and_wordless_prompts_keep_apart():
    long = [stages.slug("very " * 100 + end) for end in ("big", "small")]
    assert len(set(long)) == 2 and all(len(name) <= 70 for name in long)
    assert stages.slug("花瓶") != stages.slug("杯子")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([" "], "prompt is empty"),
        ([], "prompt is empty"),
        (["a mug", "--seed", "-1"], "seed=-1 must be a whole number"),
        (["a mug", "--gpu", "abc"], "device='abc' must be auto, cpu"),
        (["a mug", "--quality", "fast", "--config-set", "sd21"], "quality fast is not made for sd21; choices: normal"),
        (["a mug", "--stages", "nerf,paint"], "stages paint; choices: nerf, geometry, texture"),
        (["a mug", "--method", "dream"], "invalid choice: 'dream'"),
        (["a mug", "--config-set", "sdxl"], "invalid choice: 'sdxl'"),
        (["a mug", "maxsteps"], "'maxsteps' is not of the form key=value"),
    ],
)
def test_mistakes_are_named(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_stage_needs_the_one_before(tmp_path, capsys):
    assert cli.main(["a mug", "--stages", "texture", "--out", str(tmp_path)]) == 2
    assert "texture needs geometry first" in capsys.readouterr().err


def test_prompt_to_files_and_again(tiny_teacher, tmp_path, capfd):
    """NeRF, mesh, texture, export, report; a second call finds everything done; a failing stage says so."""
    argv = ["a red mug", "--out", str(tmp_path), "--gpu", "cpu", "--method", "vsd"]
    argv += [f"system.prompt_processor.pretrained_model_name_or_path={tiny_teacher}", *SMALL]
    assert cli.main(argv) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("a-red-mug-vsd-")
    assert all((folder / stage / "done").is_file() for stage in ("nerf", "geometry", "texture"))
    mesh = trimesh.load(folder / "model.glb", force="mesh")
    assert len(mesh.faces) > 100 and mesh.visual.material.baseColorTexture is not None
    assert all((folder / name).is_file() for name in ("model.obj", "model.mtl", "turntable.mp4", "preview.png"))
    assert (folder / "report.html").stat().st_size > 10_000
    capfd.readouterr()
    before = {stage: (folder / stage / "ckpts" / "last.ckpt").stat().st_mtime for stage in ("nerf", "texture")}
    assert cli.main(argv) == 0
    said = capfd.readouterr()
    assert said.err.count("is finished") == 3 and "report.html" in said.out
    assert before == {stage: (folder / stage / "ckpts" / "last.ckpt").stat().st_mtime for stage in before}
    assert cli.main([*argv, "--name", folder.name, "--seed", "1"]) == 2
    assert "holds a run of other settings (seed: 0 -> 1)" in capfd.readouterr().err
    assert cli.main([*argv, "--name", "other", "system.nonsense=1"]) == 2
    assert "nonsense" in capfd.readouterr().err and not (tmp_path / "other" / "nerf").exists()
