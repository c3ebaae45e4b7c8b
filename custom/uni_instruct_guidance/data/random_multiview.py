"""`random-multiview-camera-datamodule`: groups of cameras, for teachers that draw several views of an object at once.

Its fields are those of threestudio's random cameras and of MVDream's extension for it. Nothing here is of one host: it
runs in the built-in one and in threestudio, and a resumed run sees the same cameras in both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

import threestudio
from threestudio.data.uncond import (
    RandomCameraDataModule,
    RandomCameraDataModuleConfig,
    RandomCameraIterableDataset,
)
from threestudio.utils.config import parse_structured
from threestudio.utils.misc import get_rank
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix, get_rays

from ..core.errors import UserError, choose
from ..core.orbits import cartesian, elevations, lens, look_at, orbit_azimuths, turned
from ..teachers.randomness import generator

NEAR, FAR = 0.01, 100.0


@dataclass
class RandomMultiviewCameraDataModuleConfig(RandomCameraDataModuleConfig):
    """The fields of random cameras, drawn once for a group of `n_view` consecutive views, and three of its own.

    batch_size counts views. azimuth_range is where the first view of a group stands; the others follow 360/n_view
    degrees apart. What is shifted or lit is shifted and lit as seen from the camera: a group turns as a whole.

    n_view: views of a group.
    relative_radius: camera_distance_range is in units of 1/tan(fovy/2): an object is as large in the picture whatever
        the field of view.
    zoom_range: factor on the field of view once the distance is fixed; below 1 the object grows.
    """

    relative_radius: bool = True
    n_view: int = 1
    zoom_range: tuple[float, float] = (1.0, 1.0)


def _light_around_camera(position: Tensor, noise: Tensor, share: Tensor, spread: float) -> Tensor:
    """DreamFusion, section 3.1: the camera's position plus normal noise."""
    return F.normalize(position + noise * spread, dim=-1)


def _light_in_cone(position: Tensor, noise: Tensor, share: Tensor, spread: float) -> Tensor:
    """Magic3D: within 60 degrees of the camera's direction as seen from the object, all angles alike."""
    axis = F.normalize(position, dim=-1)
    off = F.normalize(noise - (noise * axis).sum(-1, keepdim=True) * axis, dim=-1)
    angle = share[:, None] * (math.pi / 3)
    return axis * angle.cos() + off * angle.sin()


#: data.light_sample_strategy -> directions of the lights [G, 3] from the cameras' positions [G, 3], normal noise
#: [G, 3], uniform numbers [G] and data.light_position_perturb.
LIGHTS = {"dreamfusion": _light_around_camera, "magic3d": _light_in_cone}


class RandomMultiviewCameraIterableDataset(RandomCameraIterableDataset):
    """Endless batches of groups; batch `index` depends on the run's seed and the index alone.

    Args:
        start: index of the first batch. batches_per_step: batches of one global step (gradient accumulation).

    Raises:
        ValueError: a batch size that is not a multiple of n_view, an unknown light strategy.
    """

    def __init__(self, cfg: Any, start: int = 0, batches_per_step: int = 1) -> None:
        super().__init__(cfg)
        choose("data.light_sample_strategy", cfg.light_sample_strategy, LIGHTS)
        if cfg.n_view < 1:
            raise UserError(f"data.n_view={cfg.n_view} must be at least 1")
        for size in self.batch_sizes:
            if size % cfg.n_view:
                raise UserError(
                    f"data.batch_size={size} must be a multiple of data.n_view={cfg.n_view}: a batch holds whole groups"
                )
        self.start, self.batches_per_step = start, batches_per_step
        self.update_step(0, start // batches_per_step)

    def __iter__(self) -> Iterator[dict]:
        for index in count(self.start):
            # Lightning may fetch ahead of the step, so the batch follows its own step, not the trainer's.
            self.update_step(0, index // self.batches_per_step)
            yield {"index": index}

    def collate(self, batch: dict | None) -> dict[str, Any]:
        """Draw one batch of groups; without an index, from the global generator."""
        cfg, n, groups = self.cfg, self.cfg.n_view, self.batch_size // self.cfg.n_view
        seed = int(os.environ.get("PL_GLOBAL_SEED") or 0)
        random = generator(seed, batch["index"], "groups of cameras", get_rank()) if batch else None

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(shape or (groups,), generator=random) * (high - low) + low

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        even_angle = uniform(0, 1, 1) < 0.5
        elevation = elevations(uniform(0, 1), *self.elevation_range, even_angle)
        share = uniform(0, 1)
        if cfg.batch_uniform_azimuth:  # one equal slice per group
            share = (share + torch.arange(groups)) / groups
        azimuth = share * (self.azimuth_range[1] - self.azimuth_range[0]) + self.azimuth_range[0]
        fovy_deg, distance, zoom = (uniform(*r) for r in (cfg.fovy_range, cfg.camera_distance_range, cfg.zoom_range))
        distance, fovy = lens(distance, fovy_deg, zoom, cfg.relative_radius)

        position = cartesian(elevation, azimuth, distance)
        position = position + uniform(-cfg.camera_perturb, cfg.camera_perturb, groups, 3)
        target = normal(groups, 3) * cfg.center_perturb
        up = torch.tensor([0.0, 0.0, 1.0]) + normal(groups, 3) * cfg.up_perturb
        shed = LIGHTS[cfg.light_sample_strategy](position, normal(groups, 3), uniform(0, 1), cfg.light_position_perturb)
        light = shed * uniform(*cfg.light_distance_range)[:, None]

        def each(values: Tensor) -> Tensor:
            return values.repeat_interleave(n, 0)

        c2w = turned(look_at(position, target, up), n)
        return {
            **self._rays(c2w, each(fovy)),
            "camera_positions": c2w[:, :3, 3].contiguous(),
            "c2w": c2w,
            "light_positions": turned(light, n),
            "elevation": each(elevation),
            "azimuth": orbit_azimuths(azimuth, n),
            "camera_distances": each(distance),
            "fovy": each(fovy),
            "height": self.height,
            "width": self.width,
            "n_view": n,
        }

    def _rays(self, c2w: Tensor, fovy: Tensor) -> dict[str, Tensor]:
        """`rays_o`, `rays_d` [B, H, W, 3], `mvp_mtx`, `proj_mtx` [B, 4, 4]."""
        focal = 0.5 * self.height / torch.tan(0.5 * fovy)
        directions = self.directions_unit_focal.expand(len(c2w), -1, -1, -1).clone()
        directions[..., :2] /= focal[:, None, None, None]
        rays_o, rays_d = get_rays(directions, c2w, keepdim=True, normalize=self.cfg.rays_d_normalize)
        proj_mtx = get_projection_matrix(fovy, self.width / self.height, NEAR, FAR)
        return {
            "rays_o": rays_o,
            "rays_d": rays_d,
            "mvp_mtx": get_mvp_matrix(c2w, proj_mtx),
            "proj_mtx": proj_mtx,
        }


class RandomMultiviewCameraDataModule(RandomCameraDataModule):
    """Groups of random cameras for training; the stock turntable for validation, test and export."""

    cfg: RandomMultiviewCameraDataModuleConfig

    def __init__(self, cfg: Any = None) -> None:
        super().__init__({})
        self.cfg = parse_structured(RandomMultiviewCameraDataModuleConfig, cfg)

    def setup(self, stage: str | None = None) -> None:
        """The stock splits, but groups for training."""
        super().setup(stage)
        if stage in (None, "fit"):
            self.train_dataset = RandomMultiviewCameraIterableDataset(self.cfg)

    def train_dataloader(self) -> DataLoader:
        """Endless; goes on where the trainer stands."""
        if self.trainer is not None:
            per_step = self.trainer.accumulate_grad_batches
            start = self.trainer.global_step * per_step
            self.train_dataset = RandomMultiviewCameraIterableDataset(self.cfg, start, per_step)
        return DataLoader(self.train_dataset, batch_size=None, num_workers=0, collate_fn=self.train_dataset.collate)


NAME = "random-multiview-camera-datamodule"
try:
    threestudio.find(NAME)
except KeyError:  # a host that has MVDream's own keeps it
    threestudio.register(NAME)(RandomMultiviewCameraDataModule)
