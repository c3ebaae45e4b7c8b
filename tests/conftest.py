"""Shared fixtures: a tiny random teacher, no network; one thread per process where several share the work."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: each of them, and what it starts, takes one
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
import torch

import threestudio  # noqa: F401  before the extension, whichever test file comes first: it registers its classes there


def pytest_addoption(parser):
    parser.addoption("--shuffle", type=int, metavar="SEED", help="files, and the tests of each, in a random order")


def pytest_collection_modifyitems(config, items):
    """With --shuffle no test may lean on what ran before it; files stay together, for their fixtures' sake."""
    seed = config.getoption("--shuffle")
    if seed is not None:
        rng = random.Random(seed)
        files = {item.path: rng.random() for item in items}
        items.sort(key=lambda item: (files[item.path], rng.random()))


def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  what libraries draw from
    random.seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state and leaves nothing of a run, nor the default dtype, to the next."""
    threads = torch.get_num_threads()
    _seed()
    yield
    torch.set_num_threads(threads)
    os.environ.pop("PL_GLOBAL_SEED", None)
    assert torch.get_default_dtype() == torch.float32


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """What several tests share is the same whichever of them comes first."""
    if fixturedef.scope != "function":
        _seed()
    return (yield)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """Folder of a random Stable-Diffusion-format teacher (32x32 images, 8x8x4 latents), epsilon prediction."""
    from tiny_teacher import make_tiny_teacher

    return make_tiny_teacher(tmp_path_factory.mktemp("teacher") / "tiny")


@pytest.fixture(scope="session")
def tiny_teacher_v(tmp_path_factory) -> Path:
    """The same with v prediction."""
    from tiny_teacher import make_tiny_teacher

    return make_tiny_teacher(tmp_path_factory.mktemp("teacher") / "tiny-v", prediction_type="v_prediction")


@pytest.fixture(scope="session")
def tiny_multi_view(tiny_teacher, tmp_path_factory) -> Path:
    """Folder of the same teacher with a U-Net that draws four views at once."""
    from tiny_multi_view import make_tiny_multi_view

    return make_tiny_multi_view(tiny_teacher, tmp_path_factory.mktemp("teacher") / "tiny-mv")


@pytest.fixture
def predictor_file(tmp_path):
    """Maker of an aesthetic predictor's file: `predictor_file("linearMSE")`."""
    from aesthetic_weights import save_predictor

    return lambda variant: save_predictor(tmp_path, variant)


@pytest.fixture
def disk(tmp_path):
    """Maker of a disk of so many KiB; skipped where this user may not mount one."""
    from small_disk import small_disk

    with contextlib.ExitStack() as disks:

        def make(kib: int) -> Path:
            folder = tmp_path / f"disk{kib}"
            if not disks.enter_context(small_disk(folder, kib)):
                pytest.skip("this user cannot mount a small disk")
            return folder

        yield make


@pytest.fixture
def cluster(monkeypatch, request):
    """Two Ray machines of one core each, as far as Ray can tell; ours is found by RAY_ADDRESS."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("PYTHONPATH", str(request.path.parent))
    yield cluster
    cluster.shutdown()
