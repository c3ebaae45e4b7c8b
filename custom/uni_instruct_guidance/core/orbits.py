"""Cameras that look at one object together: n views at one elevation, 360/n degrees of azimuth apart.

As MVDream (arXiv 2308.16512) trains and distils. World: right-handed, z up, azimuth 0 on +x growing towards +y; cameras
look along −z of their own frame (threestudio's). Rows of a group are consecutive, see `groups.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Degrees by which the views of an orbit may miss their places.
SLACK = 0.1


def orbit_azimuths(first: Tensor, n: int) -> Tensor:
    """[G] degrees of each group's first view → [G·n] in [−180, 180)."""
    around = first[:, None] + torch.arange(n, device=first.device) * (360.0 / n)
    return ((around + 180.0) % 360.0 - 180.0).flatten()


def turned(x: Tensor, n: int) -> Tensor:
    """Points [G, 3] or camera matrices [G, 4, 4] → [G·n, …], turned about z by 0, 360/n, … degrees."""
    angle = torch.arange(n, device=x.device, dtype=x.dtype) * (2 * math.pi / n)
    turn = torch.eye(x.shape[1], device=x.device, dtype=x.dtype).repeat(n, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    if x.ndim == 2:
        return torch.einsum("nij,gj->gni", turn, x).flatten(0, 1)
    return torch.einsum("nij,gjk->gnik", turn, x).flatten(0, 1)


def are_orbits(elevation: Tensor, azimuth: Tensor, n: int) -> bool:
    """Whether rows [B] (degrees) are whole groups as `orbit_azimuths` makes them."""
    if len(azimuth) % n:
        return False
    above = elevation.unflatten(0, (-1, n))
    expected = orbit_azimuths(azimuth[::n], n)
    off = ((azimuth - expected + 180.0) % 360.0 - 180.0).abs()
    return bool((off < SLACK).all() and ((above - above[:, :1]).abs() < SLACK).all())


def lens(distance: Tensor, fovy_deg: Tensor, zoom: Tensor, relative: bool) -> tuple[Tensor, Tensor]:
    """Distances and vertical fields of view (radians) [G] of what was drawn: `relative` distances are in units of
    1/tan(fovy/2); `zoom` is a factor on the field of view once the distance is fixed."""
    fovy = torch.deg2rad(fovy_deg)
    distance = distance / torch.tan(0.5 * fovy) if relative else distance
    return distance, fovy * zoom


def cartesian(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Tensor:
    """Positions [B, 3] from degrees and distances [B]."""
    above, around = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    level = distance * above.cos()
    return torch.stack([level * around.cos(), level * around.sin(), distance * above.sin()], -1)


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world matrices [B, 4, 4] of cameras at `position` [B, 3]; `up` need not be orthogonal to the view."""
    back = F.normalize(position - target, dim=-1)
    right = F.normalize(torch.linalg.cross(up, back, dim=-1), dim=-1)
    columns = torch.stack([right, torch.linalg.cross(back, right, dim=-1), back, position], -1)
    last = columns.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(position), 1, 4)
    return torch.cat([columns, last], 1)


def elevations(share: Tensor, low: float, high: float, even_angle: Tensor | bool) -> Tensor:
    """Elevations in degrees [B] for `share` [B] uniform in 0..1: even in the angle (many from above), or on the sphere.

    threestudio's random cameras are half the one and half the other.
    """
    sines = [math.sin(math.radians(edge)) for edge in (low, high)]
    on_sphere = torch.rad2deg(torch.asin((share * (sines[1] - sines[0]) + sines[0]).clamp(-1.0, 1.0)))
    even = torch.as_tensor(even_angle, device=share.device)
    return torch.where(even, share * (high - low) + low, on_sphere)
