"""Cameras and rays.

World: right-handed, z up. Camera space: x right, y up, looking along -z. ``c2w`` has the columns right, up, minus
look-at, position. Pixel centres lie at +0.5, row 0 is the top.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.errors import SpecificationError


def get_ray_directions(
    H: int,
    W: int,
    focal: float | tuple[float, float],
    principal: tuple[float, float] | None = None,
    use_pixel_centers: bool = True,
) -> Float[Tensor, "H W 3"]:
    """Directions through all pixels in camera space, with z = -1 (not unit length).

    Args:
        focal: focal length in pixels, a float; or the pair for x and y, which needs ``principal``.
        principal: principal point (x, y) in pixels; the image centre with a single focal length.
    """
    if isinstance(focal, float):
        fx, fy, cx, cy = focal, focal, W / 2, H / 2
    else:
        fx, fy = focal
        if principal is None:
            raise SpecificationError("a pair of focal lengths needs the principal point: principal=(cx, cy)")
        cx, cy = principal
    offset = 0.5 if use_pixel_centers else 0.0
    x = torch.arange(W, dtype=torch.float32) + offset
    y = torch.arange(H, dtype=torch.float32) + offset
    j, i = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([(i - cx) / fx, -(j - cy) / fy, -torch.ones_like(i)], -1)


def get_rays(
    directions: Float[Tensor, "... 3"],
    c2w: Float[Tensor, "... 4 4"],
    keepdim: bool = False,
    noise_scale: float = 0.0,
    normalize: bool = True,
) -> tuple[Float[Tensor, "... 3"], Float[Tensor, "... 3"]]:
    """Origins and directions of rays in world space.

    Args:
        directions: (N, 3), (H, W, 3) or (B, H, W, 3) in camera space.
        c2w: (4, 4) for all, (N, 4, 4) one for each of N rays, or (B, 4, 4) one for each of B images.
        keepdim: keep the image axes; otherwise all rays are flattened to (R, 3).
        noise_scale: amplitude of uniform noise, added against aliasing between neighbouring rays.
        normalize: give the directions unit length.
    """
    if directions.ndim == 2 and c2w.ndim == 2:  # N rays, one camera
        c2w = c2w[None]
    elif directions.ndim > 2:  # images: every pixel of an image shares its camera
        c2w = c2w.reshape(-1, 1, 1, 4, 4) if c2w.ndim == 3 else c2w
    rays_d = (directions[..., None, :] * c2w[..., :3, :3]).sum(-1)
    rays_o = c2w[..., :3, 3].expand(rays_d.shape)
    if noise_scale > 0:
        rays_o = rays_o + torch.randn(3, device=rays_o.device) * noise_scale
        rays_d = rays_d + torch.randn(3, device=rays_d.device) * noise_scale
    if normalize:
        rays_d = F.normalize(rays_d, dim=-1)
    return (rays_o, rays_d) if keepdim else (rays_o.reshape(-1, 3), rays_d.reshape(-1, 3))


def get_projection_matrix(
    fovy: Float[Tensor, "B"], aspect_wh: float, near: float, far: float
) -> Float[Tensor, "B 4 4"]:
    """OpenGL projection (depth in [-1, 1]) with the y axis turned down, as rasterisers store images from the top.

    Args:
        fovy: vertical field of view in radians.
        aspect_wh: width / height.
    """
    cot = 1.0 / torch.tan(fovy / 2.0)
    out = torch.zeros(len(fovy), 4, 4, dtype=torch.float32, device=fovy.device)
    out[:, 0, 0] = cot / aspect_wh
    out[:, 1, 1] = -cot
    out[:, 2, 2] = -(far + near) / (far - near)
    out[:, 2, 3] = -2.0 * far * near / (far - near)
    out[:, 3, 2] = -1.0
    return out


def get_mvp_matrix(c2w: Float[Tensor, "B 4 4"], proj_mtx: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 4 4"]:
    """World -> clip space: projection @ inverse(c2w), the inverse of a rigid motion taken in closed form."""
    rotation = c2w[:, :3, :3].transpose(1, 2)
    w2c = torch.zeros_like(c2w)
    w2c[:, :3, :3] = rotation
    w2c[:, :3, 3:] = -rotation @ c2w[:, :3, 3:]
    w2c[:, 3, 3] = 1.0
    return proj_mtx @ w2c


def get_full_projection_matrix(c2w: Float[Tensor, "4 4"], proj_mtx: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """c2w @ projection, for one camera (the transposed convention of splatting rasterisers)."""
    return c2w.unsqueeze(0).bmm(proj_mtx.unsqueeze(0)).squeeze(0)


def look_at(
    position: Float[Tensor, "B 3"], target: Float[Tensor, "B 3"], up: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 4 4"]:
    """``c2w`` of cameras at ``position`` that look at ``target``; ``up`` need not be orthogonal to the view."""
    forward = F.normalize(target - position, dim=-1)
    right = F.normalize(torch.cross(forward, up, dim=-1), dim=-1)
    true_up = F.normalize(torch.cross(right, forward, dim=-1), dim=-1)
    top = torch.cat([torch.stack([right, true_up, -forward], -1), position[:, :, None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], 1)
