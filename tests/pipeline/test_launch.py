"""What a newcomer trips over: a forgotten prompt, another working folder, an export of nothing."""

from __future__ import annotations

import os

import pytest
from omegaconf import OmegaConf

import launch
from threestudio import runner
from uni_instruct_3d import ROOT

NERF = str(ROOT / "configs" / "shapes-nerf.yaml")
CUSTOM = [ROOT / "custom"]


def test_a_missing_prompt_is_named():
    with pytest.raises(ValueError, match=r"to be given as key=value: system.prompt_processor.prompt \(as "):
        runner.check([NERF], [], CUSTOM)
    with pytest.raises(ValueError, match="system.geometry_convert_from"):
        runner.check([str(ROOT / "configs" / "shapes-geometry.yaml")], [], CUSTOM)


def test_teacher_and_configuration_are_found_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.create({"system": {"guidance": {runner.TEACHER_KEY: "load/teachers/shapes"}, "stage": "coarse"}})
    runner._find_teachers(cfg)
    assert os.path.isdir(cfg.system.guidance[runner.TEACHER_KEY])
    cfg.system.guidance[runner.TEACHER_KEY] = "somebody/model"
    runner._find_teachers(cfg)
    assert cfg.system.guidance[runner.TEACHER_KEY] == "somebody/model"
    assert launch.found("configs/shapes-nerf.yaml") == NERF and launch.found("nowhere.yaml") == "nowhere.yaml"


def test_nothing_is_exported_without_a_checkpoint(tmp_path):
    overrides = ["system.prompt_processor.prompt=a red mug", f"exp_root_dir={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match="--export needs resume="):
        runner.carry_out([NERF], "export", overrides, CUSTOM, cpu=True)
    assert not (tmp_path / "out").exists()
