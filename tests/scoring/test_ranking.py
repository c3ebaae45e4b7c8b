"""The right caption comes first for ground-truth objects of the built-in world, among all classes and colours."""

from __future__ import annotations

import argparse

import pytest

from uni_instruct_3d.benchmarks import ranking


def measure(*options):
    parser = argparse.ArgumentParser()
    ranking.add_arguments(parser)
    return ranking.run(parser.parse_args(list(options)))


def test_one_object_of_every_class():
    """28 objects of one colour, 4 views; the full count is the slow test. Chance is 1 in 280."""
    figures = measure("--objects", "28", "--lights", "camera", "--views", "4", "--size", "64", "--resolution", "32")
    (row,) = figures["rows"].values()
    assert figures["captions"] == 280
    assert row["objects_right"] >= 0.9 and row["views_right"] >= 0.8, figures["lost"]


@pytest.mark.slow
def test_at_least_95_percent_of_all_objects():
    figures = measure("--lights", "camera")
    row = figures["rows"]["shapes-8@1 camera"]
    assert row["objects_right"] >= 0.95, figures["lost"]
