"""The one command: arguments, folder names, and the whole chain with a tiny teacher."""

from __future__ import annotations

import re

import pytest
import trimesh

from uni_instruct_3d.pipeline import cli, stages


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
        (["a mug", "--formats", "doc"], "formats doc; choices: glb, obj, ply, stl"),
        (["a mug", "--faces", "1"], "faces=1 must be a whole number from 4"),
        (["a mug", "--seeds", "3-1"], "--seeds '3-1' must be a range"),
        (["a mug", "--seeds", "x"], "--seeds 'x' must be a whole number or a range"),
        (["a mug", "--best-of", "1"], "--best-of N needs N of at least 2"),
        (["a mug", "--prompts-file", "f"], "both a prompt ('a mug') and --prompts-file"),
    ],
)
def test_mistakes_are_named(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_stage_needs_the_one_before(tmp_path, capsys):
    assert cli.main(["a mug", "--stages", "texture", "--out", str(tmp_path)]) == 2
    assert "texture needs geometry first" in capsys.readouterr().err


def test_prompt_to_files_and_again(arguments, tmp_path, capfd):
    """NeRF, mesh, texture, report; a second call makes nothing again; other files of the same train nothing again."""
    argv = ["a red mug", *arguments, "--method", "vsd"]
    assert cli.main(argv) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert folder.name.startswith("a-red-mug-shapes-vsd-")
    assert all((folder / stage / "done").is_file() for stage in ("nerf", "geometry", "texture"))
    (mesh,) = trimesh.load_scene(folder / "model.glb").geometry.values()
    assert len(mesh.faces) > 100 and mesh.visual.material.baseColorTexture is not None
    assert mesh.visual.material.name == "a-red-mug"
    assert all((folder / name).is_file() for name in ("model.obj", "model.mtl", "turntable.mp4", "preview.png"))
    assert "usemtl a-red-mug" in (folder / "model.obj").read_text()
    assert (folder / "report.html").stat().st_size > 10_000
    said = capfd.readouterr()
    assert "report.html" in said.out
    lines = [line.strip() for line in re.split(r"[\r\n]", said.err) if line.strip()]
    assert all(re.match(r"text-to-3d: |(nerf|geometry|texture): .*\|", line) for line in lines), "a library spoke"

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".ckpt", ".glb", ".html")}
    assert cli.main(argv) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert cli.main([*argv, "--formats", "ply,stl", "--faces", "60"]) == 0
    assert {"model.ply", "model.stl", "model.glb"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "model.obj").exists() and len(trimesh.load(folder / "model.stl").faces) < 80
    assert {p: t for p, t in before.items() if p.suffix == ".ckpt"} == {
        path: path.stat().st_mtime_ns for path in before if path.suffix == ".ckpt"
    }
    capfd.readouterr()
    assert cli.main([*argv, "--name", folder.name, "--seed", "1"]) == 2
    assert "holds a run of other settings (seed: 0 -> 1)" in capfd.readouterr().err


def test_settings_of_a_later_stage_are_refused_before_the_first(arguments, tmp_path, capfd):
    assert cli.main(["a red mug", *arguments, "system.exporter.fmt=doc"]) == 2
    assert "unknown format 'doc'" in capfd.readouterr().err
    assert cli.main(["a red mug", *arguments, "system.nonsense=1"]) == 2
    assert "nonsense" in capfd.readouterr().err
    assert not list((tmp_path / "out").rglob("ckpts"))


def test_the_default_has_every_quality():
    """Half and twice the steps; noise, warm-up, bank and picture size at the same share of the run."""
    from omegaconf import OmegaConf

    for scale, quality in ((0.5, "fast"), (1, "normal"), (2, "high")):
        for stage in stages.STAGES:
            files = stages.config_files(stage, stages.DEFAULT_SET, None, quality)
            config = OmegaConf.merge(*map(OmegaConf.load, files))
            assert config.trainer.max_steps == scale * {"nerf": 360}.get(stage.name, 150)
            if stage.name == "nerf":
                own = config.system.guidance
                assert config.data.resolution_milestones == [280 * scale] and own.max_step_percent[3] == 250 * scale
                assert own.warmup.steps == own.bank.spread == 150 * scale


def test_unknown_words_are_named(capsys):
    from uni_instruct_3d.pipeline import Settings
    from uni_instruct_3d.pipeline.words import note

    assert note(Settings("a red mug")) == ""
    assert "does not know: corgi, stripes (nearest: striped)" in note(Settings("a corgi with stripes"))
    assert note(Settings("a corgi", config_set="sd21")) == ""
    own = ("system.prompt_processor.pretrained_model_name_or_path=my/model",)
    assert "--config-set sd21" in note(Settings("a corgi", overrides=own))
    assert note(Settings("a corgi", overrides=own, config_set="shapes")) == ""
    assert cli.main(["--list-words"]) == 0
    said = capsys.readouterr().out
    assert "objects: mug," in said and "colours: red" in said and "striped" in said


@pytest.mark.parametrize(
    ("options", "seeds"), [([], [0]), (["--seeds", "0-3"], [0, 1, 2, 3]), (["--seeds", "0", "4,7"], [0, 4, 7]),
                           (["--seed", "5", "--best-of", "2"], [5, 6])]
)  # fmt: skip
def test_seeds(options, seeds):
    assert [s.seed for s in cli.parse_arguments(["a red mug", *options]).settings] == seeds


def test_many_prompts(arguments, tmp_path, monkeypatch, capsys):
    """Two prompts with two seeds, one of which fails; what is finished is not worked on again; one page over all."""
    from uni_instruct_3d.comparison import engines

    asked = []

    def here(work, items, jobs):
        for item in items:
            asked.append(item)
            lost = "chair-" in item and "seed1" in item
            yield (item, None, "Lost\nthe machine") if lost else (item, work(item), None)

    monkeypatch.setitem(engines.ENGINES, "local", here)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red mug\n# a comment\na blue chair\n")
    argv = ["--prompts-file", str(prompts), "--seeds", "0-1", "--stages", "nerf", "--method", "sds", *arguments]
    assert cli.main(argv) == 1
    said = capsys.readouterr().err
    assert "0 of 4 are finished; 4 to go" in said and "seed1: the machine" in said and "best of 'a red mug'" in said
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert page.count("data:image/jpeg") == 3 and "1 failed" in page and "CLIP" in page and "the best" in page
    assert len(asked) == 4
    assert cli.main(argv) == 1
    assert len(asked) == 5 and "3 of 4 are finished; 1 to go" in capsys.readouterr().err
