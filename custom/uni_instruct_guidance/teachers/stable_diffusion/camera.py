"""What the fake score is told about the camera."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def extrinsics(batch: dict) -> Float[Tensor, "B 16"]:
    """Flattened camera-to-world matrix (upstream VSD's default)."""
    return batch["c2w"].reshape(-1, 16)


def mvp(batch: dict) -> Float[Tensor, "B 16"]:
    """Flattened model-view-projection matrix: knows the field of view too."""
    return batch["mvp_mtx"].reshape(-1, 16)


def spherical(batch: dict) -> Float[Tensor, "B 6"]:
    """sin and cos of elevation and azimuth, distance, tan of half the field of view: smooth where azimuth wraps."""
    elevation, azimuth = torch.deg2rad(batch["elevation"]), torch.deg2rad(batch["azimuth"])
    half_fov = torch.tan(0.5 * batch["fovy"]) if "fovy" in batch else torch.zeros_like(elevation)
    parts = [elevation.sin(), elevation.cos(), azimuth.sin(), azimuth.cos(), batch["camera_distances"], half_fov]
    return torch.stack(parts, dim=-1)


#: Multi-view teachers are told the camera; their fake scores hear it by the same layers.
TEACHERS_OWN = "teacher"

# name -> (function of the batch, width); None: no layers of its own.
CAMERA_ENCODINGS = {
    "none": None,
    TEACHERS_OWN: None,
    "extrinsics": (extrinsics, 16),
    "mvp": (mvp, 16),
    "spherical": (spherical, 6),
}


class CameraEmbedding(nn.Module):
    """Two layers to the U-Net's time-embedding width. With the last at zero the fake score starts as the teacher."""

    def __init__(self, encoding: tuple, width: int, starts_at_zero: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(encoding[1], width), nn.SiLU(), nn.Linear(width, width))
        if starts_at_zero:
            nn.init.zeros_(self.layers[2].weight)
            nn.init.zeros_(self.layers[2].bias)

    def forward(self, camera: Float[Tensor, "B K"]) -> Float[Tensor, "B W"]:
        return self.layers(camera)
