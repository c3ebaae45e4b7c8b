"""Distances between surfaces and between silhouettes. Lengths are in world units; objects fit a sphere of 0.6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

#: Two surfaces agree at a point where they are nearer than this: a twenty-fourth of an object's largest diameter, 1.2.
F_SCORE_THRESHOLD = 0.05


def surface_points(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], count: int, seed: int = 0
) -> Float[np.ndarray, "count 3"]:
    """Points spread uniformly over a surface, independent of how it is cut into triangles.

    Raises:
        ValueError: the surface has no area.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    corners = vertices[faces.reshape(-1, 3)]
    area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not area.sum() > 0:
        raise ValueError(f"the mesh has no surface: {len(vertices)} vertices, {len(faces)} faces")
    rng = np.random.default_rng(seed)
    # one draw in each of `count` equal shares of the area: evener than independent draws
    level = (np.arange(count) + rng.random(count)) / count * area.sum()
    face = np.searchsorted(area.cumsum(), level).clip(max=len(area) - 1)
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = corners[face].swapaxes(0, 1)
    return a + u * (b - a) + v * (c - a)


def _distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance from each point of either set to the nearest one of the other."""
    return cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]


def chamfer(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"]) -> float:
    """Mean of the two mean distances to the nearest point of the other set (not squared)."""
    there, back = _distances(a, b)
    return float(there.mean() + back.mean()) / 2


def f_score(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"], threshold: float = F_SCORE_THRESHOLD) -> float:
    """Harmonic mean of the shares of either set that lie nearer than `threshold` to the other, 0..1."""
    there, back = _distances(a, b)
    return _harmonic((there < threshold).mean(), (back < threshold).mean())


def _harmonic(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


class ShapeScore(NamedTuple):
    """Distance to the nearest of several shapes.

    chamfer, f_score: to it; index: which one; yaw_deg: by how much the object had to be turned about z to get there.
    """

    chamfer: float
    f_score: float
    index: int
    yaw_deg: float


def nearest_shape(
    points: Float[np.ndarray, "n 3"],
    references: Sequence[Float[np.ndarray, "m 3"]],
    yaws_deg: Sequence[float] = (0.0,),
    threshold: float = F_SCORE_THRESHOLD,
) -> ShapeScore:
    """The reference with the smallest Chamfer distance, over all turns of the points about z by `yaws_deg`.

    Raises:
        ValueError: no references, or no yaws.
    """
    scores = []
    for yaw in yaws_deg:
        turned = points @ _about_z(yaw).T
        for index, reference in enumerate(references):
            there, back = _distances(turned, reference)
            agreement = _harmonic((there < threshold).mean(), (back < threshold).mean())
            scores.append(ShapeScore(float(there.mean() + back.mean()) / 2, agreement, index, float(yaw)))
    if not scores:
        raise ValueError(f"nothing to compare with: {len(references)} references, {len(yaws_deg)} yaws")
    return min(scores)


def _about_z(degrees: float) -> Float[np.ndarray, "3 3"]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def silhouette_iou(a: Bool[np.ndarray, "n h w"], b: Bool[np.ndarray, "n h w"]) -> float:
    """Mean over the views of |a ∩ b| / |a ∪ b|; 0 where both are empty, since nothing was made.

    Raises:
        ValueError: shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"silhouettes of shapes {a.shape} and {b.shape}")
    union = (a | b).sum((1, 2))
    return float(((a & b).sum((1, 2)) / union.clip(min=1)).mean())
