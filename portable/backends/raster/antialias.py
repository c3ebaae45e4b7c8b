"""Analytic antialiasing of silhouettes: the step that gives visibility a gradient (Laine et al. 2020, section 3.5).

Between two neighbouring pixels that see different triangles, the nearer triangle's silhouette edge crosses the line
from centre to centre at a distance t in [0, 1]. Where it does, the edge's pixel receives (t - 1/2) of the other
colour, so colours move continuously with the edge's two vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopologyHash:
    """Neighbours across edges; edge i of a face lies opposite its corner i.

    Attributes:
        neighbour: [F, 3] face on the other side, -1 at borders and where more than two faces meet.
        winding: [F, 3] +1 where the neighbour is wound consistently, -1 where it is flipped.
    """

    neighbour: Tensor
    winding: Tensor


def antialias_construct_topology_hash(tri: Tensor) -> TopologyHash:
    """Edge neighbours of a triangle list [F, 3]; make it once for a mesh whose faces stay the same."""
    tri = tri.long()
    start, end = tri[:, [1, 2, 0]].reshape(-1), tri[:, [2, 0, 1]].reshape(-1)
    n_vertices = int(tri.max()) + 1 if tri.numel() else 0
    key, order = torch.sort(torch.minimum(start, end) * n_vertices + torch.maximum(start, end))
    same = torch.zeros(key.shape[0] + 1, dtype=torch.bool, device=key.device)  # same[i]: edge i equals edge i - 1
    same[1:-1] = key[1:] == key[:-1]
    # Exactly two of a kind: equal to the next, but neither to the one before nor the one after the next.
    after_next = torch.cat([same[2:], same.new_zeros(1)]) if key.shape[0] else same[1:]
    first = (same[1:] & ~same[:-1] & ~after_next).nonzero().squeeze(-1)
    one, other = order[first], order[first + 1]
    neighbour = torch.full_like(start, -1)
    neighbour[one], neighbour[other] = other // 3, one // 3
    winding = torch.ones_like(start)
    flipped = start[one] == start[other]
    winding[one[flipped]] = winding[other[flipped]] = -1
    return TopologyHash(neighbour.reshape(-1, 3), winding.reshape(-1, 3))


def antialias(
    color: Tensor,
    rast: Tensor,
    pos: Tensor,
    tri: Tensor,
    topology_hash: TopologyHash | None = None,
    pos_gradient_boost: float = 1.0,
) -> Tensor:
    """Blend colours across silhouette edges in proportion to coverage.

    A silhouette edge is a border, a fold (both faces on one side of it in the image) or an edge of three or more
    faces. Steep edges blend horizontal neighbours, shallow ones vertical neighbours. As in nvdiffrast, an edge is
    found only when it belongs to the triangle a pixel sees: triangles should not be much smaller than pixels. Edges
    with a vertex behind the camera are left alone.

    Args:
        color: [B, H, W, C] image to antialias.
        rast: [B, H, W, 4] from ``rasterize``; only depth and triangle index are read.
        pos: [B, V, 4] or [V, 4] clip-space positions given to ``rasterize``.
        tri: [F, 3] integer vertex indices given to ``rasterize``.
        topology_hash: result of ``antialias_construct_topology_hash``, else made here.
        pos_gradient_boost: factor on the gradient that reaches ``pos``.

    Returns:
        [B, H, W, C]; gradients reach ``color`` and ``pos``.
    """
    height, width, channels = color.shape[1:]
    topology = topology_hash or antialias_construct_topology_hash(tri)
    tri = tri.long()
    clip = pos if pos.dim() == 3 else pos[None]
    silhouette = _silhouette_edges(clip.detach(), tri, topology)
    near, far, axis = _crossing_candidates(rast.detach(), silhouette.any(-1))
    if near.shape[0] == 0:
        return color
    view = near // (height * width) if clip.shape[0] > 1 else torch.zeros_like(near)
    face = rast.detach().reshape(-1, 4).index_select(0, near)[:, 3].long() - 1
    corner = tri.index_select(0, face) + (view * clip.shape[1])[:, None]

    # Pixel coordinates of the corners relative to the nearer pixel: `along` the step to the farther one, `across` it.
    verts = clip.reshape(-1, 4).index_select(0, corner.reshape(-1)).reshape(-1, 3, 4)
    within = near % (height * width)
    x = (verts[..., 0] / verts[..., 3] + 1) * (width / 2) - (within % width + 0.5)[:, None].to(clip.dtype)
    y = (verts[..., 1] / verts[..., 3] + 1) * (height / 2) - (within // width + 0.5)[:, None].to(clip.dtype)
    step = torch.where(far > near, 1, -1).to(clip.dtype)[:, None]
    horizontal = (axis == 0)[:, None]
    along, across = torch.where(horizontal, x, y) * step, torch.where(horizontal, y, x)

    j, k = [1, 2, 0], [2, 0, 1]
    rise = across[:, k] - across[:, j]
    run = (along[:, k] - along[:, j]).abs()
    crosses = (across[:, j] < 0) != (across[:, k] < 0)
    steep = torch.where(horizontal, rise.abs() >= run, rise.abs() > run)
    t = (along[:, j] * across[:, k] - along[:, k] * across[:, j]) / torch.where(crosses, rise, 1.0)
    usable = crosses & steep & (t >= 0) & (t <= 1) & silhouette[view, face]
    pair, edge = usable.nonzero().unbind(-1)
    t, near, far = t[pair, edge], near[pair], far[pair]
    if pos_gradient_boost != 1.0:
        t = t.detach() + pos_gradient_boost * (t - t.detach())

    # t > 1/2: the near surface reaches into the far pixel; t < 1/2: it does not fill its own.
    flat = color.reshape(-1, channels)
    blend = (t - 0.5)[:, None] * (flat.index_select(0, near) - flat.index_select(0, far))
    return flat.index_add(0, torch.where(t > 0.5, far, near), blend).reshape(color.shape)


def _silhouette_edges(clip: Tensor, tri: Tensor, topology: TopologyHash) -> Tensor:
    """[B, F, 3] bool: is the edge a border or a fold in this view, and wholly in front of the camera?"""
    in_front = (clip[..., 3] > 0)[:, tri].all(-1)  # [B, F]
    a, b, c = (clip[..., :2] / clip[..., 3:])[:, tri].unbind(2)
    area = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
    facing = torch.sign(area) * in_front
    other = facing[:, topology.neighbour.clamp(min=0)]
    fold = facing[..., None] * other * topology.winding < 0
    return ((topology.neighbour < 0) | fold) & in_front[..., None]


def _crossing_candidates(rast: Tensor, has_silhouette: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbouring pixels (near, far) [P] with different triangles, the near one's having a silhouette edge.

    Returns flat indices into [B * H * W] and the axis of the step (0 horizontal, 1 vertical).
    """
    batch, height, width = rast.shape[:3]
    depth, face = rast[..., 2], rast[..., 3].long()
    index = torch.arange(face.numel(), device=rast.device).reshape(batch, height, width)
    view = torch.arange(batch if has_silhouette.shape[0] > 1 else 1, device=rast.device).reshape(-1, 1, 1)
    # Background counts as infinitely far and has no silhouette.
    depth = torch.where(face > 0, depth, torch.inf)
    edged = has_silhouette[view, (face - 1).clamp(min=0)] & (face > 0)
    near, far, axis = [], [], []
    for i, dim in enumerate((2, 1)):
        n = face.shape[dim] - 1
        one, other = (lambda t, d=dim, n=n: (t.narrow(d, 0, n), t.narrow(d, 1, n)))(index)
        z_one, z_other = depth.narrow(dim, 0, n), depth.narrow(dim, 1, n)
        first_near = z_one <= z_other
        nearer_edged = torch.where(first_near, edged.narrow(dim, 0, n), edged.narrow(dim, 1, n))
        differ = face.narrow(dim, 0, n) != face.narrow(dim, 1, n)
        use = differ & nearer_edged
        one, other, first_near = one[use], other[use], first_near[use]
        near.append(torch.where(first_near, one, other))
        far.append(torch.where(first_near, other, one))
        axis.append(torch.full_like(one, i))
    return torch.cat(near), torch.cat(far), torch.cat(axis)
