"""Analytic antialiasing of silhouettes: the step that gives visibility a gradient (Laine et al. 2020, section 3.5).

Between two neighbouring pixels, a silhouette edge crosses the line from centre to centre at a distance t in [0, 1] from
the pixel on its near side. The other pixel receives t - 1/2 of the near colour, or the near pixel 1/2 - t of the far
one, so colours move continuously with the edge's two vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CENTRE_TOLERANCE = 1e-3
"""Pixels; wider than the rounding of float32 positions in an image of a few thousand pixels."""


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
    faces. Steep edges blend horizontal neighbours, shallow ones vertical neighbours. Edges look for their pixels, so
    silhouettes of finely tessellated round objects count, whose outermost triangles are too thin for any pixel to
    see; nvdiffrast asks the seen triangles for their edges and misses those (on a ball of 6,000 faces at 64 x 64 it
    would pass on a twentieth of the silhouette's gradient). Edges of faces that reach behind the camera are left alone.

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
    clip = pos if pos.dim() == 3 else pos[None].expand(color.shape[0], -1, -1)
    view, face, edge = _silhouette_edges(clip.detach(), tri, topology).nonzero().unbind(-1)
    first_vertex = view * clip.shape[1]
    start, end, opposite = (tri[face, (edge + turn) % 3] + first_vertex for turn in (1, 2, 0))
    flat_clip = clip.reshape(-1, 4)
    crossing = _crossings(flat_clip.detach(), start, end, opposite, view, rast.detach())
    if crossing is None:
        return color
    owner, line, near, far, shallow = crossing

    # Where the edge crosses the line of pixel centres, now with gradients: t is the distance from the near centre.
    a, b = (_pixels(flat_clip.index_select(0, ends[owner]), height, width) for ends in (start, end))
    (ua, va), (ub, vb) = (torch.where(shallow[:, None], p.flip(-1), p).unbind(-1) for p in (a[:, :2], b[:, :2]))
    near_centre = torch.where(shallow, near // width % height, near % width).to(ua.dtype)
    t = (ua + (line - va) / (vb - va) * (ub - ua) - near_centre) * torch.where(far > near, 1, -1)
    if pos_gradient_boost != 1.0:
        t = t.detach() + pos_gradient_boost * (t - t.detach())

    # t > 1/2: the near surface reaches into the far pixel; t < 1/2: it does not fill its own.
    flat = color.reshape(-1, channels)
    blend = (t - 0.5)[:, None] * (flat.index_select(0, near) - flat.index_select(0, far))
    return flat.index_add(0, torch.where(t > 0.5, far, near), blend).reshape(color.shape)


def _pixels(clip: Tensor, height: int, width: int) -> Tensor:
    """Clip space [N, 4] -> (column, row, z/w) [N, 3]; pixel centres are the integers."""
    ndc = clip[:, :3] / clip[:, 3:]
    return torch.stack([(ndc[:, 0] + 1) * (width / 2) - 0.5, (ndc[:, 1] + 1) * (height / 2) - 0.5, ndc[:, 2]], dim=-1)


@torch.no_grad()
def _crossings(clip: Tensor, start: Tensor, end: Tensor, opposite: Tensor, view: Tensor, rast: Tensor):
    """Neighbouring pixels that a visible silhouette edge separates.

    An edge counts where the pixel on its face's side sees something nearer than the other pixel does, and the edge
    itself lies before what the other pixel sees; of several edges between two pixels the nearest counts.

    Returns:
        None, or [N] each: edge, row (column) of the crossing, near and far pixel as flat indices into [B * H * W],
        and whether the edge is shallow (crosses a column of centres).
    """
    batch, height, width = rast.shape[:3]
    a, b, c = (_pixels(clip.index_select(0, i), height, width) for i in (start, end, opposite))
    shallow = (b - a)[:, 1].abs() < (b - a)[:, 0].abs()
    # u runs along the step between the two pixels, v across it.
    (ua, va), (ub, vb), (uc, vc) = (
        torch.where(shallow[:, None], p[:, :2].flip(-1), p[:, :2]).unbind(-1) for p in (a, b, c)
    )
    lines = torch.where(shallow, width, height)
    first = torch.minimum(torch.minimum(va, vb).ceil().clamp(min=0), lines.to(va.dtype)).long()
    last = torch.minimum(torch.maximum(va, vb).ceil().clamp(min=0), lines.to(va.dtype)).long()
    slope = (ub - ua) / (vb - va)
    side = uc - (ua + slope * (vc - va))  # < 0: the face lies towards smaller u

    count = (last - first).clamp(min=0)
    owner = torch.repeat_interleave(count)
    line = torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner] + first[owner]
    offset = line - va[owner]
    u = ua[owner] + slope[owner] * offset
    z = a[owner, 2] + ((b - a)[:, 2] / (vb - va))[owner] * offset
    # An edge through a pixel centre, up to rounding, may separate that pixel from either neighbour: try both.
    nearest = u.round()
    at_centre = (u - nearest).abs() < CENTRE_TOLERANCE
    twice = torch.cat([torch.arange(len(u), device=u.device), at_centre.nonzero().squeeze(-1)])
    left = torch.cat([torch.where(at_centre, nearest - 1, u.floor()), nearest[at_centre]]).long()
    owner, line, z = owner[twice], line[twice], z[twice]
    steps = torch.where(shallow, height, width)[owner]
    keep = ((left >= 0) & (left < steps - 1) & (side[owner] != 0)).nonzero().squeeze(-1)
    if keep.numel() == 0:
        return None
    owner, line, left, z = owner[keep], line[keep], left[keep], z[keep]
    flips = shallow[owner]
    low = view[owner] * (height * width) + torch.where(flips, left * width + line, line * width + left)
    high = low + torch.where(flips, width, 1)
    towards_low = side[owner] < 0
    near, far = torch.where(towards_low, low, high), torch.where(towards_low, high, low)

    depth, face = rast[..., 2].reshape(-1), rast[..., 3].reshape(-1)
    depth = torch.where(face > 0, depth, torch.inf)
    visible = (face[near] != face[far]) & (depth[near] < depth[far]) & (z < depth[far])
    # The nearest edge of each pair of pixels: the smallest (depth, number) key.
    pair = low * 2 + flips
    rank = torch.argsort(z.where(visible, torch.inf))
    order = torch.empty_like(rank).index_copy_(0, rank, torch.arange(len(rank), device=rank.device))
    best = torch.full((2 * batch * height * width,), len(rank), device=rank.device)
    best.scatter_reduce_(0, pair, order, reduce="amin")
    keep = (visible & (best[pair] == order)).nonzero().squeeze(-1)
    return owner[keep], line[keep], near[keep], far[keep], flips[keep]


def _silhouette_edges(clip: Tensor, tri: Tensor, topology: TopologyHash) -> Tensor:
    """[B, F, 3] bool: is the edge a border or a fold in this view, and wholly in front of the camera?

    An edge of two faces is named once, by the face with the lower index.
    """
    in_front = (clip[..., 3] > 0)[:, tri].all(-1)  # [B, F]
    a, b, c = (clip[..., :3] / clip[..., 3:])[:, tri].unbind(2)
    normal = torch.linalg.cross(b - a, c - a, dim=-1)
    # A face seen exactly edge-on counts as turned away; one without area has no side.
    edge_on = -(normal != 0).any(-1).to(normal.dtype)
    facing = torch.where(normal[..., 2] != 0, torch.sign(normal[..., 2]), edge_on) * in_front
    other = facing[:, topology.neighbour.clamp(min=0)]
    fold = facing[..., None] * other * topology.winding < 0
    lower = torch.arange(len(tri), device=tri.device)[:, None] < topology.neighbour
    return ((topology.neighbour < 0) | (fold & lower)) & in_front[..., None]
