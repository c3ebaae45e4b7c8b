"""The table of text-to-image students: its figures on pictures whose figures are known, its plan, its verdicts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from uni_instruct_3d import ROOT
from uni_instruct_3d.text_students.assess import Assessment, ask_world, assess
from uni_instruct_3d.text_students.table import FIGURES, ROWS, markdown, plan, within_bounds
from uni_instruct_guidance.core import METHODS
from uni_instruct_guidance.distill2d.config import DistillConfig, read_config
from uni_instruct_guidance.distill2d.methods import one_step_method

SMALL = Assessment(images=60, pairs=2, batch=30)
TEACHER = {**dict.fromkeys(FIGURES, 10.0), "class": 98.0, "color": 99.0, "pattern": 95.0, "fd": 5.0}


@pytest.fixture(scope="module")
def base() -> DistillConfig:
    config = read_config(DistillConfig, [ROOT / "configs/distill2d/shapes-text.yaml"], ["steps=7"])
    return dataclasses.replace(config, teacher=str(ROOT / config.teacher))


def test_the_worlds_own_pictures_are_right_and_at_no_distance():
    questions = ask_world(SMALL)
    assert len(questions.captions) == len(questions.images) == 60
    picture = dict(zip(questions.captions, questions.images))
    truth = assess(lambda prompts, seed: np.stack([picture[prompt] for prompt in prompts]), questions, SMALL)
    assert truth["class"] > 90 and truth["color"] > 90 and truth["pattern"] > 80 and truth["images"] == 60
    assert truth["fd"] < 1e-3 or len(picture) < 60  # a caption that is there twice has one picture here
    assert truth["diversity"] == pytest.approx(0, abs=1e-5)
    shuffled = dict(zip(questions.captions, np.roll(questions.images, 7, axis=0)))
    wrong = assess(lambda prompts, seed: np.stack([shuffled[prompt] for prompt in prompts]), questions, SMALL)
    assert wrong["class"] < 40 and wrong["clip"] < truth["clip"]


def test_every_row_is_a_method_with_its_own_folder_and_settings(base, tmp_path):
    rows = [name for name in ROWS if not name.startswith("di_")]
    assert len({ROWS[row]["name"] for row in ROWS}) >= 10 and {ROWS[row]["name"] for row in ROWS} <= set(METHODS)
    for row in ROWS.values():
        assert one_step_method(row, has_reward=True, text=True)
    runs = plan(base, rows, [0, 1], tmp_path, SMALL)
    assert len(runs) == 2 * len(rows) == len({run.folder for run in runs}) == len({run.key for run in runs})
    assert all(run.result() is None for run in runs)
    (di_pp,) = plan(base, ["di_pp"], [0], tmp_path, SMALL)
    assert di_pp.config.text.reward == "clip" and base.text.reward is None
    assert plan(dataclasses.replace(base, lr=1e-3), ["sid"], [0], tmp_path, SMALL)[0].settings != runs[0].settings
    with pytest.raises(ValueError, match="rows='vsd' is not known; choose one of diff_instruct"):
        plan(base, ["vsd"], [0], tmp_path, SMALL)


def test_verdicts_and_errors():
    good = {**TEACHER, "row": "sid", "seed": 0, "class": 96.5}
    assert within_bounds(good, TEACHER)
    assert not within_bounds({**good, "class": 95.9}, TEACHER) and not within_bounds({**good, "fd": 5.1}, TEACHER)
    table = markdown([good, {**good, "seed": 1, "class": 90.5}], TEACHER)
    assert "| sid | 2 | 93.5 ± 3 |" in table and table.splitlines()[-1].endswith("| 1 of 2 |")
