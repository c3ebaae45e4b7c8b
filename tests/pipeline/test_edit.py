"""Edits of a finished asset: where they start, what stays, what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from threestudio.utils.misc import load_module_weights
from uni_instruct_3d.pipeline import Settings, cli
from uni_instruct_3d.pipeline.edits import source_of
from uni_instruct_3d.pipeline.folder import default_name, write_settings


@pytest.fixture
def unfinished(tmp_path):
    """The folder of a run whose NeRF alone is finished."""
    folder = tmp_path / "a-red-mug"
    (folder / "nerf" / "ckpts").mkdir(parents=True)
    (folder / "nerf" / "ckpts" / "last.ckpt").touch()
    (folder / "nerf" / "done").write_text("1 s\n")
    write_settings(folder, Settings("a red mug"))
    return folder


def test_settings_of_an_edit(unfinished):
    keeps, frees = (Settings("a blue mug", edit=str(unfinished), keep=keep) for keep in ("geometry", "nothing"))
    assert keeps.stages == ("texture",) and frees.stages == ("nerf", "geometry", "texture")
    assert default_name(keeps) == "a-blue-mug-from-a-red-mug"
    assert default_name(frees) == "a-blue-mug-from-a-red-mug-keep-nothing"
    assert keeps.differences(Settings("a blue mug")) and keeps.differences(frees)
    assert Settings.from_json(keeps.as_json()) == keeps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "vsd"}, "method=vsd cannot be chosen for an edit; it is dds"),
        ({"quality": "fast"}, "quality=fast cannot be chosen for an edit; it is normal"),
        ({"host": "threestudio"}, "host=threestudio cannot be chosen for an edit; it is builtin"),
        ({"keep": "colour"}, "keep colour; choices: geometry, nothing"),
        ({"stages": ("geometry",)}, "an edit that keeps geometry has no stage geometry; texture"),
    ],
)
def test_what_an_edit_cannot_have(options, message):
    with pytest.raises(ValueError, match=message):
        Settings("a blue mug", **{"edit": "somewhere", **options})


def test_where_an_edit_can_start(unfinished, tmp_path, capsys):
    assert source_of(unfinished, "nothing").trial == unfinished / "nerf"
    for folder, words in {
        unfinished: "starts from its stage texture, which is not finished; finished: nerf",
        tmp_path: "holds no run of this pipeline",
        tmp_path / "none": "no such folder",
    }.items():
        with pytest.raises(SystemExit) as stop:
            cli.main(["a blue mug", "--edit", str(folder)])
        assert stop.value.code == 2 and words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["a blue mug", "--keep", "nothing"])
    assert "--keep nothing belongs to --edit FOLDER" in capsys.readouterr().err


@pytest.mark.slow
def test_edit_of_a_finished_asset(arguments, tmp_path):
    """With --keep geometry the shape is the very same and the colours are not; with --keep nothing both change. The
    asset that it started from stays; a second call makes nothing again."""
    assert cli.main(["a red mug", *arguments, "--method", "sds"]) == 0
    (base,) = (tmp_path / "out").iterdir()
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    weights = {}
    for keep, stages in {"geometry": ["texture"], "nothing": ["geometry", "nerf", "texture"]}.items():
        argv = ["a blue mug", *arguments, "--edit", str(base), "--keep", keep]
        assert cli.main(argv) == 0
        (folder,) = (
            p
            for p in (tmp_path / "out").iterdir()
            if "from-" in p.name and ("nothing" in p.name) == (keep == "nothing")
        )
        assert sorted(p.name for p in folder.iterdir() if (p / "done").is_file()) == stages
        assert Image.open(folder / "before_after.png").size == (8 * 192, 2 * 192)
        assert "before the edit" in (folder / "report.html").read_text()
        facts = json.loads((folder / "made.json").read_text())["facts"]
        assert (facts["moved"] < 0.01) == (keep == "geometry") or keep == "nothing"
        weights[keep] = load_module_weights(str(folder / "texture" / "ckpts" / "last.ckpt"), "geometry")[0]
        first = folder / stages[0 if keep == "geometry" else 1] / "ckpts" / "last.ckpt"
        changed = first.stat().st_mtime_ns
        assert cli.main(argv) == 0 and first.stat().st_mtime_ns == changed
    start = load_module_weights(str(base / "texture" / "ckpts" / "last.ckpt"), "geometry")[0]
    assert torch.equal(weights["geometry"]["sdf"], start["sdf"])
    assert any(not torch.equal(weights["geometry"][key], value) for key, value in start.items() if "encoding" in key)
    assert {path: path.read_bytes() for path in base.rglob("*") if path.is_file()} == before
