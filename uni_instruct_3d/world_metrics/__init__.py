"""Measures of a 3D result against the built-in world, whose objects are procedural and therefore known.

:mod:`asked` reads a prompt, :mod:`views` lets the judge look at a ring of renderings, :mod:`shape` compares surfaces
and silhouettes, :mod:`ground_truth` puts them together for one class of objects.
"""

from .asked import Asked, asked_by
from .ground_truth import GroundTruth
from .shape import ShapeScore, chamfer, f_score, nearest_shape, silhouette_iou, surface_points
from .views import Ring, judge_views

__all__ = [
    "Asked",
    "GroundTruth",
    "Ring",
    "ShapeScore",
    "asked_by",
    "chamfer",
    "f_score",
    "judge_views",
    "nearest_shape",
    "silhouette_iou",
    "surface_points",
]
