"""Levels on a graph of points (negative inside) without specks and without enclosed cavities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def clean_levels(level: Tensor, edges: Tensor, boundary: Tensor, min_share: float) -> tuple[Tensor, int, int]:
    """Turn specks outside and cavities inside; a marching method then gives the visible surface alone.

    Args:
        level: [N] levels, <= 0 inside.
        edges: [E, 2] graph whose connected parts of one sign are judged.
        boundary: [N] bool, points from which the outside is reached.
        min_share: inside parts with fewer points than this share of the largest are specks.

    Returns:
        level [N], number of specks, number of cavities. Turned points keep the size of their level.
    """
    inside = (level <= 0).cpu().numpy()
    part = _parts(edges.cpu().numpy(), inside)
    size = np.bincount(part)
    part_inside = np.zeros(len(size), dtype=bool)
    part_inside[part] = inside
    largest = size[part_inside].max(initial=0)
    speck = part_inside & (size < min_share * largest)
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


def _parts(edges: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """[N] label of the connected part of equal sign that each point belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = edges[sign[edges[:, 0]] == sign[edges[:, 1]]].T
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(len(sign), len(sign)))
    return connected_components(graph, directed=False)[1]
