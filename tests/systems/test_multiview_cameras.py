"""`random-multiview-camera-datamodule`: what the cameras of a group share, and that a batch depends on its index."""

from __future__ import annotations

import math

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from threestudio.data.uncond import RandomCameraDataModuleConfig
from threestudio.utils.config import parse_structured
from threestudio.utils.ops import get_mvp_matrix
from uni_instruct_guidance.core.orbits import are_orbits, cartesian, look_at, turned
from uni_instruct_guidance.data.random_multiview import (
    RandomMultiviewCameraDataModuleConfig,
    RandomMultiviewCameraIterableDataset,
)

STILL = {"camera_perturb": 0.0, "center_perturb": 0.0, "up_perturb": 0.0}


def dataset(start=0, **keys):
    fields = {"n_view": 4, "batch_size": 8, "height": 2, "width": 3, **keys}
    return RandomMultiviewCameraIterableDataset(parse_structured(RandomMultiviewCameraDataModuleConfig, fields), start)


def groups(values, n=4):
    return values.unflatten(0, (-1, n))


def test_views_of_a_group_are_an_orbit_and_share_the_rest():
    for index in range(10):
        batch = dataset(**STILL).collate({"index": index})
        assert are_orbits(batch["elevation"], batch["azimuth"], 4)
        for key in ("elevation", "fovy", "camera_distances"):
            assert (groups(batch[key]) == groups(batch[key])[:, :1]).all(), key
            assert groups(batch[key])[0, 0] != groups(batch[key])[1, 0], key
        where = cartesian(batch["elevation"], batch["azimuth"], batch["camera_distances"])
        torch.testing.assert_close(batch["camera_positions"], where, rtol=1e-4, atol=1e-4)
        looking = look_at(where, torch.zeros(8, 3), torch.tensor([0.0, 0.0, 1.0]).expand(8, 3))
        torch.testing.assert_close(batch["c2w"], looking, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch["mvp_mtx"], get_mvp_matrix(batch["c2w"], batch["proj_mtx"]))
        assert batch["rays_d"].shape == (8, 2, 3, 3) and batch["n_view"] == 4
        torch.testing.assert_close(batch["rays_o"][:, 0, 0], batch["camera_positions"])
        # rays of a pixel turn with their camera
        first = groups(batch["rays_d"])[:, 0, 1, 2]
        torch.testing.assert_close(turned(first, 4), batch["rays_d"][:, 1, 2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(turned(groups(batch["light_positions"])[:, 0], 4), batch["light_positions"])


def test_cameras_stay_in_their_ranges():
    keys = {"elevation_range": (10, 40), "azimuth_range": (-30, 30), "fovy_range": (40, 50), "relative_radius": False}
    drawn = dataset(camera_distance_range=(1.5, 1.8), **keys, **STILL)
    batches = [drawn.collate({"index": index}) for index in range(30)]
    for key, low, high in (("elevation", 10, 40), ("camera_distances", 1.5, 1.8)):
        values = torch.cat([batch[key] for batch in batches])
        assert values.min() >= low - 1e-3 and values.max() <= high + 1e-3, key
        assert values.max() - values.min() > 0.8 * (high - low), key
    first = torch.cat([groups(batch["azimuth"])[:, 0] for batch in batches])
    assert first.abs().max() <= 30 and first.max() - first.min() > 45


def test_relative_radius_keeps_the_size_in_the_picture_and_zoom_changes_it():
    ranges = {"fovy_range": (20, 60), "camera_distance_range": (0.9, 0.9), **STILL}
    batch = dataset(**ranges).collate({"index": 0})
    torch.testing.assert_close(batch["camera_distances"] * torch.tan(batch["fovy"] / 2), torch.full((8,), 0.9))
    plain = dataset(relative_radius=False, **ranges).collate({"index": 0})
    torch.testing.assert_close(plain["camera_distances"], torch.full((8,), 0.9))
    near = dataset(zoom_range=(0.5, 0.5), **ranges).collate({"index": 0})
    torch.testing.assert_close(near["fovy"], batch["fovy"] * 0.5)
    torch.testing.assert_close(near["camera_distances"], batch["camera_distances"])


def test_magic3d_light_lies_in_its_cone():
    batch = dataset(light_sample_strategy="magic3d", batch_size=64).collate({"index": 0})
    cosine = torch.cosine_similarity(batch["light_positions"], batch["camera_positions"])
    assert (cosine >= math.cos(math.radians(60)) - 1e-4).all() and cosine.min() < 0.8


def test_batches_depend_on_their_index_alone():
    keys = {
        "height": [2, 4],
        "width": [2, 4],
        "batch_size": [8, 4],
        "resolution_milestones": [3],
        "progressive_until": 6,
    }
    whole = dataset(**keys)
    from_start = [whole.collate(item) for _, item in zip(range(6), whole)]
    torch.manual_seed(123)
    late = dataset(start=2, **keys)
    resumed = [late.collate(item) for _, item in zip(range(4), late)]
    for a, b in zip(from_start[2:], resumed):
        assert all(torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key] for key in a)
    assert not torch.equal(from_start[0]["azimuth"], from_start[1]["azimuth"])
    assert [len(batch["azimuth"]) for batch in from_start] == [8, 8, 8, 4, 4, 4]
    assert (from_start[0]["azimuth"][::4].abs() < 1e-3).all(), "progressive views begin in front"


def test_fields_are_random_cameras_and_three_more():
    fields = OmegaConf.to_container(parse_structured(RandomMultiviewCameraDataModuleConfig, {}))
    stock = OmegaConf.to_container(parse_structured(RandomCameraDataModuleConfig, {}))
    own = {key: fields.pop(key) for key in ("n_view", "relative_radius", "zoom_range")}
    assert own == {"n_view": 1, "relative_radius": True, "zoom_range": own["zoom_range"]}
    assert list(own["zoom_range"]) == [1.0, 1.0]
    assert fields == stock


def test_the_module_serves_every_split():
    module = threestudio.find("random-multiview-camera-datamodule")(
        {"n_view": 2, "batch_size": 4, "height": 2, "width": 3, "eval_height": 2, "eval_width": 2, "n_test_views": 3}
    )
    module.setup()
    assert next(iter(module.train_dataloader()))["rays_d"].shape == (4, 2, 3, 3)
    assert len(list(module.val_dataloader())) == 1 and len(list(module.test_dataloader())) == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_size": 6}, r"data\.batch_size=6 must be a multiple of data\.n_view=4"),
        ({"batch_size": [8, 6], "height": [2, 2], "width": [2, 2], "resolution_milestones": [5]}, "batch_size=6"),
        ({"n_view": 0}, r"data\.n_view=0 must be at least 1"),
        ({"light_sample_strategy": "sun"}, "light_sample_strategy.*sun.*dreamfusion"),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=message) as caught:
        dataset(**keys)
    assert "\n" not in str(caught.value)


def test_cameras_are_those_that_the_worlds_teacher_learned():
    """The teacher was told the world's own camera matrices: ours are the same numbers."""
    from uni_instruct_3d.shapes_world.render import look_at as world_camera
    from uni_instruct_guidance.teachers.stable_diffusion.multi_view import camera_matrix

    batch = dataset(**STILL, relative_radius=True).collate({"index": 1})
    for row in range(8):
        azimuth, elevation = float(batch["azimuth"][row]), float(batch["elevation"][row])
        told = camera_matrix(torch.as_tensor(world_camera(azimuth, elevation, 1.0)).float()[None])
        torch.testing.assert_close(camera_matrix(batch["c2w"][row : row + 1]), told, rtol=1e-4, atol=1e-4)


def test_pictures_of_a_finished_stage_take_its_data_block():
    """Fields of groups say nothing about a turntable."""
    from types import SimpleNamespace

    from uni_instruct_3d.pipeline.pictures import around

    scene = SimpleNamespace(device="cpu", renderer=lambda **batch: batch)
    block = OmegaConf.to_container(
        parse_structured(RandomMultiviewCameraDataModuleConfig, {"n_view": 4, "eval_elevation_deg": 30.0})
    )
    seen = list(around(scene, block, 3, 8))
    assert [view["rays_d"].shape for view in seen] == [(1, 8, 8, 3)] * 3
    assert all(float(view["elevation"]) == 30.0 for view in seen)
