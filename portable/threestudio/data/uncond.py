"""Cameras around an object: at random for training, on a turntable for validation and test."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from threestudio import register
from threestudio.utils.base import Updateable
from threestudio.utils.cameras import get_mvp_matrix, get_projection_matrix, get_ray_directions, get_rays, look_at
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import SpecificationError, UserError
from threestudio.utils.rng import batch_generator

NEAR, FAR = 0.01, 100.0


@dataclass
class RandomCameraDataModuleConfig:
    """Angles in degrees. Image sizes and batch size: a number, or one per interval of ``resolution_milestones``."""

    # training images; lists change at the global steps in resolution_milestones
    height: Any = 64
    width: Any = 64
    batch_size: Any = 1
    resolution_milestones: list[int] = field(default_factory=list)
    # validation and test images
    eval_height: int = 512
    eval_width: int = 512
    eval_batch_size: int = 1
    n_val_views: int = 1
    n_test_views: int = 120
    # where training cameras are drawn from
    elevation_range: tuple[float, float] = (-10, 90)
    azimuth_range: tuple[float, float] = (-180, 180)
    camera_distance_range: tuple[float, float] = (1, 1.5)
    fovy_range: tuple[float, float] = (40, 70)
    # half-width of the uniform shift of the camera; standard deviations of the target and of the up vector
    camera_perturb: float = 0.1
    center_perturb: float = 0.2
    up_perturb: float = 0.02
    # standard deviation of the light's position around the camera's, and its distance from the object
    light_position_perturb: float = 1.0
    light_distance_range: tuple[float, float] = (0.8, 1.5)
    # turntable
    eval_elevation_deg: float = 15.0
    eval_camera_distance: float = 1.5
    eval_fovy_deg: float = 70.0
    # "dreamfusion" (around the camera) or "magic3d" (in a cone about the camera's direction)
    light_sample_strategy: str = "dreamfusion"
    # one equal slice of azimuth per item of a batch
    batch_uniform_azimuth: bool = True
    # grow the ranges from the front view to their full extent during this many steps
    progressive_until: int = 0
    rays_d_normalize: bool = True


def spherical_to_cartesian(
    elevation: Float[Tensor, "B"], azimuth: Float[Tensor, "B"], distance: Float[Tensor, "B"]
) -> Float[Tensor, "B 3"]:
    """Positions from angles in radians; z up, azimuth from +x towards +y."""
    horizontal = distance * torch.cos(elevation)
    x, y = horizontal * torch.cos(azimuth), horizontal * torch.sin(azimuth)
    return torch.stack([x, y, distance * torch.sin(elevation)], -1)


def camera_batch(
    cfg: Any,
    unit_directions: Float[Tensor, "H W 3"],
    positions: Float[Tensor, "B 3"],
    c2w: Float[Tensor, "B 4 4"],
    fovy: Float[Tensor, "B"],
) -> dict[str, Tensor]:
    """Rays and matrices of cameras: ``rays_o``, ``rays_d`` [B, H, W, 3], ``mvp_mtx``, ``c2w``, ``proj_mtx`` [B, 4, 4].

    Args:
        unit_directions: directions for focal length 1.
        fovy: vertical field of view in radians.
    """
    height, width = unit_directions.shape[:2]
    focal = 0.5 * height / torch.tan(0.5 * fovy)
    directions = unit_directions.expand(len(positions), -1, -1, -1).clone()
    directions[..., :2] /= focal[:, None, None, None]
    rays_o, rays_d = get_rays(directions, c2w, keepdim=True, normalize=cfg.rays_d_normalize)
    proj_mtx = get_projection_matrix(fovy, width / height, NEAR, FAR)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, proj_mtx),
        "camera_positions": positions,
        "c2w": c2w,
        "proj_mtx": proj_mtx,
        "fovy": fovy,
    }


def _light_around_camera(position: Tensor, distance: Tensor, cfg: Any, generator: torch.Generator | None) -> Tensor:
    """DreamFusion, section 3.1: direction of the camera's position plus normal noise."""
    noise = torch.randn(position.shape, generator=generator) * cfg.light_position_perturb
    return F.normalize(position + noise, dim=-1) * distance[:, None]


def _light_in_cone(position: Tensor, distance: Tensor, cfg: Any, generator: torch.Generator | None) -> Tensor:
    """Magic3D: within 60 degrees of the camera's direction as seen from the object."""
    z = F.normalize(position, dim=-1)
    x = F.normalize(torch.stack([z[:, 1], -z[:, 0], torch.zeros_like(z[:, 0])], -1), dim=-1)
    y = F.normalize(torch.cross(z, x, dim=-1), dim=-1)
    azimuth = (torch.rand(len(z), generator=generator) * 2 - 1) * math.pi
    elevation = torch.rand(len(z), generator=generator) * math.pi / 3 + math.pi / 6
    local = spherical_to_cartesian(elevation, azimuth, distance)
    return (torch.stack([x, y, z], -1) @ local[:, :, None])[:, :, 0]


LIGHT_STRATEGIES = {"dreamfusion": _light_around_camera, "magic3d": _light_in_cone}


class RandomCameraIterableDataset(IterableDataset, Updateable):
    """Endless batches of random cameras.

    Batch ``index`` is drawn from a generator keyed by the index, so a resumed run sees the same cameras
    (:mod:`threestudio.utils.rng`).

    Args:
        start: index of the first batch.
        batches_per_step: batches that make up one global step (gradient accumulation).

    Raises:
        ValueError, AssertionError: sizes below 1, lists of unequal length, lists without milestones, an unknown light
            strategy.
    """

    def __init__(self, cfg: Any, start: int = 0, batches_per_step: int = 1) -> None:
        super().__init__()
        self.cfg = cfg
        self.start, self.batches_per_step = start, batches_per_step
        if cfg.light_sample_strategy not in LIGHT_STRATEGIES:
            raise UserError(
                f"unknown data.light_sample_strategy '{cfg.light_sample_strategy}'; "
                f"choices: {', '.join(LIGHT_STRATEGIES)}"
            )
        sizes = {key: _as_list(cfg[key]) for key in ("height", "width", "batch_size")}
        lengths = {key: len(values) for key, values in sizes.items()}
        if len(set(lengths.values())) > 1 or lengths["height"] != len(cfg.resolution_milestones) + 1:
            raise SpecificationError(
                f"data.height, width and batch_size need one value per interval of data.resolution_milestones, that is "
                f"{len(cfg.resolution_milestones) + 1} each; got {lengths}"
            )
        _require_positive(sizes)
        self.heights, self.widths, self.batch_sizes = sizes.values()
        self.directions_unit_focals = [get_ray_directions(h, w, 1.0) for h, w in zip(self.heights, self.widths)]
        self.update_step(0, start // batches_per_step)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Image size and angular ranges of this step."""
        size = bisect.bisect_right(list(self.cfg.resolution_milestones), global_step)
        self.height, self.width, self.batch_size = self.heights[size], self.widths[size], self.batch_sizes[size]
        self.directions_unit_focal = self.directions_unit_focals[size]
        self.progressive_view(global_step)

    def progressive_view(self, global_step: int) -> None:
        """Ranges between the front view (evaluation's elevation, azimuth 0) and their full extent."""
        r = min(1.0, global_step / (self.cfg.progressive_until + 1)) if self.cfg.progressive_until > 0 else 1.0
        low, high = self.cfg.elevation_range
        middle = self.cfg.eval_elevation_deg
        self.elevation_range = [(1 - r) * middle + r * low, (1 - r) * middle + r * high]
        self.azimuth_range = [r * angle for angle in self.cfg.azimuth_range]

    def __iter__(self) -> Iterator[dict]:
        for index in count(self.start):
            # Lightning may fetch ahead of the step, so the batch follows its own step, not the trainer's.
            self.update_step(0, index // self.batches_per_step)
            yield {"index": index}

    def collate(self, batch: dict | None) -> dict[str, Any]:
        """Draw one batch of cameras; without an index, from the global generator."""
        cfg, size = self.cfg, self.batch_size
        generator = batch_generator(batch["index"]) if batch else None

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(shape or (size,), generator=generator) * (high - low) + low

        elevation_deg = self._elevation(uniform)
        azimuth_low, azimuth_high = self.azimuth_range
        share = uniform(0, 1)
        if cfg.batch_uniform_azimuth:
            share = (share + torch.arange(size)) / size
        azimuth_deg = share * (azimuth_high - azimuth_low) + azimuth_low
        distances = uniform(*cfg.camera_distance_range)
        positions = spherical_to_cartesian(torch.deg2rad(elevation_deg), torch.deg2rad(azimuth_deg), distances)

        positions = positions + uniform(-cfg.camera_perturb, cfg.camera_perturb, size, 3)
        center = torch.randn(size, 3, generator=generator) * cfg.center_perturb
        up = torch.tensor([0.0, 0.0, 1.0]) + torch.randn(size, 3, generator=generator) * cfg.up_perturb
        fovy = torch.deg2rad(uniform(*cfg.fovy_range))
        light = LIGHT_STRATEGIES[cfg.light_sample_strategy]
        light_positions = light(positions, uniform(*cfg.light_distance_range), cfg, generator)

        cameras = camera_batch(cfg, self.directions_unit_focal, positions, look_at(positions, center, up), fovy)
        return {
            **cameras,
            "light_positions": light_positions,
            "elevation": elevation_deg,
            "azimuth": azimuth_deg,
            "camera_distances": distances,
            "height": self.height,
            "width": self.width,
        }

    def _elevation(self, uniform) -> Float[Tensor, "B"]:
        """Half of the batches uniform in the angle (many views from above), half uniform on the sphere."""
        low, high = self.elevation_range
        if uniform(0, 1, 1).item() < 0.5:
            return uniform(low, high)
        sine = uniform(math.sin(math.radians(low)), math.sin(math.radians(high)))
        return torch.rad2deg(torch.asin(sine.clamp(-1.0, 1.0)))


class RandomCameraDataset(Dataset):
    """Turntable: ``n_val_views`` or ``n_test_views`` cameras at equal azimuth steps, each lit from its own position.

    Args:
        split: ``val`` (the last view is not the first again) or ``test`` (both 0 and 360 degrees, for a closed loop).
    """

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.cfg, self.split = cfg, split
        keys = ("eval_height", "eval_width", "eval_batch_size", "n_val_views", "n_test_views")
        _require_positive({key: [cfg[key]] for key in keys})
        self.n_views = cfg.n_val_views if split == "val" else cfg.n_test_views
        if split == "val":
            azimuth_deg = torch.linspace(0, 360.0, self.n_views + 1)[: self.n_views]
        else:
            azimuth_deg = torch.linspace(0, 360.0, self.n_views)
        elevation_deg = torch.full_like(azimuth_deg, cfg.eval_elevation_deg)
        distances = torch.full_like(azimuth_deg, cfg.eval_camera_distance)
        fovy = torch.deg2rad(torch.full_like(azimuth_deg, cfg.eval_fovy_deg))
        positions = spherical_to_cartesian(torch.deg2rad(elevation_deg), torch.deg2rad(azimuth_deg), distances)
        up = torch.tensor([0.0, 0.0, 1.0]).expand_as(positions)
        c2w = look_at(positions, torch.zeros_like(positions), up)
        directions = get_ray_directions(cfg.eval_height, cfg.eval_width, 1.0)
        self.items: dict[str, Tensor] = {
            **camera_batch(cfg, directions, positions, c2w, fovy),
            "light_positions": positions,
            "elevation": elevation_deg,
            "azimuth": azimuth_deg,
            "camera_distances": distances,
        }

    def __len__(self) -> int:
        return self.n_views

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {key: value[index] for key, value in self.items.items()}
        return {"index": index, **item, "height": self.cfg.eval_height, "width": self.cfg.eval_width}

    def collate(self, batch: list[dict]) -> dict[str, Any]:
        """Stack views; height and width stay plain ints."""
        return {**default_collate(batch), "height": self.cfg.eval_height, "width": self.cfg.eval_width}


def _as_list(value: Any) -> list:
    return [value] if isinstance(value, (int, float)) else list(value)


def _require_positive(sizes: dict[str, list]) -> None:
    for key, values in sizes.items():
        if any(not isinstance(value, int) or value < 1 for value in values):
            shown = values[0] if len(values) == 1 else values
            raise UserError(f"data.{key} must be a whole number of at least 1, got {shown}")


@register("random-camera-datamodule")
class RandomCameraDataModule(pl.LightningDataModule):
    """Random cameras for training, a turntable for validation, test and export."""

    cfg: RandomCameraDataModuleConfig

    def __init__(self, cfg: dict | DictConfig | None = None) -> None:
        super().__init__()
        self.cfg = parse_structured(RandomCameraDataModuleConfig, cfg)

    def setup(self, stage: str | None = None) -> None:
        """Build the splits that ``stage`` (fit, validate, test, predict; None: all) needs."""
        if stage in (None, "fit"):
            self.train_dataset = RandomCameraIterableDataset(self.cfg)
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = RandomCameraDataset(self.cfg, "test")

    def train_dataloader(self) -> DataLoader:
        """Endless; goes on where the trainer stands."""
        if self.trainer is not None:
            per_step = self.trainer.accumulate_grad_batches
            start = self.trainer.global_step * per_step
            self.train_dataset = RandomCameraIterableDataset(self.cfg, start, per_step)
        # No workers: a batch takes a millisecond, and workers would hold a state that checkpoints do not.
        return DataLoader(self.train_dataset, batch_size=None, num_workers=0, collate_fn=self.train_dataset.collate)

    def _evaluation_loader(self, dataset: RandomCameraDataset) -> DataLoader:
        return DataLoader(dataset, batch_size=self.cfg.eval_batch_size, num_workers=0, collate_fn=dataset.collate)

    def val_dataloader(self) -> DataLoader:
        """Views for validation pictures."""
        return self._evaluation_loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader:
        """Views of the turntable video."""
        return self._evaluation_loader(self.test_dataset)

    def predict_dataloader(self) -> DataLoader:
        """The test views; exporters that need no camera use only the first."""
        return self._evaluation_loader(self.test_dataset)
