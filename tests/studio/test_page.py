"""What the page says and does, without a browser."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from filelock import FileLock
from small_disk import fill

from uni_instruct_3d.pipeline.stages import DEFAULT_SET
from uni_instruct_3d.studio import choices, cli, show
from uni_instruct_3d.studio.jobs import Queue, Slot
from uni_instruct_3d.studio.library import Library
from uni_instruct_3d.studio.page import _compose, _warn
from uni_instruct_3d.studio.view import View

GIVEN = (choices.DEFAULT_METHOD, choices.DEFAULT_DIVERGENCE, "normal", 0, 1)


@pytest.fixture
def view(library, queue) -> View:
    return View(library, queue)


def test_every_choice_has_its_line():
    assert set(choices.method_lines()) == {choices.DEFAULT_METHOD, *choices.methods()}
    for lines in (choices.method_lines(), choices.divergence_lines(), choices.quality_lines()):
        assert all(re.fullmatch(r"[A-Zf].{8,210}\.", line) for line in lines.values()), lines
    assert choices.takes_divergence("uni_instruct_fkl") and choices.takes_divergence("f_distill")
    assert not choices.takes_divergence("sds") and not choices.takes_divergence("vsd")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a mug", "dream", *GIVEN[1:]), "method 'dream'; choices: .*sds"),
        (("a mug", GIVEN[0], "tv", *GIVEN[2:]), "divergence 'tv'; choices: .*rkl"),
        (("a mug", "sds", "fkl", *GIVEN[2:]), "method sds has no divergence"),
        (("a mug", *GIVEN[:2], "best", 0, 1), "quality best; choices: fast"),
        (("a mug", *GIVEN[:3], -1, 1), "seed -1 must be"),
        (("a mug", *GIVEN[:3], None, 1), "seed None must be"),
        (("a mug", *GIVEN[:3], 0, 17), "variations 17 must be a whole number from 1 to 16"),
        (("  ", *GIVEN), "prompt is empty"),
        (("very " * 2000, *GIVEN), "at most 2000 characters; this one has 10000"),
    ],
)
def test_mistakes_are_named_and_start_nothing(view, given, message):
    with pytest.raises(ValueError, match=message):
        choices.settings_of(*given)
    name, said = view.make("shown", DEFAULT_SET, *given)
    assert name == "shown" and "s-error" in said
    assert view.library.items() == [] and view.queue.jobs() == []


def test_variations_are_runs_with_seeds_one_after_the_other(view):
    name, said = view.make("", DEFAULT_SET, "a red mug", "uni_instruct_rkl", "jkl", "fast", 5, 3)
    runs = [view.library.find(job.run) for job in view.queue.jobs()]
    assert [run.settings.seed for run in runs] == [5, 6, 7] and runs[0].name == name
    assert {run.settings.overrides for run in runs} == {("system.guidance.divergence=jkl",)}
    assert "3 variations" in said
    assert view.make("", DEFAULT_SET, "a red mug", "uni_instruct_rkl", "jkl", "fast", 5, 3)[0] == name
    assert len(view.queue.jobs()) == 3  # the same settings again are the same runs


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "a\0b", "C:\\x", "花瓶", "-rf", ".." * 300, "x/" * 500])
def test_a_prompt_makes_one_plain_folder_in_outputs(view, prompt):
    name, said = view.make("", DEFAULT_SET, prompt, *GIVEN)
    if "s-error" not in said:
        assert re.fullmatch(r"[a-z0-9-]+", name) and (view.library.out / name / "run.json").is_file()
    assert sorted(path.name for path in view.library.out.parent.iterdir()) == ["outputs", "secret.txt"]


def test_two_browsers_at_once(view):
    """Both press the button at the same moment, again and again: every run once, none lost, one folder each."""
    prompts = ["a red mug", "a blue chair", "a red mug", "a green house"] * 5
    with ThreadPoolExecutor(8) as browsers:
        answers = list(browsers.map(lambda text: view.make("", DEFAULT_SET, text, *GIVEN), prompts))
    assert {name for name, _ in answers} == {"a-red-mug", "a-blue-chair", "a-green-house"}
    assert sorted(job.run for job in view.queue.jobs()) == ["a-blue-chair", "a-green-house", "a-red-mug"]
    assert all("s-error" not in said for _, said in answers)


def test_a_full_disk_starts_nothing_and_loses_nothing(view, make_run, monkeypatch):
    make_run("a blue chair", "done")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10e6))
        name, said = view.make("a-blue-chair", DEFAULT_SET, "a red mug", *GIVEN)
        assert name == "a-blue-chair" and "disk is nearly full (10 MB left)" in said

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("uni_instruct_3d.pipeline.folder.os.replace", full)
        name, said = view.make("a-blue-chair", DEFAULT_SET, "a red mug", *GIVEN)
        assert name == "a-blue-chair" and "No space left" in said
    assert view.queue.jobs() == []
    assert view.library.find("a-blue-chair").files["model.glb"].is_file()
    assert "s-error" not in view.make("", DEFAULT_SET, "a red mug", *GIVEN)[1]


def test_a_disk_that_is_full_in_earnest(disk, work, monkeypatch):
    """A real one: what is asked for is refused with a line, and the page goes on showing what is there."""
    place = disk(256)
    library = Library(place)
    view = View(library, Queue(library, [Slot("core 1", {})], start=work))
    monkeypatch.setattr("uni_instruct_3d.studio.view.ROOM", 0)
    name, _ = view.make("", DEFAULT_SET, "a red mug", *GIVEN)
    fill(place)
    shown, said = view.make(name, DEFAULT_SET, "a blue chair", *GIVEN)
    assert shown == name and "No space left on device" in said
    assert "a red mug" in view.look(name, {})[0] and [job.run for job in view.queue.jobs()] == [name]
    with pytest.raises(OSError, match="No space left"):
        view.queue.step()
    assert work.processes[0].poll() is not None and [job.pid for job in view.queue.jobs()] == [None]
    (place / "ballast").unlink()
    view.queue.step()
    assert [job.run for job in view.queue.jobs() if job.pid is not None] == [name]
    assert "s-error" not in view.make(name, DEFAULT_SET, "a blue chair", *GIVEN)[1]


def test_nothing_a_person_typed_becomes_markup(view, make_run):
    prompt = "<img src=x onerror=alert(1)> \"'${1+1} {{x}} mug"
    name = make_run(prompt, "done").folder.name
    item = view.library.find(name)
    shown = [*view.look(name, {})[:1], view.cards(""), view.side(name), _warn(prompt), show.message(prompt)]
    assert all("<img src=x" not in text and "onerror" in text for text in shown)
    assert "&lt;img" in show.heading(item, "done") and "alert" in show.card(item, "done")


def test_the_panel_sends_only_what_changed(view, make_run):
    name = make_run("a red mug", "done").folder.name
    first = view.look(name, {})
    assert "finished" in first[0] and "/view/a-red-mug/model.glb" in first[7] and "model-obj.zip" in first[7]
    again = view.look(name, first[-1])
    assert all(isinstance(value, dict) and value.get("__type__") == "update" for value in again[:-1])
    assert "type what to make" in view.look("", {})[0] and "type what to make" in view.look("gone", {})[0]


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ("done", [False, False, True, True]),
        ("stopped", [False, True, False, True]),
        ("failed", [False, True, False, True]),
    ],
)
def test_buttons_follow_the_state(view, make_run, state, buttons):
    name = make_run("a red mug", state).folder.name
    assert [update["interactive"] for update in view.look(name, {})[1:5]] == buttons


def test_a_reload_shows_the_same_run_again(view, make_run):
    assert view.first(SimpleNamespace(query_params={})) == ("", "")
    names = [make_run("a red mug", "done", seed=seed).folder.name for seed in range(2)]
    for query, shown in [({"run": names[0]}, names[0]), ({}, names[1]), ({"run": "../secret.txt"}, names[1])]:
        assert view.first(SimpleNamespace(query_params=query)) == (shown, "a red mug")


def test_words(view):
    assert (
        _compose("striped", "blue", "mug") == "a striped blue mug"
        and _compose("plain", None, "armchair") == "an armchair"
    )
    assert _warn("a red mug") == "" and "mugg (near: mug); dragon" in _warn("a red mugg on a dragon")
    assert "and 12 more" in _warn(" ".join(f"word{i}" for i in range(20)))


def test_the_gallery_looks_for_words(view, make_run):
    make_run("a red mug", "done")
    make_run("a blue chair", "failed")
    assert view.cards("").count("s-card'") == 2 and view.cards("CHAIR").count("s-card'") == 1
    assert "Nothing here" in view.cards("house")


def test_scores_in_words():
    scores = {"chamfer": 0.0123, "clip_x100": 81.537, "class": 0.875, "of_its_own": 0.5}
    words = [("3D-CLIP", "81.54"), ("class %", "87.5"), ("Chamfer ×100", "1.23"), ("of its own", "0.5")]
    assert show.in_words(scores) == words


def test_one_studio_per_folder_and_mistakes_in_one_line(tmp_path, capsys):
    (tmp_path / ".studio").mkdir()
    (tmp_path / ".studio" / "address").write_text("http://127.0.0.1:7860\n")
    with FileLock(tmp_path / ".studio" / "lock"):
        assert cli.main(["--out", str(tmp_path), "--no-browser"]) == 2
    assert "is open already, at http://127.0.0.1:7860" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["--out", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "is taken" in capsys.readouterr().err
    for option, value, said in (("--port", "70000", "at most 65535"), ("--jobs", "0", "at least 1")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["--out", str(tmp_path), option, value])
        line = capsys.readouterr().err.splitlines()[-1]
        assert stop.value.code == 2 and f"{option}: {value} must be" in line and said in line
    (tmp_path / "file").touch()
    assert cli.main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert f"--out='{tmp_path}/file/out/.studio' cannot be written: Not a directory" in capsys.readouterr().err


def test_two_servers_at_the_same_moment():
    with cli.take_port(None) as one, cli.take_port(None) as other:
        assert one.getsockname()[1] != other.getsockname()[1]
        with pytest.raises(ValueError, match="is taken"):
            cli.take_port(one.getsockname()[1])
