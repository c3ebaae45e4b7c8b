"""What is found below the outputs folder, and what is not."""

from __future__ import annotations

import io
import zipfile

import pytest

from uni_instruct_3d.studio.library import DEPTH, obj_zip


def trial(folder):
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "parsed.yaml").write_text("name: x\n")
    (folder / "save").mkdir()
    (folder / "save" / "it5-0.png").write_bytes(b"picture")


def test_runs_of_anyone_and_trials_of_launch_py_are_found_newest_first(library, make_run):
    make_run("a red mug", "done")
    make_run("a blue chair", seed=3)
    trial(library.out / "dreamfusion" / "mug@20260101")
    (library.out / ".studio" / "queue").mkdir(parents=True)
    (library.out / "notes").mkdir()
    items = library.items()
    assert {item.name for item in items} == {"a-red-mug", "a-blue-chair-seed3", "dreamfusion/mug@20260101"}
    assert [item.changed for item in items] == sorted((item.changed for item in items), reverse=True)
    assert library.find("dreamfusion/mug@20260101").files["preview.png"].name == "it5-0.png"
    assert [item.title for item in items if item.is_run and item.settings.seed] == ["a blue chair"]


def test_a_run_in_a_batch_is_found_and_its_stages_are_not_runs_of_their_own(library, make_run):
    run = make_run("a red mug", "done")
    trial(run.folder / "texture")
    batch = library.out / "batch" / "over-night"
    batch.mkdir(parents=True)
    run.folder.rename(batch / "a-red-mug")
    deep = library.out.joinpath(*"abcdefgh"[: DEPTH + 1])
    trial(deep)
    assert [item.name for item in library.items()] == ["batch/over-night/a-red-mug"]


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "/etc", "../secret.txt", "a-red-mug/..", "a-red-mug/../a-red-mug", "a-red-mug/", "./a-red-mug",
     "a-red-mug\0", "%2e%2e", "..\\..", ".studio", "~root"],
)  # fmt: skip
def test_no_other_spelling_names_a_run(library, make_run, name):
    make_run("a red mug", "done")
    with pytest.raises(ValueError, match="no run of that name"):
        library.find(name)


@pytest.mark.parametrize(
    "file",
    ["../run.json", "run.json", "nerf/last.ckpt", "/etc/passwd", "..", "", ".lock", "../../secret.txt", "stolen.glb"],
)
def test_only_results_are_handed_out(library, make_run, file):
    run = make_run("a red mug", "done")
    (run.folder / "stolen.glb").symlink_to(library.out.parent / "secret.txt")
    assert library.file("a-red-mug", "model.glb").read_bytes()[:4] == b"glTF"
    with pytest.raises(ValueError, match="no file of that name"):
        library.file("a-red-mug", file)


def test_a_link_out_of_the_folder_is_not_followed(library, make_run):
    run = make_run("a red mug", "done")
    (run.folder / "model.ply").symlink_to(library.out.parent / "secret.txt")
    (library.out / "elsewhere").symlink_to(library.out.parent)
    with pytest.raises(ValueError, match="no file of that name"):
        library.file("a-red-mug", "model.ply")
    assert len(library.items()) == 1


def test_a_damaged_run_is_listed_and_says_what_is_wrong(library, make_run):
    run = make_run("a red mug")
    (run.folder / "run.json").write_text("{")
    (item,) = library.items()
    assert item.title == "a-red-mug"
    with pytest.raises(ValueError, match="run.json cannot be read"):
        _ = item.settings


def test_the_zip_holds_what_the_obj_refers_to(library, make_run):
    make_run("a red mug", "done")
    names = zipfile.ZipFile(io.BytesIO(obj_zip(library.find("a-red-mug").files))).namelist()
    assert sorted(names) == ["model.mtl", "model.obj", "texture_kd.png"]
    assert obj_zip({}) == b""
