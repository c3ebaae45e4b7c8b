"""Levels on a graph of points (negative inside) without specks and without enclosed cavities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Orthographic pictures that decide what can be seen of a part.
N_PICTURES = 24


def clean_levels(
    level: Tensor, positions: Tensor, edges: Tensor, boundary: Tensor, min_share: float
) -> tuple[Tensor, int, int]:
    """Turn specks outside and cavities inside; a marching method then gives the visible surface alone.

    What a speck is, pictures decide: a thin leaf has few points and much to be seen.

    Args:
        level: [N] levels, <= 0 inside.
        positions: [N, 3] points of the world.
        edges: [E, 2] graph whose connected parts of one sign are judged.
        boundary: [N] bool, points from which the outside is reached.
        min_share: inside parts that fill less than this share of the object in every picture are specks.

    Returns:
        level [N], number of specks, number of cavities. Turned points keep the size of their level.
    """
    inside = (level <= 0).cpu().numpy()
    part = _parts(edges.cpu().numpy(), inside)
    part_inside = np.zeros(part.max(initial=-1) + 1, dtype=bool)
    part_inside[part] = inside
    ends = positions.detach()[edges.to(positions.device)]
    cell = float((ends[:, 0] - ends[:, 1]).norm(dim=-1).median())
    share = picture_share(positions.detach().cpu().numpy()[inside], part[inside], len(part_inside), cell)
    speck = part_inside & (share < min_share)
    # What surrounds a speck becomes one with it, so cavities are judged by what reaches the boundary afterwards.
    inside &= ~speck[part]
    part = _parts(edges.cpu().numpy(), inside)
    open_part = np.zeros(part.max(initial=-1) + 1, dtype=bool)
    open_part[part[boundary.cpu().numpy() & ~inside]] = True
    cavity = ~inside & ~open_part[part]
    n_cavities = len(np.unique(part[cavity]))
    inside = torch.from_numpy(inside | cavity).to(level.device)
    tiny = torch.finfo(level.dtype).tiny  # a turned zero must leave "inside", which includes zero
    return torch.where(inside, -level.abs(), level.abs().clamp(min=tiny)), int(speck.sum()), n_cavities


def picture_share(points: np.ndarray, part: np.ndarray, n_parts: int, cell: float) -> np.ndarray:
    """Share of the object's picture that each part fills in the view that shows most of it.

    Args:
        points: [M, 3] what the parts consist of.
        part: [M] index of the part a point belongs to, below ``n_parts``.
        cell: width of the pictures' cells in the world; about the distance of neighbouring points.

    Returns:
        [n_parts] in 0 .. 1, 0 for parts without points.
    """
    share = np.zeros(n_parts)
    if not len(points):
        return share
    for towards in _around(N_PICTURES):
        side = np.cross(towards, np.eye(3)[np.abs(towards).argmin()])
        side /= np.linalg.norm(side)
        row, column = (np.floor(points @ axis / cell).astype(np.int64) for axis in (side, np.cross(towards, side)))
        pixel = row * (column.max() - column.min() + 1) + column
        order = np.lexsort((points @ towards, pixel))
        nearest = order[np.append(np.diff(pixel[order]) != 0, True)]
        share = np.maximum(share, np.bincount(part[nearest], minlength=n_parts) / len(nearest))
    return share


def _around(count: int) -> np.ndarray:
    """About even unit vectors [count, 3] all around: a spiral."""
    i = np.arange(count) + 0.5
    z, azimuth = 1 - 2 * i / count, i * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), z], axis=-1)


def _parts(edges: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """[N] label of the connected part of equal sign that each point belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = edges[sign[edges[:, 0]] == sign[edges[:, 1]]].T
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(sign), len(sign)))
    return connected_components(graph, directed=False)[1]
