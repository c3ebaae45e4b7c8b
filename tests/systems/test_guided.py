"""The guidance of a system: there before a checkpoint is read, absent without training; baselines in either host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import threestudio
import uni_instruct_guidance.systems
from uni_instruct_guidance.systems.baselines import UniInstructFantasia3D
from uni_instruct_guidance.systems.guided import GuidanceWhileTraining


class Host:
    """What threestudio's systems have of it."""

    def on_load_checkpoint(self, checkpoint):
        self.asked = True


class System(GuidanceWhileTraining, Host):
    cfg = SimpleNamespace(
        prompt_processor_type="prompts", prompt_processor={}, guidance_type="guidance", guidance={"scale": 2}
    )


@pytest.mark.parametrize(("stage", "kept"), [("fit", True), ("test", False), ("predict", False)])
def test_guidance_and_its_weights_are_there_for_training_only(stage, kept, monkeypatch):
    built = []
    parts = {"prompts": lambda cfg: lambda: "words", "guidance": lambda cfg: built.append(cfg) or "guidance"}
    monkeypatch.setattr(threestudio, "find", parts.__getitem__)
    system = System()
    system.setup(stage)
    system.setup(stage)  # Lightning asks before each run; what is there stays
    assert built == ([{"scale": 2}] if kept else [])
    checkpoint = {"state_dict": {"guidance.gradient_scale.updates": 3, "geometry.sdf": 1}}
    system.on_load_checkpoint(checkpoint)
    assert system.asked and ("guidance.gradient_scale.updates" in checkpoint["state_dict"]) == kept
    assert "geometry.sdf" in checkpoint["state_dict"]


@pytest.mark.parametrize(
    ("texture", "resumed", "shaped"), [(False, False, 1), (False, True, 0), (True, False, 0), (True, True, 0)]
)
def test_a_first_shape_is_given_once(texture, resumed, shaped):
    """threestudio proper's system would shape a resumed run anew."""
    calls = []
    system = UniInstructFantasia3D.__new__(UniInstructFantasia3D)
    object.__setattr__(system, "__dict__", {"cfg": SimpleNamespace(texture=texture), "_resumed": resumed})
    object.__setattr__(system, "geometry", SimpleNamespace(initialize_shape=lambda: calls.append(1)))
    system.on_fit_start()
    assert len(calls) == shaped
    assert {"uni-instruct-fantasia3d-system", "uni-instruct-magic3d-system"} <= set(threestudio.__modules__)
    assert uni_instruct_guidance.systems.baselines.UniInstructFantasia3D is UniInstructFantasia3D
