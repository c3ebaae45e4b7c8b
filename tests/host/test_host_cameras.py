"""Cameras, rays and the random-camera data module against the reference's values and analytic cameras."""

from __future__ import annotations

import math

import pytest
import torch
from contract_values import CONTRACT, close, numbers
from omegaconf import OmegaConf

import threestudio
from threestudio.data.uncond import RandomCameraDataModuleConfig, RandomCameraDataset, RandomCameraIterableDataset
from threestudio.utils import cameras
from threestudio.utils.config import parse_structured

CAMERAS = CONTRACT["cameras"]


def config(**keys):
    """Checked configuration of the data module."""
    return parse_structured(RandomCameraDataModuleConfig, keys)


@pytest.mark.parametrize("row", CAMERAS["ray_directions"], ids=lambda r: f"{r['H']}x{r['W']}-{r['focal']}")
def test_ray_directions(row):
    args = (row["H"], row["W"], row["focal"], row["principal"], row["use_pixel_centers"])
    close(cameras.get_ray_directions(*args), row["out"])


def test_ray_directions_errors():
    with pytest.raises(TypeError):
        cameras.get_ray_directions(2, 2, 1)
    with pytest.raises(AssertionError, match="principal"):
        cameras.get_ray_directions(2, 2, (1.0, 2.0))


@pytest.mark.parametrize("row", CAMERAS["get_rays"], ids=lambda r: r["case"])
def test_rays(row):
    rays_o, rays_d = cameras.get_rays(numbers(row["directions"]), numbers(row["c2w"]), **row["kwargs"])
    assert list(rays_d.shape) == row["shape"] == list(rays_o.shape)
    close(rays_o, row["rays_o"])
    close(rays_d, row["rays_d"])


def test_rays_of_three_images_keep_their_own_cameras():
    """Three images of three rows: nothing may broadcast over the wrong axis."""
    directions = cameras.get_ray_directions(3, 3, 1.0)
    c2w = torch.eye(4).repeat(3, 1, 1)
    c2w[:, :3, 3] = torch.arange(9.0).reshape(3, 3)
    rays_o, _ = cameras.get_rays(directions.expand(3, 3, 3, 3), c2w, keepdim=True)
    close(rays_o, c2w[:, None, None, :3, 3].expand(3, 3, 3, 3))


@pytest.mark.parametrize("section", ["projection", "projection_default_planes"])
def test_projection(section):
    row = CAMERAS[section]
    out = cameras.get_projection_matrix(numbers(row["fovy"]), row["aspect_wh"], row["near"], row["far"])
    close(out, row["out"])


def test_mvp_and_full_projection():
    row = CAMERAS["mvp"]
    close(cameras.get_mvp_matrix(numbers(row["c2w"]), numbers(row["proj_mtx"])), row["out"])
    row = CAMERAS["full_projection"]
    close(cameras.get_full_projection_matrix(numbers(row["c2w"]), numbers(row["proj_mtx"])), row["out"])


def test_full_projection_takes_single_cameras():
    with pytest.raises(RuntimeError):
        cameras.get_full_projection_matrix(torch.eye(4).repeat(2, 1, 1), torch.eye(4).repeat(2, 1, 1))


def test_datamodule_defaults():
    actual = OmegaConf.to_container(config())
    for key, expected in CAMERAS["datamodule_defaults"].items():
        assert (list(actual[key]) if isinstance(actual[key], tuple) else actual[key]) == expected, key
    assert actual.keys() == CAMERAS["datamodule_defaults"].keys()


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_views(split):
    section = CAMERAS["eval_dataset"]
    expected = section[split]
    dataset = RandomCameraDataset(config(**section["cfg"]), split)
    views = [dataset[i] for i in range(len(dataset))]
    assert len(dataset) == expected["n"]
    assert set(views[0]) == set(expected["keys"])
    for key in ("elevation", "azimuth", "camera_positions", "light_positions", "c2w", "mvp_mtx", "proj_mtx"):
        close(torch.stack([view[key] for view in views]), expected[key])
    for key in ("camera_distances", "fovy"):
        close(torch.stack([view[key] for view in views]), expected[key])
    close(views[1]["rays_o"], expected["rays_o_view1"])
    close(views[1]["rays_d"], expected["rays_d_view1"])
    assert [view["index"] for view in views] == expected["index"]
    batch = dataset.collate([views[1]])
    for key, shape in expected["collate_one"].items():
        assert batch[key] == shape if isinstance(shape, int) else list(batch[key].shape) == shape, key


def test_nonsquare_view_with_raw_rays():
    row = CAMERAS["eval_nonsquare_raw_rays"]
    view = RandomCameraDataset(config(**row["cfg"]), "val")[row["view"]]
    for key in ("c2w", "mvp_mtx", "proj_mtx", "rays_d", "fovy", "azimuth", "elevation"):
        close(view[key], row[key])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_three_evaluation_views_look_at_the_object(batch_size):
    """The reference fails here: its cross product runs over the wrong axis when there are three cameras."""
    row = CAMERAS["three_views"]["eval_batch_size_3"]
    dataset = RandomCameraDataset(config(**{**row["cfg"], "eval_batch_size": batch_size}), "val")
    batch = dataset.collate([dataset[i] for i in range(3)])
    close(batch["c2w"], row["look_at_c2w"])


def test_three_training_views_look_at_the_object():
    row = CAMERAS["three_views"]["train_batch_size_3"]
    dataset = RandomCameraIterableDataset(config(**row["cfg"]))
    batch = dataset.collate(None)
    to_object = -torch.nn.functional.normalize(batch["camera_positions"], dim=-1)
    close(-batch["c2w"][:, :3, 2], to_object)
    # a rotation: orthonormal and right-handed, the right vector horizontal since up is z
    rotation = batch["c2w"][:, :3, :3]
    close(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(3, 3, 3))
    close(torch.linalg.det(rotation), torch.ones(3))
    close(rotation[:, 2, 0], torch.zeros(3))
    positions = numbers(row["camera_positions"])
    up = torch.tensor([0.0, 0.0, 1.0]).expand(3, 3)
    close(cameras.look_at(positions, torch.zeros(3, 3), up), row["look_at_c2w"])


def test_training_batch_without_randomness():
    row = CAMERAS["train_batch_collapsed"]
    batch = RandomCameraIterableDataset(config(**row["cfg"])).collate(None)
    assert set(batch) == set(row["keys"])
    for key, expected in row["out"].items():
        if isinstance(expected, int):
            assert batch[key] == expected
        else:
            close(batch[key], expected)


def test_magic3d_light_lies_in_its_cone():
    dataset = RandomCameraIterableDataset(config(batch_size=64, light_sample_strategy="magic3d", height=1, width=1))
    batch = dataset.collate({"index": 0})
    light, camera = batch["light_positions"], batch["camera_positions"]
    cosine = torch.nn.functional.cosine_similarity(light, camera)
    assert (cosine >= math.cos(math.radians(60)) - 1e-5).all()
    distance = light.norm(dim=-1)
    assert (distance >= 0.8 - 1e-5).all() and (distance <= 1.5 + 1e-5).all()


def test_progressive_ranges_and_milestones():
    section = CAMERAS["progressive_view"]
    dataset = RandomCameraIterableDataset(config(**section["cfg"]))
    for row in section["steps"]:
        dataset.update_step(0, row["global_step"])
        assert dataset.elevation_range == pytest.approx(row["elevation_range"])
        assert dataset.azimuth_range == pytest.approx(row["azimuth_range"])
        assert (dataset.height, dataset.width, dataset.batch_size) == (row["height"], row["width"], row["batch_size"])


def test_every_batch_item_has_its_own_azimuth_bin():
    section = CAMERAS["batch_uniform_azimuth"]
    dataset = RandomCameraIterableDataset(config(**section["cfg"]))
    for index in range(20):
        azimuth = dataset.collate({"index": index})["azimuth"]
        for angle, (low, high) in zip(azimuth.tolist(), section["bins"]):
            assert low <= angle <= high


@pytest.mark.parametrize("elevation_range", [(-10, 90), (30, 40)])
def test_training_cameras_stay_in_their_ranges(elevation_range):
    dataset = RandomCameraIterableDataset(config(batch_size=8, elevation_range=elevation_range, height=1, width=1))
    for index in range(20):
        batch = dataset.collate({"index": index})
        assert (batch["elevation"] >= elevation_range[0] - 1e-3).all()
        assert (batch["elevation"] <= elevation_range[1] + 1e-3).all()
        assert (batch["fovy"] >= math.radians(40)).all() and (batch["fovy"] <= math.radians(70)).all()


def test_batches_depend_on_their_index_alone():
    """What resuming rests on: starting later gives the same batches, whatever the global generators did."""
    cfg = config(height=[2, 4], width=[2, 4], batch_size=[2, 1], resolution_milestones=[3], progressive_until=6)
    whole = RandomCameraIterableDataset(cfg)
    from_start = [whole.collate(item) for _, item in zip(range(6), whole)]
    torch.manual_seed(123)
    late = RandomCameraIterableDataset(cfg, start=2)
    resumed = [late.collate(item) for _, item in zip(range(4), late)]
    for a, b in zip(from_start[2:], resumed):
        assert all(torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key] for key in a)
    assert not torch.equal(from_start[0]["azimuth"], from_start[1]["azimuth"])
    assert [batch["height"] for batch in from_start] == [2, 2, 2, 4, 4, 4]


BAD = [
    ({"light_sample_strategy": "sun"}, ValueError, "light_sample_strategy 'sun'; choices: dreamfusion, magic3d"),
    ({"height": [4, 8], "width": [4], "batch_size": [1, 1]}, AssertionError, "data.height"),
    ({"height": [4, 8], "width": [4, 8], "batch_size": [1, 1]}, AssertionError, "data.resolution_milestones"),
    ({"height": 0}, ValueError, "data.height must be a whole number of at least 1, got 0"),
    ({"batch_size": -1}, ValueError, "data.batch_size"),
]


@pytest.mark.parametrize("keys,error,message", BAD, ids=lambda v: str(v))
def test_mistakes_are_named(keys, error, message):
    with pytest.raises(error, match=message):
        RandomCameraIterableDataset(config(**keys))


def test_zero_evaluation_size_is_named():
    with pytest.raises(ValueError, match=r"data\.eval_height"):
        RandomCameraDataset(config(eval_height=0), "val")


def test_datamodule_serves_every_split():
    module = threestudio.find("random-camera-datamodule")(
        {"height": 2, "width": 3, "eval_height": 2, "eval_width": 2, "n_test_views": 3, "eval_batch_size": 2}
    )
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert batch["rays_d"].shape == (1, 2, 3, 3)
    assert len(list(module.val_dataloader())) == 1
    assert [len(batch["index"]) for batch in module.test_dataloader()] == [2, 1]
