"""A trained stage, loaded from its folder to be looked at: views with their coverage, and its surface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from threestudio.utils.misc import get_device
from uni_instruct_guidance.scoring.checkpoints import camera_batch, load_scene, scene_framing
from uni_instruct_guidance.scoring.protocols import Protocol


@dataclass
class Views:
    """Pictures and coverage of one asset, 0..1."""

    rgb: Float[np.ndarray, "n S S 3"]
    opacity: Float[np.ndarray, "n S S"]

    @property
    def rgb8(self) -> UInt8[np.ndarray, "n S S 3"]:
        """Pictures in 0..255."""
        return (255 * self.rgb + 0.5).astype(np.uint8)


@torch.no_grad()
def render(trial: Path, protocol: Protocol) -> Views:
    """A finished trial folder from the protocol's cameras, through the stage's own renderer.

    Raises:
        ValueError: no checkpoint of a 3D scene.
    """
    scene = load_scene(trial, protocol.background)
    framing = scene_framing(scene, protocol)
    pictures, coverage = [], []
    for camera, fovy in zip(protocol.cameras(framing).to(get_device()), protocol.fovy_deg.tolist()):
        out = scene(camera_batch(camera[None], fovy, protocol.size, framing))
        pictures.append(out["comp_rgb"][0].clamp(0, 1).cpu().numpy())
        coverage.append(out["opacity"][0, ..., 0].cpu().numpy())
    return Views(np.stack(pictures), np.stack(coverage))


@torch.no_grad()
def surface(trial: Path) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Vertices and faces of a finished trial's geometry, world coordinates.

    Raises:
        ValueError: no checkpoint of a 3D scene.
    """
    mesh = load_scene(trial, (1.0, 1.0, 1.0)).geometry.isosurface()
    return mesh.v_pos.cpu().numpy(), mesh.t_pos_idx.cpu().numpy()
