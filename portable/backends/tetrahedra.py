"""Tetrahedral grids of any resolution and marching tetrahedra on them, differentiable in levels and positions."""

from __future__ import annotations

import torch
from torch import Tensor

TET_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""The six edges of a tetrahedron, by corner."""


def tetrahedral_grid(resolution: int) -> tuple[Tensor, Tensor]:
    """The unit cube filled with the tetrahedra of a body-centred cubic lattice.

    The cube is cut into n^3 cells, n = ceil(resolution / 2); vertices are the cells' corners and centres, so vertex
    layers lie 1 / (2 n) apart along every axis. Around each pair of centres that share a face stand four congruent
    tetrahedra; on the cube's surface a face and its centre make two. Every face meets exactly one other or the
    surface, all tetrahedra are positively oriented, and n = resolution / 2 gives about resolution^3 / 4 vertices.

    Returns:
        vertices [(n+1)^3 + n^3, 3] float32 in [0, 1], tetrahedra [12 n^3, 4] int64.
    """
    if resolution < 2:
        raise ValueError(f"a tetrahedral grid needs a resolution of at least 2, got {resolution}")
    n = (resolution + 1) // 2
    corner = torch.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    centre = torch.arange(n**3).reshape(n, n, n) + corner.numel()
    vertices = torch.cat([_lattice(n + 1) / n, (_lattice(n) + 0.5) / n])

    tets = []
    for axis in range(3):
        # The axis first, the other two in cyclic order, so one orientation serves all three.
        order = (axis, (axis + 1) % 3, (axis + 2) % 3)
        corners, centres = corner.permute(order), centre.permute(order)
        loop = [corners[:, :-1, :-1], corners[:, 1:, :-1], corners[:, 1:, 1:], corners[:, :-1, 1:]]  # faces [n+1, n, n]
        for a, b in zip(loop, loop[1:] + loop[:1]):
            tets.append(torch.stack([centres[:-1], centres[1:], a[1:-1], b[1:-1]], dim=-1))
        a, b, c, d = loop
        tets += [torch.stack([centres[0], q[0], p[0], a[0]], dim=-1) for p, q in ((b, c), (c, d))]
        tets += [torch.stack([centres[-1], p[-1], q[-1], a[-1]], dim=-1) for p, q in ((b, c), (c, d))]
    return vertices, torch.cat([t.reshape(-1, 4) for t in tets])


def _lattice(n: int) -> Tensor:
    """Integer points 0 .. n-1 cubed, [n^3, 3] float32, last coordinate fastest."""
    side = torch.arange(n, dtype=torch.float32)
    return torch.stack(torch.meshgrid(side, side, side, indexing="ij"), dim=-1).reshape(-1, 3)


def tetrahedra_edges(tets: Tensor) -> Tensor:
    """Unique edges [E, 2] of tetrahedra [T, 4], lower index first, sorted."""
    ends = tets[:, torch.tensor(TET_EDGES, device=tets.device)].reshape(-1, 2).sort(dim=-1).values
    size = int(tets.max()) + 1
    key = torch.unique(ends[:, 0] * size + ends[:, 1])
    return torch.stack([key // size, key % size], dim=-1)


def _triangle_table() -> Tensor:
    """[16, 2, 3] edges whose crossings span the triangles of each sign pattern, -1 where there is none.

    Bit i of the pattern is set where corner i is positive. Built from one positively oriented tetrahedron: corners
    wind so that the normal points to the positive side.
    """
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    middle = torch.stack([(points[a] + points[b]) / 2 for a, b in TET_EDGES])
    number = {frozenset(edge): i for i, edge in enumerate(TET_EDGES)}
    table = torch.full((16, 2, 3), -1)
    for pattern in range(1, 15):
        positive = [i for i in range(4) if pattern >> i & 1]
        negative = [i for i in range(4) if not pattern >> i & 1]
        # Walking round the crossed edges: neighbours in the list share a corner.
        walk = [(i, j) for i in positive for j in (negative if i == positive[0] else negative[::-1])]
        walk = [number[frozenset(edge)] for edge in walk]
        a, b, c = middle[walk[:3]]
        outward = points[positive].mean(0) - points[negative].mean(0)
        if torch.linalg.cross(b - a, c - a, dim=0) @ outward < 0:
            walk.reverse()
        table[pattern, 0] = torch.tensor(walk[:3])
        if len(walk) == 4:
            table[pattern, 1] = torch.tensor([walk[0], walk[2], walk[3]])
    return table


_TRIANGLES = _triangle_table()


def marching_tetrahedra(vertices: Tensor, tets: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The surface level = 0 of a function given at the vertices and linear in each tetrahedron.

    Negative is inside: faces wind outwards when the tetrahedra are positively oriented. A vertex is outside where its
    level is > 0. The surface is closed wherever it does not leave the grid.

    Args:
        vertices: [N, 3] positions.
        tets: [T, 4] int64.
        level: [N] or [N, 1].

    Returns:
        v_pos [V, 3], differentiable in ``vertices`` and ``level``, ordered by edge; faces [F, 3] int64.
    """
    level = level.reshape(-1)
    outside = level.detach() > 0
    corner_outside = outside.index_select(0, tets.reshape(-1)).reshape(-1, 4)
    crossed = (corner_outside.any(-1) & ~corner_outside.all(-1)).nonzero().squeeze(-1)
    tets, corner_outside = tets[crossed], corner_outside[crossed]

    ends = tets[:, torch.tensor(TET_EDGES, device=tets.device)].reshape(-1, 2).sort(dim=-1).values
    cut = (outside[ends[:, 0]] != outside[ends[:, 1]]).nonzero().squeeze(-1)
    key, which = torch.unique(ends[cut, 0] * vertices.shape[0] + ends[cut, 1], return_inverse=True)
    crossing = torch.full((ends.shape[0],), -1, device=tets.device)
    crossing[cut] = which
    start, end = key // vertices.shape[0], key % vertices.shape[0]
    level_start, level_end = level.index_select(0, start)[:, None], level.index_select(0, end)[:, None]
    v_pos = vertices.index_select(0, start) * level_end - vertices.index_select(0, end) * level_start
    v_pos = v_pos / (level_end - level_start)

    pattern = (corner_outside.long() << torch.arange(4, device=tets.device)).sum(-1)
    edges = _TRIANGLES.to(tets.device)[pattern]  # [T, 2, 3]
    tet, half = (edges[..., 0] >= 0).nonzero().unbind(-1)
    faces = crossing.reshape(-1, 6)[tet[:, None], edges[tet, half]]
    return v_pos, faces
