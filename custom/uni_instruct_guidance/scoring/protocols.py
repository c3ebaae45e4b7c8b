"""Camera protocols: from where, how large and on what background an object is looked at before it is scored.

A score without its cameras cannot be compared, so every protocol has a name and a version, and results carry both.
World: right-handed, z up, azimuth 0 on +x growing towards +y (threestudio's). Cameras look along −z of their own frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.errors import choose
from ..core.orbits import look_at

SHAPES_BACKGROUND = (0.95, 0.95, 0.95)
# Closer to the up axis than this, another up vector is taken: T³Bench's rule for the poles of its icosphere.
POLE = 0.99


@dataclass(frozen=True)
class Framing:
    """The cube that the cameras were made for: an object's centre and half size become the world's origin and unit.

    centre: [3] world units. scale: world units per protocol unit.
    """

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0


def world_framing(vertices: Float[Tensor, "V 3"], faces: Tensor) -> Framing:
    """The object is scored where it stands, in the world's units."""
    return Framing()


def unit_cube_framing(vertices: Float[Tensor, "V 3"], faces: Tensor) -> Framing:
    """Bounding box centred, its longest side 1: the object fills −0.5..0.5."""
    low, high = (getattr(vertices[faces.unique()], side)(0).values for side in ("min", "max"))
    return Framing(tuple(((low + high) / 2).tolist()), float((high - low).max()))


def unit_radius_framing(vertices: Float[Tensor, "V 3"], faces: Tensor) -> Framing:
    """Centroid of the surface at the origin, the farthest coordinate at ±1.

    T³Bench takes the mean of the vertices, which depends on the triangulation; the area-weighted centroid does not.
    """
    corners = vertices.double()[faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1).norm(dim=-1)
    centre = (corners.mean(1) * area[:, None]).sum(0) / area.sum()
    return Framing(tuple(centre.tolist()), float((corners - centre).abs().max()))


@dataclass(frozen=True)
class Protocol:
    """Cameras of one evaluation.

    position, up: [n, 3] in protocol units; every camera looks at the origin. fovy_deg: [n] vertical field of view,
    degrees. size: side of the square pictures in pixels. background: colour in 0..1, sRGB. framing: maps an object to
    the protocol's units (a checkpoint and a mesh file alike: it is the cameras that move). summary: one line for users.
    """

    name: str
    version: int
    position: Float[Tensor, "n 3"]
    up: Float[Tensor, "n 3"]
    fovy_deg: Float[Tensor, "n"]
    size: int
    background: tuple[float, float, float]
    framing: Callable[[Tensor, Tensor], Framing]
    summary: str
    changes: str = ""

    @property
    def label(self) -> str:
        """Name and version as results carry it, with what was changed: `threestudio-120@1[views=30]`."""
        return f"{self.name}@{self.version}{self.changes}"

    @property
    def n_views(self) -> int:
        """Number of pictures."""
        return len(self.position)

    @property
    def c2w(self) -> Float[Tensor, "n 4 4"]:
        """Camera-to-world matrices in protocol units: columns right, up, minus look-at, position."""
        return look_at_origin(self.position, self.up)

    def cameras(self, framing: Framing) -> Float[Tensor, "n 4 4"]:
        """`c2w` in the world's units for an object with this framing."""
        c2w = self.c2w.clone()
        c2w[:, :3, 3] = c2w[:, :3, 3] * framing.scale + torch.tensor(framing.centre)
        return c2w

    def reduced(self, views: int | None = None, size: int | None = None) -> Protocol:
        """The same protocol with fewer views (evenly picked) or another picture size; its label says so.

        Raises:
            ValueError: more views than there are, or a size below 1.
        """
        if views is not None and not 1 <= views <= self.n_views:
            raise ValueError(f"views={views} of protocol {self.label}; choose 1 to {self.n_views}")
        if size is not None and size < 1:
            raise ValueError(f"size={size} of protocol {self.label}; must be at least 1")
        views, size = views or self.n_views, size or self.size
        notes = [f"views={views}"] * (views != self.n_views) + [f"size={size}"] * (size != self.size)
        keep = torch.arange(views) * self.n_views // views
        return replace(
            self,
            position=self.position[keep],
            up=self.up[keep],
            fovy_deg=self.fovy_deg[keep],
            size=size,
            changes=f"[{','.join(notes)}]" if notes else "",
        )


def look_at_origin(position: Float[Tensor, "n 3"], up: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4 4"]:
    """Camera-to-world matrices of cameras at `position` that look at the origin."""
    return look_at(position, torch.zeros_like(position), up)


def ring(n: int, elevation_deg: float, distance: float) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Positions and up vectors of n cameras at equal azimuth steps, the first in front (azimuth 0)."""
    azimuth = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    elevation = torch.full_like(azimuth, math.radians(elevation_deg))
    position = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
    return (distance * position).float(), torch.tensor([0.0, 0.0, 1.0]).repeat(n, 1)


def icosphere(level: int) -> Float[Tensor, "n 3"]:
    """Unit vertices of an icosahedron whose faces were split into four `level` times: 10·4^level + 2."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0)]
    corners = [tuple(c[(axis + shift) % 3] for axis in range(3)) for shift in (0, 1, 2) for c in corners]
    vertices = F.normalize(torch.tensor(corners, dtype=torch.float64), dim=-1)
    for _ in range(level):
        first, second = neighbours(vertices).triu().nonzero().unbind(1)
        vertices = torch.cat([vertices, F.normalize(vertices[first] + vertices[second], dim=-1)])
    return vertices.float()


def neighbours(vertices: Float[Tensor, "n 3"]) -> Bool[Tensor, "n n"]:
    """Which vertices of an icosphere share an edge."""
    distance = torch.cdist(vertices.double(), vertices.double())
    apart = ~torch.eye(len(vertices), dtype=torch.bool)
    # The edges of a split icosahedron differ by less than a third, and all other distances are longer.
    return apart & (distance < 1.35 * distance[apart].min())


def _t3bench() -> Protocol:
    fovy = torch.tensor([60.0, 45.0, 36.0, 30.0, 24.0])
    direction = icosphere(2)
    up = torch.where(direction[:, 2:].abs() < POLE, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0]))
    return Protocol(
        "t3bench-162x5", 1,
        (2.2 * direction).repeat_interleave(len(fovy), 0), up.repeat_interleave(len(fovy), 0),
        fovy.repeat(len(direction)), 512, (0.0, 0.0, 0.0), unit_radius_framing,
        "162 icosphere directions x fovy 60, 45, 36, 30, 24 degrees; distance 2.2; object in −1..1; black",
    )  # fmt: skip


def _ring(
    name: str, n: int, elevation_deg: float, distance: float, fovy_deg: float, size: int, background, framing,
    summary: str,
) -> Protocol:  # fmt: skip
    return Protocol(
        name, 1, *ring(n, elevation_deg, distance), torch.full((n,), fovy_deg), size, background, framing, summary
    )


_TABLE = (
    _ring("threestudio-120", 120, 15.0, 1.5, 70.0, 512, (1.0, 1.0, 1.0), world_framing,
          "threestudio's turntable: elevation 15, distance 1.5, fovy 70 degrees, 512²; the world's units; white"),
    _ring("ring-8", 8, 30.0, 2.0, 40.0, 512, (0.0, 0.0, 0.0), unit_cube_framing,
          "8 yaws, pitch 30, fovy 40 degrees, distance 2, 512²; longest side of the object 1; black"),
    _t3bench(),
    _ring("shapes-8", 8, 15.0, 1.7, 50.0, 128, SHAPES_BACKGROUND, world_framing,
          "the built-in teacher's cameras: 8 azimuths, elevation 15, distance 1.7, fovy 50 degrees, 128²; light grey"),
)  # fmt: skip
PROTOCOLS: dict[str, Protocol] = {row.name: row for row in _TABLE}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name (`shapes-8`) or name and version (`shapes-8@1`).

    Raises:
        ValueError: no such protocol; the choices are named.
    """
    labels = {row.label: row for row in PROTOCOLS.values()}
    return choose("protocol", name, labels if isinstance(name, str) and "@" in name else PROTOCOLS)
