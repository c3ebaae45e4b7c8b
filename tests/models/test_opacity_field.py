"""Visibility of points in a density field: closed forms, and the shapes it makes of fields with holes inside."""

import math

import pytest
import torch
import trimesh

from backends.tetrahedra import marching_tetrahedra, tetrahedral_grid
from uni_instruct_guidance.models.opacity_field import directions_above, pictured_level, visibility

N = 33


def _nodes():
    side = torch.linspace(-1, 1, N)
    return torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1)


SPACING = torch.full((3,), 2 / (N - 1))


@pytest.mark.parametrize("direction", [(0, 0, 1), (0, -1, 0), (0.6, 0, 0.8), (-0.48, 0.6, -0.64)])
def test_constant_density_is_an_exponential_of_the_distance_to_the_border(direction):
    seen = visibility(torch.full((N, N, N), 0.7), SPACING, torch.tensor([direction], dtype=torch.float32))
    d, x = torch.tensor(direction), _nodes()
    distance = torch.where(d == 0, torch.inf, (d.sign() - x) / d).amin(-1)
    # Beyond the border the density fades over one node: up to 1.5 nodes (0.094) along a slanted ray, times 0.7.
    torch.testing.assert_close(seen, torch.exp(-0.7 * distance), atol=0.066, rtol=0)


def test_rectangular_cells_and_the_best_direction():
    density = torch.full((5, 9, 17), 2.0)
    spacing = torch.tensor([0.3, 0.1, 0.05])
    directions = torch.eye(3)
    each = [visibility(density, spacing, d[None]) for d in directions]
    for axis, seen in enumerate(each):
        steps = torch.arange(density.shape[axis]).flip(0).float()
        # The trapezoid rule gives the last node half a step.
        expected = torch.exp(-2.0 * (steps + 0.5) * spacing[axis])
        shape = [1, 1, 1]
        shape[axis] = -1
        torch.testing.assert_close(seen, expected.reshape(shape).expand_as(seen), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(visibility(density, spacing, directions), torch.stack(each).amax(0))


def test_directions_are_unit_vectors_above_the_elevation():
    d = directions_above(-10.0, 200)
    torch.testing.assert_close(d.norm(dim=-1), torch.ones(200))
    assert d[:, 2].min() >= math.sin(math.radians(-10)) and d[:, 2].max() > 0.99
    # Even on a cap: the mean height lies half way.
    assert d[:, 2].mean().item() == pytest.approx((1 + math.sin(math.radians(-10))) / 2, abs=0.01)


def _surface(density):
    seen = visibility(density, SPACING, directions_above(-10.0, 48))
    vertices, tets = tetrahedral_grid(N - 1)
    index = (vertices * (N - 1)).round().long()
    v_pos, faces = marching_tetrahedra(vertices * 2 - 1, tets, seen[index.unbind(-1)] - 0.5)
    return trimesh.Trimesh(v_pos.numpy(), faces.numpy(), process=False)


def test_a_hollow_shell_of_uneven_density_becomes_a_solid_ball():
    """A wall ten times denser on one side: any threshold on density opens the other side or leaves two surfaces."""
    x = _nodes()
    radius = x.norm(dim=-1)
    wall = ((radius > 0.45) & (radius < 0.7)).float() * torch.where(x[..., 0] > 0, 200.0, 20.0)
    ball = _surface(wall)
    assert ball.is_watertight and ball.euler_number == 2
    # ln 2 / density of depth is lost (0.035 and 0.0035), and the wall's sampled edge is uncertain by half a node.
    assert ball.volume == pytest.approx(4 / 3 * math.pi * 0.68**3, rel=0.12)


def test_a_ring_keeps_its_hole_and_fog_is_no_surface():
    x = _nodes()
    ring = torch.stack([x[..., :2].norm(dim=-1) - 0.55, x[..., 2]], -1).norm(dim=-1) < 0.22
    fog = (x - torch.tensor([0.0, 0.0, 0.75])).norm(dim=-1) < 0.2
    torus = _surface(ring.float() * 100 + fog.float() * 0.5)
    assert torus.is_watertight and torus.euler_number == 0
    assert torus.volume == pytest.approx(2 * math.pi**2 * 0.55 * 0.22**2, rel=0.15)


def soft_ball(nodes: int = 41, radius: float = 0.5, softness: float = 0.08, peak: float = 40.0):
    """Density [n, n, n] that falls off over ``softness`` around ``radius``, and the spacing of its nodes."""
    axis = torch.linspace(-1, 1, nodes)
    r = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    return peak * torch.sigmoid((radius - r) / softness), torch.full((3,), 2.0 / (nodes - 1))


@pytest.mark.parametrize("peak", [10.0, 40.0, 200.0])
def test_the_body_has_the_radius_that_pictures_show(peak):
    """Oracle: the distance from the axis at which the opacity along a ray, integrated finely, falls to one half."""
    density, spacing = soft_ball(peak=peak)
    directions = directions_above(-10.0, 24)
    seen = visibility(density, spacing, directions)
    level = pictured_level(seen, density, spacing, directions[::4], torch.linspace(0.5, 0.999, 200))
    along = torch.linspace(-1, 1, 4001)[None]
    offsets = torch.linspace(0.0, 1.0, 1001)[:, None]
    depth = (peak * torch.sigmoid((0.5 - (offsets**2 + along**2).sqrt()) / 0.08)).sum(1) * (2 / 4000)
    shown = float(offsets[(1 - torch.exp(-depth) >= 0.5)].max())
    volume = float((seen < level).sum()) * float(spacing.prod())
    radius = (volume * 3 / (4 * math.pi)) ** (1 / 3)
    # half a node: the grid's own resolution of a radius
    assert abs(radius - shown) < 0.5 * float(spacing[0])
    # a fixed level, as it was, makes the object smaller than its pictures
    fixed = float((seen < 0.5**0.5).sum()) * float(spacing.prod())
    assert (fixed * 3 / (4 * math.pi)) ** (1 / 3) < shown - 0.8 * float(spacing[0])


def test_fog_that_pictures_hardly_show_is_not_made_solid():
    density, spacing = soft_ball(softness=0.02)
    fog = density + 0.2  # a third of a ray across the box
    directions = directions_above(-10.0, 24)
    seen = visibility(fog, spacing, directions)
    level = pictured_level(seen, fog, spacing, directions[::4], torch.linspace(0.5, 0.99, 40))
    body = float((seen < level).sum()) * float(spacing.prod())
    # the ball, volume 0.52, its soft rim and its shadow below; a level of 0.95 would take half of the box, volume 8
    assert 0.52 < body < 0.8 and float((seen < 0.95).sum()) * float(spacing.prod()) > 4.0
