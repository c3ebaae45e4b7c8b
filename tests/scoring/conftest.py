"""One built-in CLIP and one ground-truth object for all scoring tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import threestudio  # noqa: F401
from uni_instruct_3d.shapes_world import instance_mesh
from uni_instruct_guidance.scoring import ClipScorer, get_protocol
from uni_instruct_guidance.scoring.meshes import coloured

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def clip():
    return ClipScorer()


@pytest.fixture(scope="session")
def mug():
    """A striped red mug of the world: vertices, faces, vertex albedo; coarse."""
    return instance_mesh("mug", "red", "striped", 0, resolution=40)


@pytest.fixture(scope="session")
def mug_surface(mug):
    return coloured(*mug)


@pytest.fixture(scope="session")
def four_views():
    return get_protocol("shapes-8").reduced(views=4, size=64)
