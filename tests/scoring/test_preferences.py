"""Preference scores through stand-ins of their packages, and T³Bench's summary against a loop."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from uni_instruct_guidance.scoring.preferences import preference_scores, require_preference, t3bench_quality
from uni_instruct_guidance.scoring.protocols import icosphere

PICTURES = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (10, 20, 30)])


def install(monkeypatch, name, **contents):
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


class FakeImageReward:
    def score(self, prompt, picture):
        return len(prompt) + picture.getpixel((0, 0))[0]


def test_image_reward_is_asked_picture_by_picture(monkeypatch):
    asked = []
    install(monkeypatch, "ImageReward", load=lambda name: asked.append(name) or FakeImageReward())
    assert preference_scores("imagereward", PICTURES, "abc").tolist() == [13.0, 23.0, 33.0]
    assert asked == ["ImageReward-v1.0"]


def test_hpsv2_is_asked_once_for_all(monkeypatch):
    def score(pictures, prompt, hps_version):
        assert hps_version == "v2.1" and prompt == "abc"
        return [np.float32(picture.getpixel((0, 0))[0] / 100) for picture in pictures]

    install(monkeypatch, "hpsv2", score=score)
    assert preference_scores("hpsv2", PICTURES, "abc").tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("name", "module", "package"), [("imagereward", "ImageReward", "image-reward"), ("hpsv2", "hpsv2", "hpsv2")]
)
def test_a_missing_package_is_named_in_one_line(name, module, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None)
    with pytest.raises(ValueError, match=f"preference score '{name}' needs the package {package}: pip install"):
        require_preference(name)


def test_a_package_that_does_not_fit_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: object())
    monkeypatch.delitem(sys.modules, "ImageReward", raising=False)
    monkeypatch.setitem(sys.modules, "ImageReward", None)  # import raises ImportError
    with pytest.raises(ValueError, match="'imagereward': image-reward cannot be imported"):
        preference_scores("imagereward", PICTURES, "abc")


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="preference score='pick' is not known; choose one of imagereward, hpsv2"):
        require_preference("pick")


def test_t3bench_quality_against_a_loop():
    directions = icosphere(2).double()
    reward = torch.randn(162, 5, dtype=torch.float64)
    value = {i: max(reward[i].tolist()) for i in range(162)}
    # an edge of the level-2 icosphere is 0.27 to 0.33 long, the next distance 0.5
    near = {i: [j for j in range(162) if j != i and (directions[i] - directions[j]).norm() < 0.4] for i in value}
    assert sorted({len(found) for found in near.values()}) == [5, 6]
    for _ in range(3):
        value = {i: (value[i] + sum(value[j] for j in near[i])) / (1 + len(near[i])) for i in value}
    assert t3bench_quality(reward.float().flatten()) == pytest.approx(20 * max(value.values()) + 50, abs=1e-4)
    assert t3bench_quality(torch.full((810,), 0.5)) == pytest.approx(60.0, abs=1e-4)
