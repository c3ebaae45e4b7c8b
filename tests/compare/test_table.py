"""Numbers of the table against independent statistics."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from scipy import stats

from uni_instruct_3d.comparison.matrix import Cell, Column
from uni_instruct_3d.comparison.table import (
    METRICS,
    as_csv,
    as_json,
    cost_table,
    difference_table,
    estimate,
    failures,
    mean_of,
    paired_difference,
    score_table,
    tables,
)

SDS, VSD = Column("sds", "sds"), Column("vsd", "vsd")
CLIP = METRICS[0]
PROMPTS = ["a", "b", "c"]


def result(clip: float | None, status: str = "done", **more) -> dict:
    scores = {} if clip is None else {"nerf": {"clip_x100": clip}}
    found = {"status": status, "reason": "", "scores": scores, "cost": {}, "pictures": {}, "seconds": 1.0}
    return found | more


@pytest.fixture
def numbers() -> dict:
    rng = np.random.default_rng(0)
    return {column: rng.normal(50, 10, (len(PROMPTS), 2)) for column in (SDS, VSD)}


@pytest.fixture
def results(numbers) -> dict:
    return {
        Cell(column, prompt, seed): result(values[row, seed])
        for column, values in numbers.items()
        for row, prompt in enumerate(PROMPTS)
        for seed in (0, 1)
    }


def test_estimate_is_mean_and_standard_error():
    values = [3.0, 4.5, 9.0, -2.0]
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values)) and found.error == pytest.approx(stats.sem(values))
    assert found.count == 4 and found.text(1) == "3.6 ± 2.3" and found.text(1, signed=True).startswith("+3.6")
    assert estimate([]) is None
    single = estimate([2.0])
    assert math.isnan(single.error) and single.text(1) == "2.0"


def test_means_and_pairs(results, numbers):
    assert mean_of(results, SDS, "nerf", CLIP).mean == pytest.approx(numbers[SDS].mean())
    found = paired_difference(results, SDS, VSD, "nerf", CLIP)
    difference = (numbers[SDS] - numbers[VSD]).ravel()
    assert found.mean == pytest.approx(difference.mean()) and found.error == pytest.approx(stats.sem(difference))
    assert paired_difference(results, VSD, VSD, "nerf", CLIP).error == 0.0


def test_pairs_leave_out_what_one_side_lacks(results):
    """A baseline without the pair must not shift the difference, however large the lonely value is."""
    del results[Cell(VSD, "a", 0)]
    results[Cell(VSD, "a", 1)] = result(None, status="failed")
    results[Cell(SDS, "a", 0)] = result(1e6)
    found = paired_difference(results, SDS, VSD, "nerf", CLIP)
    assert found.count == 4 and abs(found.mean) < 100


def test_paired_error_is_smaller_where_prompts_decide():
    """Scores that differ by prompt alone have a large error of the mean and none of the difference."""
    found = {}
    for row, prompt in enumerate(PROMPTS):
        found[Cell(VSD, prompt, 0)], found[Cell(SDS, prompt, 0)] = result(10.0 * row), result(10.0 * row + 1)
    assert mean_of(found, SDS, "nerf", CLIP).error > 5
    assert paired_difference(found, SDS, VSD, "nerf", CLIP) == pytest.approx((1.0, 0.0, 3))


def test_tables_name_what_is_missing(results):
    results[Cell(SDS, "a", 0)]["scores"]["nerf"]["janus"] = 0.25
    table = score_table(results, [SDS, VSD], "nerf")
    assert table.header == ["method", "n", "3D-CLIP ↑", "Janus % ↓"]
    assert [row[-1] for row in table.rows] == ["25.0", "–"] and table.rows[0][1] == "6"
    assert difference_table(results, [SDS, VSD], VSD, "nerf").rows[0][0] == "SDS (DreamFusion)"
    assert table.markdown().splitlines()[2] == "| method | n | 3D-CLIP ↑ | Janus % ↓ |"


def test_cost_is_the_mean_per_run():
    counts = [{"steps": 100, "seconds": 10.0, "teacher_images": 200}, {"steps": 100, "seconds": 20.0}]
    found = {Cell(SDS, "a", seed): result(1.0, cost={"nerf": counts[seed]}) for seed in (0, 1)}
    assert cost_table(found, [SDS]).rows == [["SDS (DreamFusion)", "NeRF", "100", "15", "0", "100", "0", "0"]]


def test_files(results):
    results[Cell(VSD, "c", 1)] = result(None, status="failed", reason="no surface")
    rows = list(csv.DictReader(io.StringIO(as_csv(results, ["nerf"]))))
    assert len(rows) == 12 and float(rows[0]["clip_x100"]) == results[Cell(SDS, "a", 0)]["scores"]["nerf"]["clip_x100"]
    assert rows[-1]["status"] == "failed" and rows[-1]["clip_x100"] == ""
    found = as_json(results, tables(results, [SDS, VSD], VSD, ["nerf"]), {"clip": "small"})
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again["clip"] == "small" and len(again["cells"]) == 12 and len(again["tables"]) == 3
    assert failures(results) == [(Cell(VSD, "c", 1), "no surface")]
