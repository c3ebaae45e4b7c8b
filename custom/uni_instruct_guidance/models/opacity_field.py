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
    for direction in directions:
        rays = _Rays(direction, spacing, density.shape)
        along = rays.gather(density)
        beyond = along.flip(0).cumsum(0).flip(0) - along / 2
        best = torch.maximum(best, rays.scatter(torch.exp(-beyond * rays.length)))
    return best


def pictured_level(
    seen: Tensor, density: Tensor, spacing: Tensor, directions: Tensor, levels: Tensor, opaque: float = 0.5
) -> float:
    """The level of the visibility whose body has the silhouettes that the density's pictures show.

    Of ``levels``, the one with the largest intersection over union of two sets of rays, mean over the directions:
    those that meet a point seen less than that, and those along which the density's opacity is at least ``opaque``. A
    ray that grazes a soft surface gathers opacity over a long way, so pictures show an object larger than what a look
    straight at its surface says.

    Args:
        seen: [X, Y, Z], from :func:`visibility`. density, spacing, directions: as there.
    """
    score = torch.zeros_like(levels)
    for direction in directions:
        rays = _Rays(direction, spacing, density.shape)
        shown = 1 - torch.exp(-rays.gather(density).sum(0) * rays.length) >= opaque
        least = 1 + rays.gather(seen - 1).amin(0)  # beyond the grid everything is seen
        body = least < levels[:, None, None]
        union = (body | shown).sum((1, 2))
        score += (body & shown).sum((1, 2)) / union.clamp_min(1)
    return float(levels[score.argmax()])


class _Rays:
    """Parallel rays through a grid of nodes: slices of the grid, slid over each other so that a ray is a column.

    direction: [3] unit vector towards the viewer. length: in space, from one slice to the next along a ray.
    """

    def __init__(self, direction: Tensor, spacing: Tensor, shape: torch.Size) -> None:
        steps = [component / size for component, size in zip(direction.tolist(), spacing.tolist())]
        axis = max(range(3), key=lambda i: abs(steps[i]))
        others = [i for i in range(3) if i != axis]
        self.order, self.flipped, self.length = (axis, *others), steps[axis] < 0, 1 / abs(steps[axis])
        # from one slice to the next towards the viewer the ray moves by so many (at most 1) nodes
        self.shear = [steps[i] / abs(steps[axis]) for i in others]
        self.count, self.height, self.width = (shape[i] for i in self.order)

    def _slides(self, like: Tensor) -> tuple[Tensor, Tensor]:
        slide = torch.arange(self.count, dtype=like.dtype, device=like.device)
        return tuple(slide * s + min(0.0, -(self.count - 1) * s) for s in self.shear)

    def gather(self, values: Tensor) -> Tensor:
        """[X, Y, Z] as [slices towards the viewer, rows, columns] of rays; 0 beyond the grid."""
        volume = values.permute(self.order)
        height, width = (
            size + math.ceil(abs(s) * (self.count - 1)) for size, s in zip((self.height, self.width), self.shear)
        )
        return _shift(volume.flip(0) if self.flipped else volume, *self._slides(values), height, width)

    def scatter(self, along: Tensor) -> Tensor:
        """What :meth:`gather` gave, back at the nodes."""
        volume = _shift(along, *(-slide for slide in self._slides(along)), self.height, self.width)
        volume = volume.flip(0) if self.flipped else volume
        return volume.permute(*(self.order.index(i) for i in range(3)))


def _shift(slices: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Each slice [n, h, w] read at its own (row, column) offset, as [n, height, width]; 0 beyond its border."""
    n, h, w = slices.shape
    i = rows[:, None] + torch.arange(height, dtype=slices.dtype, device=slices.device)
    j = columns[:, None] + torch.arange(width, dtype=slices.dtype, device=slices.device)
    i, j = 2 * i / max(h - 1, 1) - 1, 2 * j / max(w - 1, 1) - 1
    grid = torch.stack([j[:, None, :].expand(n, height, width), i[:, :, None].expand(n, height, width)], dim=-1)
    return F.grid_sample(slices[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[:, 0]
