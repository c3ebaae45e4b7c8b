"""All measures of one result against the instances of its class."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from ..shapes_world import COLORS, PATTERNS, instance_mesh, make_instance, render
from ..teacher_factory import Judge
from .asked import Asked
from .shape import nearest_shape, silhouette_iou, surface_points
from .views import Ring, judge_views

#: Seeds of the instances a result is held against: far from those that data sets are drawn with.
FIRST_SEED = 700_000
MESH_RESOLUTION = 64


class GroundTruth:
    """Measures against the built-in world.

    Args:
        judge: reads class, colour, pattern and view.
        ring: cameras that the views given to `of_views` were taken with.
        instances: how many random instances of the class stand for it; the nearest one counts. A class varies in its
            proportions, so a distance to one of them alone would punish good results.
        points: on each surface.
    """

    def __init__(self, judge: Judge, ring: Ring | None = None, instances: int = 8, points: int = 8000):
        if instances < 1 or points < 1:
            raise ValueError(f"instances {instances} and points {points} must be at least 1")
        self.judge, self.ring = judge, ring or Ring()
        self.instances, self.points = instances, points

    def of_views(
        self, asked: Asked, images: Float[np.ndarray, "n h w 3"], opacity: Float[np.ndarray, "n h w"]
    ) -> dict[str, float]:
        """What `judge_views` reads, and ``iou``: of the silhouettes (opacity ≥ ½) with those of the instance whose
        silhouettes fit best."""
        scores = judge_views(self.judge, images, self.ring.words, asked)
        solid = np.asarray(opacity) >= 0.5
        references = reference_masks(asked.class_name, self.instances, self.ring, solid.shape[-1])
        return scores | {"iou": max(silhouette_iou(solid, reference) for reference in references)}

    def of_mesh(
        self, asked: Asked, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
    ) -> dict[str, float]:
        """``chamfer`` and ``f_score`` with the nearest instance as the object stands, ``chamfer_yaw`` and
        ``f_score_yaw`` with the best of four quarter turns.

        Raises:
            ValueError: the mesh has no surface.
        """
        points = surface_points(vertices, faces, self.points)
        references = reference_points(asked.class_name, self.instances, self.points)
        upright = nearest_shape(points, references)
        turned = min(upright, nearest_shape(points, references, yaws_deg=(90.0, 180.0, 270.0)))
        return {
            "chamfer": upright.chamfer, "f_score": upright.f_score,
            "chamfer_yaw": turned.chamfer, "f_score_yaw": turned.f_score,
        }  # fmt: skip


@lru_cache(maxsize=64)
def reference_points(class_name: str, instances: int, points: int) -> tuple[np.ndarray, ...]:
    """Surface points [points, 3] of the instances of a class."""
    meshes = (
        instance_mesh(class_name, COLORS[0], PATTERNS[0], FIRST_SEED + k, MESH_RESOLUTION) for k in range(instances)
    )
    return tuple(surface_points(vertices, faces, points, seed=1) for vertices, faces, _ in meshes)


@lru_cache(maxsize=64)
def reference_masks(class_name: str, instances: int, ring: Ring, size: int) -> tuple[np.ndarray, ...]:
    """Silhouettes bool [n, size, size] of the instances of a class on the ring."""

    def masks(instance) -> np.ndarray:
        views = (
            render(instance, azimuth, ring.elevation_deg, ring.fovy_deg, ring.distance, size)["mask"]
            for azimuth in ring.azimuths_deg
        )
        return np.stack(list(views)) >= 0.5

    drawn = (make_instance(class_name, COLORS[0], PATTERNS[0], FIRST_SEED + k) for k in range(instances))
    return tuple(masks(instance) for instance in drawn)
