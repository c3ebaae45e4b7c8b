"""Coverage and depth of the rasteriser against exact arithmetic, pixel by pixel."""

from fractions import Fraction

import pytest
import torch
import trimesh

from backends import raster as dr
from backends.raster import visibility

CTX = dr.RasterizeTorchContext()


def exact_visibility(clip: torch.Tensor, tri: torch.Tensor, height: int, width: int):
    """Per-pixel loop over all triangles in rational numbers: (id + 1, z/w) of the nearest; raises on a tie."""
    corners = [[[Fraction(float(c)) for c in clip[v]] for v in face] for face in tri.tolist()]
    ids = torch.zeros(height, width, dtype=torch.int64)
    depth = torch.zeros(height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            px, py = Fraction(2 * column + 1, width) - 1, Fraction(2 * row + 1, height) - 1
            best = None
            for index, v in enumerate(corners):
                x = [c[0] - px * c[3] for c in v]
                y = [c[1] - py * c[3] for c in v]
                e = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]]
                total = sum(a * c[3] for a, c in zip(e, v))  # e / total: weights of the point with w = 1
                if total == 0 or any(a / total <= 0 for a in e):
                    assert total == 0 or not any(a == 0 for a in e), "the scene has a pixel centre on an edge"
                    continue
                z = sum(a * c[2] for a, c in zip(e, v)) / total
                if -1 <= z <= 1 and (best is None or z < best):
                    best = z
                    ids[row, column], depth[row, column] = index + 1, float(z)
    return ids, depth


@pytest.mark.parametrize("behind", [False, True], ids=["in_front", "crossing_the_camera_plane"])
def test_matches_an_exact_loop_over_pixels(behind):
    generator = torch.Generator().manual_seed(int(behind))
    clip = torch.rand(60, 4, generator=generator, dtype=torch.float64) * 2 - 1
    clip[:, 3] = clip[:, 3] if behind else clip[:, 3] * 0.5 + 1
    tri = torch.arange(60).reshape(-1, 3)
    ids, depth = exact_visibility(clip, tri, 18, 14)
    rast, _ = dr.rasterize(CTX, clip[None], tri, (18, 14))
    assert (ids > 0).float().mean() > 0.3
    assert torch.equal(rast[0, ..., 3].long(), ids)
    # Double rounding in a dozen products of numbers near 1, divided by edge sums that may be small.
    torch.testing.assert_close(rast[0, ..., 2], depth, atol=1e-10, rtol=0)


def test_shared_edges_through_pixel_centres_are_owned_once():
    """A triangulated square whose vertices all lie on pixel centres: every centre in its half-open area, once."""
    size, cells = 16, 4
    generator = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(cells + 1), torch.arange(cells + 1), indexing="ij")
    pixel = torch.stack([column, row], -1).reshape(-1, 2) * 3 + 1
    inner = ((row > 0) & (row < cells) & (column > 0) & (column < cells)).reshape(-1)
    pixel[inner] += torch.randint(-1, 2, (int(inner.sum()), 2), generator=generator)
    xy = (pixel.double() + 0.5) * (2 / size) - 1
    clip = torch.cat([xy, torch.zeros(len(xy), 1), torch.ones(len(xy), 1)], dim=1).double()
    at = torch.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = (t.reshape(-1) for t in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    tri = torch.cat([torch.stack([a, b, c], 1), torch.stack([c, d, a], 1)])
    count = sum(visibility.visible_triangles(clip, face[None], size, size).gt(0).int() for face in tri)
    expected = torch.zeros(size, size, dtype=torch.int32)
    expected[1:13, 1:13] = 1
    assert torch.equal(count.reshape(size, size), expected)


def _sphere(subdivisions: int, angle: float = 0.3):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    turn = torch.tensor(trimesh.transformations.rotation_matrix(angle, [1, 2, 3])[:3, :3])
    v = torch.tensor(mesh.vertices) @ turn.T
    w = 3 - v[:, 2:]
    return torch.cat([2 * v[:, :2], -0.5 * v[:, 2:], w], dim=1), torch.tensor(mesh.faces)


def test_closed_surface_has_no_cracks_and_no_double_cover():
    clip, tri = _sphere(4)
    counts = torch.zeros(2, 64 * 64, dtype=torch.int64)
    xy = clip[:, :2] / clip[:, 3:]
    a, b, c = xy[tri].unbind(1)
    facing = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    for side, faces in enumerate((tri[facing > 0], tri[facing < 0])):
        for part in faces.split(1):
            counts[side] += visibility.visible_triangles(clip, part, 64, 64) > 0
    assert counts.max() == 1
    assert torch.equal(counts[0], counts[1])
    assert 1500 < counts[0].sum() < 2500


def test_small_chunks_change_nothing(monkeypatch):
    clip, tri = _sphere(2)
    whole = visibility.visible_triangles(clip, tri, 40, 48)
    monkeypatch.setattr(visibility, "FRAGMENTS_PER_CHUNK", 50)
    assert torch.equal(visibility.visible_triangles(clip, tri, 40, 48), whole)


def test_equal_depth_goes_to_the_lower_index():
    clip = torch.tensor([[-3.0, -3, 0, 1], [3, -3, 0, 1], [0, 3, 0, 1]])
    tri = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 1, 0]])
    seen = visibility.visible_triangles(clip, tri, 4, 4)
    assert set(seen.tolist()) == {0, 1} or set(seen.tolist()) == {1}


def test_degenerate_and_non_finite_triangles_are_skipped():
    clip = torch.tensor([[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, 1], [float("nan"), 0, 0, 1], [0, -1, 0, -1]])
    tri = torch.tensor([[0, 1, 1], [0, 1, 3], [4, 4, 4]])
    assert not visibility.visible_triangles(clip, tri, 8, 8).any()
    assert not visibility.visible_triangles(clip, tri[:0], 8, 8).any()


def test_views_and_ranges_agree_with_single_calls():
    clip, tri = _sphere(2)
    other = clip * torch.tensor([-1.0, 1, 1, 1])
    both, both_db = dr.rasterize(CTX, torch.stack([clip, other]), tri, (20, 24))
    for view, single in enumerate((clip, other)):
        rast, db = dr.rasterize(CTX, single[None], tri, (20, 24))
        torch.testing.assert_close(both[view], rast[0], atol=0, rtol=0)
        torch.testing.assert_close(both_db[view], db[0], atol=0, rtol=0)
    ranges = torch.tensor([[0, 100], [100, 220]])
    ranged, _ = dr.rasterize(CTX, clip, tri, (20, 24), ranges=ranges)
    for view, (first, count) in enumerate(ranges.tolist()):
        rast, _ = dr.rasterize(CTX, clip[None], tri[first : first + count], (20, 24))
        shift = torch.where(rast[0, ..., 3] > 0, first, 0)
        torch.testing.assert_close(ranged[view, ..., 3], rast[0, ..., 3] + shift, atol=0, rtol=0)
        torch.testing.assert_close(ranged[view, ..., :3], rast[0, ..., :3], atol=0, rtol=0)


def test_arguments_are_checked():
    clip, tri = _sphere(1)
    with pytest.raises(ValueError, match=r"tri must be an integer tensor"):
        dr.rasterize(CTX, clip[None], tri.float(), (8, 8))
    with pytest.raises(ValueError, match=r"pos must be a float tensor of shape"):
        dr.rasterize(CTX, clip[None, :, :3], tri, (8, 8))
    with pytest.raises(ValueError, match=r"ranges goes with pos of shape"):
        dr.rasterize(CTX, clip, tri, (8, 8))
    with pytest.raises(ValueError, match=r"resolution must be at least 1 x 1, got 0 x 8"):
        dr.rasterize(CTX, clip[None], tri, (0, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    clip, tri = _sphere(4)
    cpu, cpu_db = dr.rasterize(CTX, clip[None], tri, (128, 128))
    gpu, gpu_db = dr.rasterize(CTX, clip[None].cuda(), tri.cuda(), (128, 128))
    assert torch.equal(cpu[..., 3], gpu[..., 3].cpu())
    torch.testing.assert_close(gpu.cpu(), cpu, atol=1e-9, rtol=0)
    torch.testing.assert_close(gpu_db.cpu(), cpu_db, atol=1e-9, rtol=1e-6)
