"""Shapes to start from: levels (negative inside) at world points, by ``shape_init`` and ``shape_init_params``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from threestudio.utils.errors import UserError
from threestudio.utils.typing import Float, Tensor

Level = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N 1"]]

#: ``shape_init_mesh_up``, ``shape_init_mesh_front`` -> direction in the file.
DIRECTIONS = {
    f"{sign}{axis}": np.eye(3)[i] * (1 if sign == "+" else -1) for sign in "+-" for i, axis in enumerate("xyz")
}
#: Nodes per axis of the table of distances to a mesh, points on its surface, and pairs of point and face at once.
TABLE, SAMPLES, PAIRS_AT_ONCE = 49, 100_000, 1 << 21


def ellipsoid(size: Any) -> Level:
    """Half axes ``size`` [3]; about 1 away from the surface per half axis."""
    if not hasattr(size, "__len__") or isinstance(size, str) or len(size) != 3:
        raise UserError(f"geometry.shape_init_params={size}: an ellipsoid has three half axes, e.g. [0.5, 0.5, 0.7]")
    axes = torch.as_tensor([float(x) for x in size])
    return lambda points: (points / axes.to(points)).norm(dim=-1, keepdim=True) - 1


def ball(radius: Any) -> Level:
    """Signed distance to a sphere."""
    if not isinstance(radius, (int, float)):
        raise UserError(f"geometry.shape_init_params={radius}: a sphere has one radius, e.g. 0.5")
    return lambda points: points.norm(dim=-1, keepdim=True) - float(radius)


#: ``shape_init`` -> level from ``shape_init_params``.
SHAPES: dict[str, Callable[[Any], Level]] = {"ellipsoid": ellipsoid, "sphere": ball}


def oriented_mesh(path: str, size: Any, up: str = "+z", front: str = "+x") -> tuple[np.ndarray, np.ndarray]:
    """(vertices, faces) of a mesh file, its centroid at the origin, largest coordinate ``size``, z up, front at x.

    Raises:
        ValueError: no such file, no mesh in it, or directions that are none or not at right angles.
    """
    if not os.path.isfile(path):
        raise UserError(f"geometry.shape_init=mesh:{path}: no such file")
    for key, value in (("up", up), ("front", front)):
        if value not in DIRECTIONS:
            raise UserError(f"geometry.shape_init_mesh_{key}={value}; choices: {', '.join(DIRECTIONS)}")
    if up[1] == front[1]:
        raise UserError(f"geometry.shape_init_mesh_up={up} and shape_init_mesh_front={front} must be at right angles")
    if not isinstance(size, (int, float)):
        raise UserError(f"geometry.shape_init_params={size}: a mesh has one size, its largest coordinate, e.g. 0.9")
    import trimesh

    mesh = trimesh.load(path, force="mesh")
    if not len(getattr(mesh, "faces", ())):
        raise UserError(f"geometry.shape_init=mesh:{path}: no faces in it")
    z, x = DIRECTIONS[up], DIRECTIONS[front]
    vertices = (mesh.vertices - mesh.vertices.mean(0)) @ np.stack([x, np.cross(z, x), z], axis=1)
    return vertices / np.abs(vertices).max() * float(size), np.asarray(mesh.faces)


def winding_number(
    points: Float[Tensor, "N 3"], vertices: Float[Tensor, "V 3"], faces: Tensor
) -> Float[Tensor, "N"]:
    """How often a mesh winds around each point: 1 inside, 0 outside (solid angles of its triangles, Oosterom 1983)."""
    total = []
    for chunk in points.split(max(1, PAIRS_AT_ONCE // len(faces))):
        a, b, c = (vertices[faces[:, i]] - chunk[:, None] for i in range(3))
        la, lb, lc = (x.norm(dim=-1) for x in (a, b, c))
        volume = (a * torch.linalg.cross(b, c, dim=-1)).sum(-1)
        rest = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        total.append(torch.atan2(volume, rest).sum(-1) / (2 * math.pi))
    return torch.cat(total)


def mesh_level(path: str, size: Any, up: str, front: str) -> Level:
    """Signed distance to a mesh file, negative inside, from a table over the cube of side 2; see :func:`oriented_mesh`.

    Distances are those to :data:`SAMPLES` points of the surface, so off by about 1 % of the object's size.
    """
    import trimesh
    from scipy.spatial import cKDTree

    vertices, faces = oriented_mesh(path, size, up, front)
    surface, _ = trimesh.sample.sample_surface(trimesh.Trimesh(vertices, faces, process=False), SAMPLES, seed=0)
    side = torch.linspace(-1, 1, TABLE)
    nodes = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), dim=-1).reshape(-1, 3)
    distance = torch.from_numpy(cKDTree(surface).query(nodes.numpy())[0]).float()
    around = winding_number(nodes, torch.from_numpy(vertices).float(), torch.from_numpy(faces).long())
    table = torch.where(around > 0.5, -distance, distance).view(1, 1, TABLE, TABLE, TABLE)

    def level(points: Tensor) -> Tensor:
        at = points.detach().flip(-1).view(1, 1, 1, -1, 3)  # grid_sample names the last axis first
        found = F.grid_sample(table.to(points), at, align_corners=True, padding_mode="border")
        return found.view(-1, 1)

    return level


def shape_level(cfg: Any) -> Level:
    """Level of ``cfg.shape_init``: a key of :data:`SHAPES`, or ``mesh:FILE``.

    Raises:
        ValueError: unknown shape, or parameters that it does not take.
    """
    name, params = cfg.shape_init, cfg.shape_init_params
    if name.startswith("mesh:"):
        return mesh_level(name.removeprefix("mesh:"), params, cfg.shape_init_mesh_up, cfg.shape_init_mesh_front)
    if name not in SHAPES:
        raise UserError(f"geometry.shape_init={name}; choices: {', '.join(SHAPES)}, mesh:FILE, null")
    if params is None:
        raise UserError(f"geometry.shape_init={name} needs geometry.shape_init_params")
    return SHAPES[name](params)
