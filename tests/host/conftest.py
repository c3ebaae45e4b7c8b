"""A working folder with the toy extension, and launch.py called in it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import launch
import threestudio
from threestudio.utils.misc import set_device

HERE = Path(__file__).parent


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A working folder with the toy extension and configuration; what runs change globally is put back."""
    shutil.copytree(HERE / "toy_extension", tmp_path / "custom" / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "toy.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    yield tmp_path
    set_device(None)
    sys.modules.pop("toy", None)


@pytest.fixture
def run(workplace, monkeypatch):
    """Run a command line in this process, with a fresh registry each time."""
    stock = dict(threestudio.__modules__)

    def call(*words: str) -> int:
        monkeypatch.setattr(threestudio, "__modules__", dict(stock))
        sys.modules.pop("toy", None)
        return launch.main(["--gpu", "cpu", *words])

    return call
