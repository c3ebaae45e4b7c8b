"""One tiny teacher, made once per test run from the toy world."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy_world

from uni_instruct_3d.teacher_factory.factory import PHASES, Factory
from uni_instruct_3d.teacher_factory.presets import PRESETS


@pytest.fixture(scope="session")
def make_factory():
    """A function folder -> factory of the preset ``tiny`` on the toy world."""

    def make(root: Path, preset=PRESETS["tiny"]) -> Factory:
        return Factory(
            preset, work=root / "work", teacher=root / "teacher", clip=root / "clip", judge=root / "judge.safetensors",
            world=toy_world,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, make_factory):
    """All phases but the report, run once."""
    factory = make_factory(tmp_path_factory.mktemp("factory"))
    for phase in PHASES:
        if phase != "report":
            factory.run(phase)
    return factory
