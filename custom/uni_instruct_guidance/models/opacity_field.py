"""Which points of a density field can be seen from outside: the surface that its pictures show.

A threshold on density finds the surface of the densest parts, and opens holes wherever a picture's opacity comes from a
thin or a wide, thin-fog layer. Here a point is outside if some view sees it, and inside if none does (Gaussian Opacity
Fields, arXiv 2404.10772, section 4.2): nothing depends on the scale of the density, and what is hidden is solid.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def directions_above(elevation_deg: float, count: int) -> Tensor:
    """About even unit vectors [count, 3] at elevations (over the xy plane) of at least ``elevation_deg``: a spiral."""
    i = torch.arange(count, dtype=torch.float32) + 0.5
    lowest = math.sin(math.radians(elevation_deg))
    z = 1 - (1 - lowest) * i / count
    azimuth = i * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - z**2).clamp(min=0).sqrt()
    return torch.stack([ring * azimuth.cos(), ring * azimuth.sin(), z], dim=-1)


def visibility(density: Tensor, spacing: Tensor, directions: Tensor) -> Tensor:
    """Largest transmittance from each node to the outside, over the directions.

    T(x) = exp(-integral of the density from x towards d), by the trapezoid rule over slices of the grid.

    Args:
        density: [X, Y, Z] at the nodes of a regular grid, 0 beyond it.
        spacing: [3] distance of neighbouring nodes, in the density's unit of length.
        directions: [K, 3] unit vectors towards the viewers.

    Returns:
        [X, Y, Z] in 0 .. 1.
    """
    best = torch.zeros_like(density)
    for direction in directions.tolist():
        steps = [component / length for component, length in zip(direction, spacing.tolist())]
        axis = max(range(3), key=lambda i: abs(steps[i]))
        others = [i for i in range(3) if i != axis]
        order = (axis, *others)
        volume = density.permute(order)
        if steps[axis] < 0:
            volume = volume.flip(0)
        # From one slice to the next towards the viewer the ray moves by `shear` nodes, and by `length` in space.
        shear = [steps[i] / abs(steps[axis]) for i in others]
        seen = _transmittance(volume, shear, 1 / abs(steps[axis]))
        if steps[axis] < 0:
            seen = seen.flip(0)
        best = torch.maximum(best, seen.permute(*(order.index(i) for i in range(3))))
    return best


def _transmittance(volume: Tensor, shear: list[float], length: float) -> Tensor:
    """Transmittance towards the last slice along rays that move by ``shear`` (|.| <= 1) nodes per slice."""
    n, height, width = volume.shape
    slide = torch.arange(n, dtype=volume.dtype, device=volume.device)
    rows, columns = ((slide * s) for s in shear)
    top, left = (min(0.0, -(n - 1) * s) for s in shear)
    sheared = _shift(volume, rows + top, columns + left, _grown(height, shear[0], n), _grown(width, shear[1], n))
    beyond = sheared.flip(0).cumsum(0).flip(0) - sheared / 2
    return _shift(torch.exp(-beyond * length), -rows - top, -columns - left, height, width)


def _grown(size: int, shear: float, n: int) -> int:
    return size + math.ceil(abs(shear) * (n - 1))


def _shift(slices: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Each slice [n, h, w] read at its own (row, column) offset, as [n, height, width]; 0 beyond its border."""
    n, h, w = slices.shape
    i = rows[:, None] + torch.arange(height, dtype=slices.dtype, device=slices.device)
    j = columns[:, None] + torch.arange(width, dtype=slices.dtype, device=slices.device)
    i, j = 2 * i / max(h - 1, 1) - 1, 2 * j / max(w - 1, 1) - 1
    grid = torch.stack([j[:, None, :].expand(n, height, width), i[:, :, None].expand(n, height, width)], dim=-1)
    return F.grid_sample(slices[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[:, 0]
