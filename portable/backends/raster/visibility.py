"""Which triangle does each pixel see? Exact, watertight scan conversion without a loop over triangles.

Triangles become rows, rows become spans of pixels, spans become fragments; a fragment is one 64-bit key
(depth above, triangle below), and the smallest key wins its pixel. Edges are homogeneous (Olano & Greer 1997), so
triangles that cross the camera plane need no clipping.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

FRAGMENTS_PER_CHUNK = 1 << 22
"""Fragments expanded at once: about 64 bytes each, so a chunk needs a quarter of a GiB."""

_DEPTH_STEPS = (1 << 30) - 1  # z/w + 1 <= 2 must fit 31 bits above the triangle index
_EMPTY = torch.iinfo(torch.int64).max
_ID_BITS = 32


def visible_triangles(clip: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """Index of the nearest triangle over each pixel centre of one view.

    A pixel belongs to a triangle when its centre lies inside; centres on an edge belong to the triangle on the right
    of (or above) that edge, so triangles sharing an edge never overlap nor leave a gap. Nearest means the smallest
    z/w within [-1, 1]; equal depths go to the lower index.

    Args:
        clip: [V, 4] clip-space positions.
        tri: [F, 3] int64 vertex indices.
        height, width: image size in pixels; row 0 is y = -1.

    Returns:
        [height * width] int64: 0 where nothing is seen, else triangle index + 1. Carries no gradient.
    """
    if tri.shape[0] == 0:
        return torch.zeros(height * width, dtype=torch.int64, device=clip.device)
    # Coverage is decided in float64: below it, cancellation in the edge equations exceeds a thousandth of a pixel.
    # Devices without float64 (Apple's) let the CPU search.
    device = clip.device if clip.device.type != "mps" else torch.device("cpu")
    clip = clip.detach().to(device, torch.float64)
    ids, edges, depth, first_row, n_rows = _triangle_setup(clip, tri.to(device), height, width)

    best = torch.full((height * width,), _EMPTY, dtype=torch.int64, device=device)
    for part in _chunks(n_rows * width):
        spans = _row_spans(edges[part], depth[part], first_row[part], n_rows[part], ids[part], width)
        _scatter_nearest(best, *spans, width)
    seen = torch.where(best == _EMPTY, 0, (best & ((1 << _ID_BITS) - 1)) + 1)
    return seen.to(tri.device)


def _triangle_setup(clip: Tensor, tri: Tensor, height: int, width: int):
    """Triangles that can cover a pixel: (ids [T], edge lines [T, 12], depth planes [T, 3], first row [T], rows [T])."""
    # Homogeneous pixel coordinates in which pixel centres are the integers.
    w = clip[:, 3]
    x = (clip[:, 0] + w) * (width / 2) - w / 2
    y = (clip[:, 1] + w) * (height / 2) - w / 2
    places = torch.stack([x, y, w, clip[:, 2]], dim=-1)
    ids = _may_be_seen(places, tri, height, width)
    corners = places.index_select(0, tri[ids].reshape(-1)).reshape(-1, 3, 4)
    cx, cy, cw, cz = corners.unbind(-1)

    # Edge i faces corner i: e_i(p) = n_i . (px, py, 1), n_i = v_j x v_k; n flips sign exactly when j and k swap.
    j, k = [1, 2, 0], [2, 0, 1]
    nx = cy[:, j] * cw[:, k] - cw[:, j] * cy[:, k]
    ny = cw[:, j] * cx[:, k] - cx[:, j] * cw[:, k]
    nc = cx[:, j] * cy[:, k] - cy[:, j] * cx[:, k]
    det = cx[:, 0] * nx[:, 0] + cy[:, 0] * ny[:, 0] + cw[:, 0] * nc[:, 0]

    # Rows: from the corners when all are in front of the camera, else from the horizontal edges alone.
    in_front = (cw > 0).all(-1)
    row = cy / cw
    top = torch.where(in_front, row.amin(-1), 0.0).clamp(0, height)
    bottom = torch.where(in_front, row.amax(-1), float(height)).clamp(0, height)
    sign = torch.sign(det)[:, None]
    nx, ny, nc = nx * sign, ny * sign, nc * sign
    flat_row = -nc / ny
    lower = torch.where((nx == 0) & (ny > 0), flat_row, -torch.inf)
    upper = torch.where((nx == 0) & (ny < 0), flat_row, torch.inf)
    top = torch.maximum(top, lower.amax(-1).clamp(0, height)).ceil()
    bottom = torch.minimum(bottom, upper.amin(-1).clamp(0, height)).ceil()

    seen = (det != 0) & torch.isfinite(corners).all(-1).all(-1) & (cw > 0).any(-1) & (top < bottom)
    keep = seen.nonzero().squeeze(-1)
    nx, ny, nc, det = nx[keep], ny[keep], nc[keep], det[keep].abs()
    # Each edge bounds a row's span from the left or from the right at  px = slope * py + start.
    slope, start = -ny / nx, -nc / nx
    from_left, from_right = nx > 0, nx < 0
    edges = torch.cat(
        [
            torch.where(from_left, slope, 0.0),
            torch.where(from_left, start, -torch.inf),
            torch.where(from_right, slope, 0.0),
            torch.where(from_right, start, torch.inf),
        ],
        dim=-1,
    )
    # With p = (px, py, 1) = sum b_i v_i and w(p) = 1, z/w is affine in the pixel: sum_i z_i e_i(p) / det.
    z = cz[keep] / det[:, None]
    depth = torch.stack([(z * nx).sum(-1), (z * ny).sum(-1), (z * nc).sum(-1)], dim=-1)
    first = top[keep].long()
    return ids[keep], edges, depth, first, bottom[keep].long() - first


def _may_be_seen(places: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """Triangles whose box holds a pixel centre, or that reach behind the camera: of a fine mesh few do.

    Args:
        places: [V, 4] homogeneous pixel coordinates x, y, w, and z.
    """
    w = places[:, 2]
    behind = (w <= 0).index_select(0, tri.reshape(-1)).reshape(-1, 3).any(-1)
    within = ~behind
    for place, size in ((places[:, 0] / w, width), (places[:, 1] / w, height)):
        # the first pixel that a coordinate does not lie beyond; equal ones have no centre between them
        a, b, c = place.clamp(0, size).ceil().index_select(0, tri.reshape(-1)).reshape(-1, 3).unbind(-1)
        within &= (a != b) | (b != c)
    return (within | behind).nonzero().squeeze(-1)


def _row_spans(edges: Tensor, depth: Tensor, first: Tensor, n_rows: Tensor, ids: Tensor, width: int):
    """Non-empty spans: (row-start pixel, first column, length, depth at column 0, depth per column, triangle)."""
    owner, step = _expand(n_rows)
    row = first.index_select(0, owner) + step
    py = row.double()
    a, b, c, d = edges.index_select(0, owner).reshape(-1, 4, 3).unbind(1)
    # Half-open spans: a centre exactly on the left edge is inside, on the right edge outside.
    left = (a * py[:, None] + b).amax(-1).clamp(0, width).ceil()
    right = (c * py[:, None] + d).amin(-1).clamp(0, width).ceil()
    keep = (left < right).nonzero().squeeze(-1)
    owner, row, left, right = owner[keep], row[keep], left[keep].long(), right[keep].long()
    plane = depth.index_select(0, owner)
    return row * width, left, right - left, plane[:, 1] * row + plane[:, 2], plane[:, 0], ids.index_select(0, owner)


def _scatter_nearest(
    best: Tensor, base: Tensor, left: Tensor, length: Tensor, start: Tensor, slope: Tensor, ids: Tensor, width: int
) -> None:
    """Lower ``best`` (in place) to the smallest fragment key of each pixel."""
    for part in _chunks(length):
        owner, step = _expand(length[part])
        column = left[part].index_select(0, owner) + step
        z = torch.addcmul(start[part].index_select(0, owner), slope[part].index_select(0, owner), column.double())
        rank = ((z + 1) * _DEPTH_STEPS).long()
        key = rank.bitwise_left_shift_(_ID_BITS).bitwise_or_(ids[part].index_select(0, owner))
        # Outside the depth range: send the key beyond every real one.
        key = torch.where((z >= -1) & (z <= 1), key, _EMPTY)
        best.scatter_reduce_(0, base[part].index_select(0, owner) + column, key, reduce="amin")


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For item i repeated counts[i] times: (i, 0 .. counts[i]-1), both [sum(counts)]."""
    owner = torch.repeat_interleave(counts)
    starts = counts.cumsum(0) - counts
    return owner, torch.arange(owner.shape[0], device=counts.device) - starts.index_select(0, owner)


def _chunks(cost: Tensor) -> list[slice]:
    """Consecutive slices of at most FRAGMENTS_PER_CHUNK summed cost (or one item)."""
    total = cost.cumsum(0)
    if cost.shape[0] == 0:
        return []
    if int(total[-1]) <= FRAGMENTS_PER_CHUNK:
        return [slice(None)]
    group = (total - cost) // FRAGMENTS_PER_CHUNK
    bounds = [0, *(torch.nonzero(group.diff()).squeeze(-1) + 1).tolist(), cost.shape[0]]
    return [slice(a, b) for a, b in pairwise(bounds)]
