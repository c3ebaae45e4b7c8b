"""Light from all around, kept as pictures of the sphere that are blurred more and more (image-based lighting).

Which way a picture lies is envlight's: its top row shows +y, its middle column −z, columns run on towards +x.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

#: Rows and columns of the kept pictures: a light blurred for roughness 0.08 and more has nothing finer that matters.
ROWS, COLUMNS = 16, 32
#: Roughnesses at which the light is kept; in between it is interpolated.
ROUGHNESSES = (0.0, 0.25, 0.5, 0.75, 1.0)


def read_hdr(path: str) -> Float[np.ndarray, "H W 3"]:
    """Radiance .hdr picture (RGBE, run-length coded or plain), in linear light.

    Raises:
        ValueError: no such file, or not such a picture.
    """
    if not os.path.isfile(path):
        raise ValueError(f"material.environment_texture={path}: no such file; give a Radiance .hdr picture")
    with open(path, "rb") as file:
        data = file.read()
    header, _, rest = data.partition(b"\n\n")
    size, _, body = rest.partition(b"\n")
    words = size.split()
    if not header.startswith(b"#?") or len(words) != 4 or words[0] != b"-Y" or words[2] != b"+X":
        raise ValueError(f"material.environment_texture={path} is not a Radiance .hdr picture with rows from the top")
    height, width = int(words[1]), int(words[3])
    try:
        rgbe = _rgbe(np.frombuffer(body, dtype=np.uint8), height, width)
    except (IndexError, ValueError) as error:
        raise ValueError(f"material.environment_texture={path} is cut short or garbled") from error
    exponent = rgbe[..., 3:].astype(np.int32)
    return np.where(exponent > 0, np.ldexp(rgbe[..., :3].astype(np.float32), exponent - 136), 0.0).astype(np.float32)


def _rgbe(body: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, 4] bytes; every row is coded channel by channel, or the picture is plain."""
    if not (8 <= width < 32768 and body[0] == 2 and body[1] == 2):
        return body[: height * width * 4].reshape(height, width, 4)
    rows, at = np.empty((height, 4, width), dtype=np.uint8), 0
    for row in rows:
        if body[at] != 2 or body[at + 1] != 2 or int(body[at + 2]) * 256 + int(body[at + 3]) != width:
            raise ValueError("row header")
        at += 4
        for channel in row:
            x = 0
            while x < width:
                count = int(body[at])
                run = count > 128
                count = count - 128 if run else count
                channel[x : x + count] = body[at + 1] if run else body[at + 1 : at + 1 + count]
                at += 2 if run else 1 + count
                x += count
    return rows.transpose(0, 2, 1)


def directions(rows: int = ROWS, columns: int = COLUMNS) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N"]]:
    """World directions of a picture's pixels and their solid angles."""
    polar = (torch.arange(rows) + 0.5) / rows * math.pi
    turn = ((torch.arange(columns) + 0.5) / columns * 2 - 1) * math.pi
    polar, turn = torch.meshgrid(polar, turn, indexing="ij")
    unit = torch.stack([polar.sin() * turn.sin(), polar.cos(), -polar.sin() * turn.cos()], dim=-1)
    area = polar.sin() * (math.pi / rows) * (2 * math.pi / columns)
    return unit.reshape(-1, 3), area.reshape(-1)


class EnvironmentLight(nn.Module):
    """Radiance of a picture of the sphere: mean over a cosine lobe for diffuse light, over GGX lobes for reflections.

    Args:
        source: Radiance .hdr file.
        scale: factor on all of it.
    """

    def __init__(self, source: str, scale: float = 1.0) -> None:
        super().__init__()
        unit, area = directions()
        picture = torch.from_numpy(read_hdr(source)).permute(2, 0, 1)[None]
        radiance = F.interpolate(picture, (ROWS, COLUMNS), mode="area")[0].flatten(1).T
        cosine = (unit @ unit.T).clamp(-1, 1)
        lobes = [cosine.clamp(min=0)] + [_ggx_lobe(cosine, roughness) for roughness in ROUGHNESSES]
        pictures = []
        for lobe in lobes:
            weights = lobe * area
            pictures.append((weights / weights.sum(-1, keepdim=True)) @ radiance * scale)
        levels = torch.stack(pictures).permute(2, 0, 1).reshape(3, len(lobes), ROWS, COLUMNS)
        # the picture's left and right borders are neighbours
        levels = torch.cat([levels[..., -1:], levels, levels[..., :1]], dim=-1)
        self.register_buffer("diffuse_levels", levels[:, :1], persistent=False)
        self.register_buffer("specular_levels", levels[:, 1:], persistent=False)

    def diffuse(self, normal: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Mean radiance over the cosine lobe around a normal: what a white matt surface sends back."""
        return self._look_up(self.diffuse_levels, normal, torch.zeros_like(normal[:, :1]))

    def specular(self, direction: Float[Tensor, "N 3"], roughness: Float[Tensor, "N 1"]) -> Float[Tensor, "N 3"]:
        """Mean radiance over the lobe of a roughness in 0 .. 1 around a mirrored direction."""
        return self._look_up(self.specular_levels, direction, roughness * 2 - 1)

    @staticmethod
    def _look_up(levels: Tensor, direction: Tensor, depth: Tensor) -> Tensor:
        direction = F.normalize(direction, dim=-1)
        turn = torch.atan2(direction[:, 0], -direction[:, 2]) / math.pi
        row = torch.acos(direction[:, 1].clamp(-1 + 1e-6, 1 - 1e-6)) / math.pi * 2 - 1
        at = torch.stack([turn * COLUMNS / (COLUMNS + 2), row, depth[:, 0]], dim=-1)
        at = at.view(1, 1, 1, -1, 3).to(levels)
        found = F.grid_sample(levels[None], at, align_corners=False, padding_mode="border")
        return found.view(3, -1).T


def _ggx_lobe(cosine: Float[Tensor, "N N"], roughness: float) -> Float[Tensor, "N N"]:
    """GGX distribution (Walter et al. 2007) of half vectors between mirrored directions, times the cosine."""
    # a pixel of the kept picture is the sharpest mirror there is
    alpha = max(roughness**2, (math.pi / ROWS / 2) ** 2)
    half = ((1 + cosine) / 2).sqrt()
    density = alpha**2 / (half**2 * (alpha**2 - 1) + 1).square()
    return density * cosine.clamp(min=0)
