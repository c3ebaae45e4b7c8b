"""What density fields share: initial blobs and normals from the field's gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from threestudio.utils.errors import UserError
from threestudio.utils.typing import Float, Tensor


def _magic3d(points: Float[Tensor, "*N 3"], scale: float, std: float) -> Float[Tensor, "*N 1"]:
    return scale * (1 - points.norm(dim=-1, keepdim=True) / std)


def _dreamfusion(points: Float[Tensor, "*N 3"], scale: float, std: float) -> Float[Tensor, "*N 1"]:
    return scale * torch.exp(-0.5 * points.square().sum(-1, keepdim=True) / std**2)


#: ``density_bias`` -> blob around the origin, added to the raw density: a cone (Magic3D) or a Gaussian (DreamFusion).
BLOBS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "blob_magic3d": _magic3d,
    "blob": _magic3d,
    "blob_dreamfusion": _dreamfusion,
}


def density_bias(
    bias: float | str, points: Float[Tensor, "*N 3"], scale: float, std: float
) -> Float[Tensor, "*N 1"] | float:
    """Bias of the raw density at world points: a number, or one of :data:`BLOBS`. No gradient to the points' normal.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(bias, float):
        return bias
    if bias not in BLOBS:
        raise UserError(f"geometry.density_bias={bias}; choices: a float, {', '.join(BLOBS)}")
    return BLOBS[bias](points, scale, std)


def normal_from_forward_differences(
    density_at: Callable[[Tensor], Tensor], points: Float[Tensor, "*N 3"], density: Float[Tensor, "*N 1"], eps: float
) -> Float[Tensor, "*N 3"]:
    """-∇σ from one step of ``eps`` along each axis, unit length; 3 more queries."""
    offsets = eps * torch.eye(3, device=points.device, dtype=points.dtype)
    ahead = density_at(points[..., None, :] + offsets)[..., 0]
    return F.normalize((density - ahead) / eps, dim=-1)


def normal_from_central_differences(
    density_at: Callable[[Tensor], Tensor], points: Float[Tensor, "*N 3"], density: Float[Tensor, "*N 1"], eps: float
) -> Float[Tensor, "*N 3"]:
    """-∇σ from steps of ``eps`` both ways along each axis, unit length; 6 more queries."""
    offsets = eps * torch.eye(3, device=points.device, dtype=points.dtype)
    ahead, behind = density_at(points[..., None, None, :] + torch.stack([offsets, -offsets]))[..., 0].unbind(-2)
    return F.normalize((behind - ahead) / (2 * eps), dim=-1)


#: ``normal_type`` -> normal from density queries around the points.
FINITE_DIFFERENCES: dict[str, Callable[..., Tensor]] = {
    "finite_difference": normal_from_forward_differences,
    "finite_difference_laplacian": normal_from_central_differences,
}
