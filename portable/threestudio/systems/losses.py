"""Regularisers of the rendering. ``system.loss.lambda_X`` weighs row X of :data:`REGULARISERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio.utils.errors import UserError
from threestudio.utils.ops import binary_cross_entropy, dot


def orientation(out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """Normals that face away from the camera (Ref-NeRF, Eq. 11): sum of w max(0, n·d)^2 per ray that hits something."""
    facing_away = dot(out["normal"], out["t_dirs"]).clamp_min(0.0) ** 2
    return (out["weights"].detach() * facing_away).sum() / (out["opacity"] > 0).sum().clamp_min(1)


def sparsity(out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """Mean opacity, smooth at zero."""
    return (out["opacity"] ** 2 + 0.01).sqrt().mean()


def opaqueness(out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """Binary entropy of the opacity: every pixel all or nothing."""
    opacity = out["opacity"].clamp(1.0e-3, 1.0 - 1.0e-3)
    return binary_cross_entropy(opacity, opacity)


def depth_variance(out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """Variance of the depth along rays that hit something (HiFA, arXiv 2305.18766)."""
    hit = out["opacity"] > 0.5
    return (out["z_variance"] * hit).sum() / hit.sum().clamp_min(1)


def eikonal(out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """A signed distance has a gradient of length 1."""
    return ((out["sdf_grad"].norm(dim=-1) - 1.0) ** 2).mean()


def normal_consistency(out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """Angle between the vertex normals at the ends of an edge."""
    return out["mesh"].normal_consistency()


def laplacian_smoothness(out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """Distance of vertices from the mean of their neighbours."""
    return out["mesh"].laplacian()


#: Name -> (function, what it needs from the renderer).
REGULARISERS: dict[str, tuple[Callable[[Mapping[str, Any]], Tensor], tuple[str, ...]]] = {
    "orient": (orientation, ("normal", "t_dirs", "weights", "opacity")),
    "sparsity": (sparsity, ("opacity",)),
    "opaque": (opaqueness, ("opacity",)),
    "z_variance": (depth_variance, ("z_variance", "opacity")),
    "eikonal": (eikonal, ("sdf_grad",)),
    "normal_consistency": (normal_consistency, ("mesh",)),
    "laplacian_smoothness": (laplacian_smoothness, ("mesh",)),
}


def regulariser(name: str, out: Mapping[str, Any]) -> Float[Tensor, ""]:
    """Value of row ``name``, unweighted.

    Raises:
        ValueError: the renderer does not give what it needs.
    """
    function, needs = REGULARISERS[name]
    missing = [key for key in needs if out.get(key) is None]
    if missing:
        raise UserError(f"system.loss.lambda_{name} needs {', '.join(missing)}, which this renderer does not give")
    return function(out)
