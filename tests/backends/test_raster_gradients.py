"""Barycentrics, interpolation and antialiasing: closed forms, finite differences, and a silhouette that moves."""

import pytest
import torch
import trimesh
from torch.autograd import gradcheck

from backends import raster as dr

CTX = dr.RasterizeTorchContext()
SIZE = (9, 11)


@pytest.fixture
def scene():
    """Three overlapping triangles in perspective, float64: clip [1, 9, 4], faces [3, 3]."""
    generator = torch.Generator().manual_seed(3)
    clip = torch.rand(1, 9, 4, generator=generator, dtype=torch.float64) * 3 - 1.5
    clip[..., 2] = clip[..., 2] * 0.2
    clip[..., 3] = torch.linspace(0.8, 1.6, 9, dtype=torch.float64)
    return clip, torch.arange(9).reshape(3, 3)


def test_interpolated_clip_position_lands_on_the_pixel_centre(scene):
    clip, tri = scene
    rast, _ = dr.rasterize(CTX, clip, tri, SIZE)
    point, _ = dr.interpolate(clip, rast, tri)
    seen = rast[0, ..., 3] > 0
    assert seen.sum() > 20
    x, y, z, w = point[0][seen].unbind(-1)
    row, column = seen.nonzero().double().unbind(-1)
    torch.testing.assert_close(x / w, (2 * column + 1) / SIZE[1] - 1, atol=1e-12, rtol=0)
    torch.testing.assert_close(y / w, (2 * row + 1) / SIZE[0] - 1, atol=1e-12, rtol=0)
    torch.testing.assert_close(z / w, rast[0, ..., 2][seen], atol=1e-12, rtol=0)


def test_derivatives_match_a_shifted_image(scene):
    """Moving the image by a small step h changes u, v and attributes by h times their image-space derivatives."""
    clip, tri = scene
    attr = torch.rand(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rast, db = dr.rasterize(CTX, clip, tri, SIZE)
    out, out_da = dr.interpolate(attr, rast, tri, rast_db=db, diff_attrs="all")
    h = 1e-6
    for axis, size in enumerate((SIZE[1], SIZE[0])):
        moved = clip.clone()
        moved[..., axis] -= 2 * h / size * clip[..., 3]
        rast_h, _ = dr.rasterize(CTX, moved, tri, SIZE)
        out_h, _ = dr.interpolate(attr, rast_h, tri)
        assert torch.equal(rast_h[..., 3], rast[..., 3])
        # First-order finite difference: error h times the second derivative.
        torch.testing.assert_close((rast_h - rast)[..., :2] / h, db[..., axis::2], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close((out_h - out) / h, out_da[..., axis::2], atol=1e-4, rtol=1e-4)


def test_diff_attrs_selects_channels_and_needs_derivatives(scene):
    clip, tri = scene
    rast, db = dr.rasterize(CTX, clip, tri, SIZE)
    _, every = dr.interpolate(clip, rast, tri, rast_db=db, diff_attrs="all")
    _, some = dr.interpolate(clip, rast, tri, rast_db=db, diff_attrs=[2, 0])
    torch.testing.assert_close(some, every[..., [4, 5, 0, 1]], atol=0, rtol=0)
    with pytest.raises(ValueError, match="diff_attrs needs rast_db"):
        dr.interpolate(clip, rast, tri, diff_attrs="all")
    lean, nothing = dr.rasterize(dr.RasterizeTorchContext(output_db=False), clip, tri, SIZE)
    assert torch.equal(lean, rast) and nothing.shape == (1, *SIZE, 0)


def test_gradients_of_barycentrics_depth_and_derivatives(scene):
    clip, tri = scene
    assert gradcheck(lambda p: dr.rasterize(CTX, p, tri, SIZE), clip.requires_grad_(), atol=1e-5)


def test_grad_db_false_stops_only_the_derivatives(scene):
    clip, tri = scene
    rast, db = dr.rasterize(CTX, clip.requires_grad_(), tri, SIZE, grad_db=False)
    assert rast.requires_grad and not db.requires_grad


def test_gradients_of_interpolation(scene):
    clip, tri = scene
    clip = clip.expand(2, -1, -1).contiguous()
    rast, db = dr.rasterize(CTX, clip, tri, (5, 6))
    attr = torch.rand(2, 9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    uvz, ids = rast[..., :3].clone().requires_grad_(), rast[..., 3:]

    def run(attr, uvz, db):
        return dr.interpolate(attr, torch.cat([uvz, ids], -1), tri, rast_db=db, diff_attrs="all")

    assert gradcheck(run, (attr.requires_grad_(), uvz, db.clone().requires_grad_()))
    shared = attr.detach()[:1].requires_grad_()
    assert gradcheck(run, (shared, uvz, db))


def _half_plane(offset: float, slope: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One huge triangle covering x < offset + slope * y (pixels from the image centre, 16 x 16) of the image."""
    corners = [[offset - 40 * slope, -40.0], [offset + 40 * slope, 40.0], [-200.0, 0.0]]
    edge = torch.tensor(corners, dtype=torch.float64) / 8
    return torch.cat([edge, torch.zeros(3, 1), torch.ones(3, 1)], 1)[None], torch.tensor([[0, 1, 2]])


@pytest.mark.parametrize("slope", [0.0, 0.4, -0.75])  # the edge stays between the first and the last pixel centre
@pytest.mark.parametrize("offset", [-1.3, 0.05, 0.5, 0.8])
@pytest.mark.parametrize("turned", [False, True])
def test_antialiased_half_plane_has_the_exact_area(offset, slope, turned):
    """Coverage by the crossing at a row's centre is exact for a straight edge: columns add up to the area."""
    clip, tri = _half_plane(offset, slope)
    if turned:
        clip = clip[..., [1, 0, 2, 3]]
    rast, _ = dr.rasterize(CTX, clip, tri, (16, 16))
    color, _ = dr.interpolate(torch.ones(3, 1).double(), rast, tri)
    image = dr.antialias(color, rast, clip, tri)[0, ..., 0]
    assert image.min() >= 0 and image.max() <= 1
    area = (image.T if turned else image).sum(-1)
    y = torch.arange(16).double() - 7.5
    torch.testing.assert_close(area, 8 + offset + slope * y, atol=1e-9, rtol=0)


def _loss(clip, tri, size=24):
    rast, _ = dr.rasterize(CTX, clip, tri, (size, size))
    color, _ = dr.interpolate(torch.ones(clip.shape[1], 1, dtype=clip.dtype), rast, tri)
    return dr.antialias(color, rast, clip, tri)[..., 0].sum(), rast


def test_area_gradient_of_a_triangle():
    """d(area)/d(vertex) through antialiasing alone, against the shoelace formula; and against finite differences."""
    xy = torch.tensor([[-0.61, -0.52], [0.73, -0.31], [-0.12, 0.68]], dtype=torch.float64)
    clip = torch.cat([xy, torch.zeros(3, 1), torch.ones(3, 1)], 1)[None].double().requires_grad_()
    tri = torch.tensor([[0, 1, 2]])
    area, _ = _loss(clip, tri, 64)
    (gradient,) = torch.autograd.grad(area, clip)
    points = xy.clone().requires_grad_()
    a, b, c = points * 32
    exact = 0.5 * ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0])
    (expected,) = torch.autograd.grad(exact, points)
    # A vertex's last row or column is only partly covered: about one pixel in 40.
    torch.testing.assert_close(area, exact, rtol=0.01, atol=0)
    torch.testing.assert_close(gradient[0, :, :2], expected, rtol=0.1, atol=0.5)


def test_antialias_gradients_by_finite_differences(scene):
    clip, tri = scene
    generator = torch.Generator().manual_seed(2)
    rast, _ = dr.rasterize(CTX, clip, tri, SIZE)
    color = torch.rand(1, *SIZE, 2, generator=generator, dtype=torch.float64)
    assert not torch.equal(dr.antialias(color, rast, clip, tri), color)
    assert gradcheck(lambda c, p: dr.antialias(c, rast, p, tri), (color.requires_grad_(), clip.requires_grad_()))
    plain, boosted = (
        torch.autograd.grad(dr.antialias(color, rast, clip, tri, pos_gradient_boost=b).square().sum(), clip)[0]
        for b in (1.0, 3.0)
    )
    torch.testing.assert_close(boosted, 3 * plain)


def test_interior_edges_are_left_alone():
    """A flat grid seen head-on has no silhouette inside; only its border may change."""
    n = 5
    at = torch.arange(n * n).reshape(n, n)
    a, b, c, d = (t.reshape(-1) for t in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    tri = torch.cat([torch.stack([a, b, c], 1), torch.stack([c, d, a], 1)])
    grid = torch.stack(torch.meshgrid(*2 * [torch.linspace(-0.77, 0.77, n)], indexing="xy"), -1).reshape(-1, 2)
    clip = torch.cat([grid, torch.zeros(n * n, 1), torch.ones(n * n, 1)], 1)[None]
    rast, _ = dr.rasterize(CTX, clip, tri, (20, 20))
    color = torch.rand(1, 20, 20, 3, generator=torch.Generator().manual_seed(0))
    changed = (dr.antialias(color, rast, clip, tri) != color).any(-1)[0]
    assert changed.any() and not changed[4:-4, 4:-4].any()


def test_topology_against_a_dictionary_of_edges():
    generator = torch.Generator().manual_seed(5)
    tri = torch.stack([torch.randperm(7, generator=generator)[:3] for _ in range(18)])
    topology = dr.antialias_construct_topology_hash(tri)
    users = {}
    for face, corners in enumerate(tri.tolist()):
        for i in range(3):
            start, end = corners[(i + 1) % 3], corners[(i + 2) % 3]
            users.setdefault(frozenset((start, end)), []).append((face, i, start))
    assert {len(u) for u in users.values()} >= {1, 2, 3}
    for group in users.values():
        for face, i, start in group:
            other = [u for u in group if u[:2] != (face, i)]
            if len(other) == 1:
                assert topology.neighbour[face, i] == other[0][0]
                assert topology.winding[face, i] == (-1 if other[0][2] == start else 1)
            else:
                assert topology.neighbour[face, i] == -1


def test_a_triangle_moves_onto_its_target_by_gradient_alone():
    tri = torch.tensor([[0, 1, 2]])

    def render(xy):
        clip = torch.cat([xy, torch.zeros(3, 1), torch.ones(3, 1)], 1)[None]
        rast, _ = dr.rasterize(CTX, clip, tri, (32, 32))
        color, _ = dr.interpolate(torch.ones(3, 1), rast, tri)
        return dr.antialias(color, rast, clip, tri)[0, ..., 0]

    target_xy = torch.tensor([[-0.7, -0.6], [0.6, -0.5], [0.1, 0.75]])
    xy = torch.tensor([[-0.3, -0.8], [0.8, -0.1], [-0.2, 0.3]], requires_grad=True)
    target = render(target_xy)
    optimizer = torch.optim.Adam([xy], lr=0.01)
    losses = []
    for _ in range(200):
        loss = (render(xy) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]
    # A twentieth of a pixel (1/16 wide) is far below what any visible-only gradient could know.
    torch.testing.assert_close(xy.detach(), target_xy, atol=0.01, rtol=0)


@pytest.mark.parametrize("subdivisions", [2, 4])
def test_silhouette_of_a_round_object_has_its_whole_gradient(subdivisions):
    """d(area)/d(radius) = 2 pi r of a ball's disc, although its outermost triangles are too thin to be seen."""
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    points, tri = torch.tensor(ball.vertices), torch.tensor(ball.faces)
    radius = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    clip = torch.cat([points * radius * torch.tensor([1, 1, 0.5]), torch.ones(len(points), 1)], 1)[None]
    area, _ = _loss(clip, tri, 64)
    (gradient,) = torch.autograd.grad(area, radius)
    # The polygon inscribed in the circle loses up to 3 % for 320 faces; the rest is the midpoint rule of the rows.
    assert area.item() == pytest.approx(torch.pi * (0.7 * 32) ** 2, rel=0.04)
    assert gradient.item() == pytest.approx(2 * torch.pi * 0.7 * 32**2, rel=0.05)


def test_hidden_silhouettes_change_nothing():
    """A ball behind a wall: no pixel of the wall's inside is touched; before the wall its rim is smoothed."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    points = torch.tensor(ball.vertices) * 0.5
    wall = torch.tensor([[-3.0, -3, 0], [3, -3, 0], [0, 3, 0]], dtype=torch.float64)
    tri = torch.cat([torch.tensor(ball.faces), len(points) + torch.tensor([[0, 1, 2]])])
    color = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for depth, touched in ((0.7, False), (-0.7, True)):
        shape = torch.cat([points * torch.tensor([1, 1, 0.2]) + torch.tensor([0, 0, depth]), wall])
        clip = torch.cat([shape, torch.ones(len(shape), 1)], 1)[None]
        rast, _ = dr.rasterize(CTX, clip, tri, (32, 32))
        assert (rast[..., 3] > 0).all()
        assert torch.equal(dr.antialias(color, rast, clip, tri), color) is not touched
