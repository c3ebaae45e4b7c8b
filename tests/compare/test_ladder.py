"""The fitted column and the numbers of what a person sees."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uni_instruct_3d.comparison import stages
from uni_instruct_3d.comparison.scores import solidity
from uni_instruct_3d.pipeline.checks import of_surface
from uni_instruct_3d.shapes_world.render import look_at, make_instance, render


@pytest.fixture(scope="module", autouse=True)
def host():
    stages.prepare(cpu=True)


def test_pictures_of_the_world_from_the_cameras_of_a_batch():
    """The same object, camera and coverage as the world's own renders; its colour premultiplied."""
    from uni_instruct_3d.comparison.fitted import WorldPictures

    instance = make_instance("mug", "red", "plain", 3)
    truth = render(instance, 40.0, 20.0, 50.0, 1.7, 32, background=(0.0, 0.0, 0.0))
    batch = {"c2w": torch.from_numpy(look_at(40.0, 20.0, 1.7))[None], "fovy": torch.tensor([np.radians(50.0)]),
             "height": 32}  # fmt: skip
    colour, mask = WorldPictures(instance)(batch)
    # the angle travels as float32 radians
    np.testing.assert_allclose(colour[0].numpy(), truth["image"], atol=1e-3)
    np.testing.assert_allclose(mask[0, ..., 0].numpy(), truth["mask"], atol=1e-3)


def test_the_loss_is_least_for_the_object_itself_before_any_background():
    from uni_instruct_3d.comparison.fitted import WorldFittingSystem

    colour = torch.rand(1, 4, 4, 3) * 0.5
    mask = torch.rand(1, 4, 4, 1)
    for behind in (torch.zeros(1, 4, 4, 3), torch.full((1, 4, 4, 3), 0.8)):
        right = {"comp_rgb": colour + (1 - mask) * behind, "comp_rgb_bg": behind, "opacity": mask}
        losses = []
        for out in (right, {**right, "opacity": mask * 0.9}, {**right, "comp_rgb": right["comp_rgb"] + 0.1}):
            system = SimpleNamespace(
                cfg=SimpleNamespace(lambda_fit=10.0, lambda_mask=10.0, loss={}), regulariser_names=[],
                guidance=lambda batch: (colour, mask), log=lambda *_: None, C=float,
            )  # fmt: skip
            call = type("System", (), {"__call__": lambda self, batch, out=out: out, **vars(system)})()
            call.guidance, call.log = system.guidance, system.log
            losses.append(float(WorldFittingSystem.training_step(call, {}, 0)["loss"]))
        assert losses[0] == pytest.approx(0.0, abs=1e-10) and min(losses[1:]) > 1e-4


def test_fog_and_disagreement_are_numbers(tmp_path):
    opacity = np.zeros((2, 8, 8), np.float32)
    opacity[:, 2:6, 2:6] = 1.0
    foggy = opacity.copy()
    foggy[:, 2:4, 2:6] = 0.3
    kept = tmp_path / "masks.npz"
    assert solidity(foggy, kept, is_mesh=False) == {"half_transparent": 0.5}
    scores = solidity(opacity, kept, is_mesh=True)
    assert scores == {"half_transparent": 0.0, "agreement": 0.5}
    assert solidity(np.zeros((2, 8, 8)), tmp_path / "none.npz", is_mesh=True) == {"half_transparent": 1.0}


def test_components_are_counted():
    import trimesh

    two = trimesh.util.concatenate([trimesh.creation.box(), trimesh.creation.box().apply_translation([3, 0, 0])])
    assert of_surface(two.vertices, two.faces)["components"] == 2
