"""What is looked at: a trained stage, loaded from its folder, or an object of the built-in world itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from threestudio.utils.misc import get_device
from uni_instruct_guidance.scoring.checkpoints import camera_batch, load_scene, scene_framing
from uni_instruct_guidance.scoring.protocols import Protocol as Cameras

from ..shapes_world import COLORS, PATTERNS, Instance, instance_mesh, make_instance
from ..shapes_world.render import render_c2w
from ..world_metrics import Asked

Surface = tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]
#: Of the world's objects that are scored themselves.
FIRST_SEED = 800_000


@dataclass
class Views:
    """Pictures and coverage of one asset, 0..1."""

    rgb: Float[np.ndarray, "n S S 3"]
    opacity: Float[np.ndarray, "n S S"]

    @property
    def rgb8(self) -> UInt8[np.ndarray, "n S S 3"]:
        """Pictures in 0..255."""
        return (255 * self.rgb + 0.5).astype(np.uint8)


class Asset(Protocol):
    """What can be scored."""

    def render(self, cameras: Cameras) -> Views:
        """From the protocol's cameras, before its background."""

    def surface(self) -> Surface:
        """Vertices and faces, world coordinates."""


@dataclass(frozen=True)
class Trained:
    """A finished trial folder, or a checkpoint in it. Both methods raise ValueError where there is no 3D scene."""

    trial: Path

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Views:
        """Through the stage's own renderer."""
        scene = load_scene(self.trial, cameras.background)
        framing = scene_framing(scene, cameras)
        pictures, coverage = [], []
        for camera, fovy in zip(cameras.cameras(framing).to(get_device()), cameras.fovy_deg.tolist()):
            out = scene.renderer(**camera_batch(camera[None], fovy, cameras.size, framing))
            pictures.append(out["comp_rgb"][0].clamp(0, 1).cpu().numpy())
            coverage.append(out["opacity"][0, ..., 0].cpu().numpy())
        return Views(np.stack(pictures), np.stack(coverage))

    @torch.no_grad()
    def surface(self) -> Surface:
        """Of the trial's geometry."""
        mesh = load_scene(self.trial, (1.0, 1.0, 1.0)).geometry.isosurface()
        return mesh.v_pos.cpu().numpy(), mesh.t_pos_idx.cpu().numpy()


@dataclass(frozen=True)
class WorldObject:
    """An object of the built-in world that is what a prompt asks for.

    asked: of the colours and patterns that count as right, `seed` picks one, and the proportions.
    """

    asked: Asked
    seed: int

    @cached_property
    def instance(self) -> Instance:
        """Drawn with seeds of its own: neither the training's nor those of the instances that shapes are held to."""
        pick = np.random.default_rng(self.seed)
        color = str(pick.choice(self.asked.colors or COLORS))
        pattern = str(pick.choice(self.asked.patterns or PATTERNS))
        return make_instance(self.asked.class_name, color, pattern, FIRST_SEED + self.seed)

    def render(self, cameras: Cameras) -> Views:
        """Traced and lit as the world's own renders are."""
        vertices, faces = (torch.from_numpy(part) for part in self.surface())
        poses = cameras.cameras(cameras.framing(vertices, faces)).numpy()
        backdrop = (cameras.background, cameras.background)
        drawn = [
            render_c2w(self.instance, camera, fovy, cameras.size, background=backdrop)
            for camera, fovy in zip(poses, cameras.fovy_deg.tolist())
        ]
        return Views(*(np.stack([view[key] for view in drawn]) for key in ("image", "mask")))

    def surface(self) -> Surface:
        """By marching cubes."""
        return self._mesh

    @cached_property
    def _mesh(self) -> Surface:
        instance = self.instance
        return instance_mesh(instance.class_name, instance.color, instance.pattern, FIRST_SEED + self.seed)[:2]
