"""Is the asset what the NeRF showed, and is it one thing: measured at the end of every run, said where it is poor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..world_metrics.shape import silhouette_iou
from .pictures import around

VIEWS, SIDE = 8, 64
#: Opacity from which a pixel counts as solid; below it and above FAINT it is half transparent.
SOLID, FAINT = 0.5, 0.1

#: name -> (what is poor, in words for the number).
POOR: dict[str, tuple[Callable[[float], bool], str]] = {
    "silhouettes": (lambda v: v < 0.7, "the mesh's silhouettes agree with the NeRF's by {:.0%} only"),
    "half transparent": (lambda v: v > 0.3, "{:.0%} of what the NeRF shows is half transparent"),
    "filled": (lambda v: v < 0.005, "the mesh fills {:.2%} of its space: crumbs or a film"),
    "largest part": (lambda v: v < 0.4, "the largest part of the mesh has {:.0%} of its surface: it is in pieces"),
}


#: Facts in words, for the report.
WORDS = {
    "components": "separate parts of the mesh",
    "largest part": "the largest part's share of the surface",
    "filled": "share of its space that the mesh fills",
    "half transparent": "share of the NeRF's pictures that is half transparent",
    "silhouettes": "agreement of the mesh's silhouettes with the NeRF's (IoU)",
}


def measure(mesh_scene: Any | None, nerf_scene: Any | None, data: dict[str, Any]) -> dict[str, float]:
    """Facts about an asset; those that its stages can tell.

    Args:
        mesh_scene, nerf_scene: systems of finished stages, one of them at least.
        data: the block of the configuration, for its cameras.

    Returns:
        ``components``; ``filled``: volume as a share of the sphere that holds the object; ``largest part``: its share
        of the surface; ``silhouettes``: intersection over union with the NeRF's, mean of eight views; ``half
        transparent``: share of the NeRF's covered pixels.
    """
    facts: dict[str, float] = {}
    masks = {}
    for name, scene in {"mesh": mesh_scene, "nerf": nerf_scene}.items():
        if scene is not None:
            views = [out["opacity"][0, ..., 0].cpu().numpy() for out in around(scene, data, VIEWS, SIDE)]
            masks[name] = np.stack(views)
    geometry = (mesh_scene or nerf_scene).geometry
    mesh = geometry.isosurface()
    vertices, faces = mesh.v_pos.detach().cpu().numpy(), mesh.t_pos_idx.cpu().numpy()
    facts |= of_surface(vertices, faces, float(geometry.cfg.radius))
    if "nerf" in masks:
        facts["half transparent"] = half_transparent(masks["nerf"])
    if len(masks) == 2:
        facts["silhouettes"] = silhouette_iou(*(mask >= SOLID for mask in masks.values()))
    return facts


def half_transparent(opacity: Float[np.ndarray, "n h w"]) -> float:
    """Share of the covered pixels through which one sees; rims alone make a few per cent."""
    covered = opacity > FAINT
    return float((opacity[covered] < SOLID).mean()) if covered.any() else 1.0


def of_surface(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], radius: float = 1.0
) -> dict[str, float]:
    """Facts about vertices and faces alone; see :func:`measure`."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b, c = np.moveaxis(vertices.astype(np.float64)[faces], 1, 0)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
    volume = abs((a * np.cross(b, c)).sum()) / 6
    count = len(vertices)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    links = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    part = connected_components(links, directed=False)[1][faces[:, 0]]
    areas = np.bincount(part, weights=area)
    return {
        "components": float((areas > 0).sum()),
        "largest part": float(areas.max() / max(areas.sum(), 1e-12)),
        "filled": float(volume / (4 / 3 * np.pi * radius**3)),
    }


def complaints(facts: dict[str, float]) -> list[str]:
    """What is poor, in words."""
    return [words.format(facts[name]) for name, (poor, words) in POOR.items() if name in facts and poor(facts[name])]
