"""Distances between surfaces and silhouettes against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from uni_instruct_3d.world_metrics import chamfer, f_score, nearest_shape, silhouette_iou, surface_points

COUNT = 8000
# Spacing of COUNT points on a unit sphere is √(4π / COUNT) ≈ 0.04; the nearest of another set lies half of it away.
SPACING = np.sqrt(4 * np.pi / COUNT)


def sphere(radius: float = 1.0, centre=(0.0, 0.0, 0.0), seed: int = 0) -> np.ndarray:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return surface_points(mesh.vertices + np.asarray(centre), mesh.faces, COUNT, seed)


def test_points_lie_on_the_surface_evenly():
    """Mean height of a box's points is that of its area; big and small triangles count by area."""
    box = trimesh.creation.box((2.0, 2.0, 2.0))
    cut = box.subdivide_to_size(0.3)
    for mesh in (box, cut):
        points = surface_points(mesh.vertices, mesh.faces, COUNT)
        assert np.allclose(np.abs(points).max(1), 1.0)
        # a sixth of the points per side, off by less than 4 binomial standard deviations
        share = (points[:, 2] > 1 - 1e-9).mean()
        assert abs(share - 1 / 6) < 4 * np.sqrt(5 / 36 / COUNT)


def test_concentric_spheres_are_their_gap_apart():
    """Every point of one is exactly the gap away from the other; sampling adds at most gap² + spacing² under a root."""
    gap = 0.3
    found = chamfer(sphere(), sphere(1.0 + gap, seed=1))
    assert gap <= found + 1e-3 and found < np.sqrt(gap**2 + SPACING**2)
    assert f_score(sphere(), sphere(1.0 + gap, seed=1), threshold=gap - 0.01) == 0.0
    assert f_score(sphere(), sphere(1.0 + gap, seed=1), threshold=np.sqrt(gap**2 + (2 * SPACING) ** 2)) > 0.99


def test_shifted_sphere_against_the_integral():
    """For a unit sphere shifted by d the distance at cosine u is |√(1 + d² − 2du) − 1|, averaged over u in [−1, 1]."""
    d = 0.5
    u = np.linspace(-1, 1, 200_001)
    expected = np.abs(np.sqrt(1 + d * d - 2 * d * u) - 1).mean()
    found = chamfer(sphere(), sphere(centre=(d, 0, 0), seed=1))
    # near the circle where the spheres meet the sampling floor shows; elsewhere it vanishes against the distance
    assert expected - 1e-3 < found < expected + SPACING / 2


def test_chamfer_of_equal_surfaces_is_the_sampling_floor():
    assert chamfer(sphere(), sphere(seed=1)) < SPACING
    assert f_score(sphere(), sphere(seed=1), threshold=3 * SPACING) > 0.999


def test_f_score_is_the_harmonic_mean():
    """One of two points is met, and the one reference point is: precision ½, recall 1."""
    a, b = np.array([[0.0, 0, 0], [9.0, 0, 0]]), np.array([[0.01, 0, 0]])
    assert f_score(a, b, threshold=0.05) == pytest.approx(2 / 3)
    assert f_score(a, b + 5.0, threshold=0.05) == 0.0


def test_nearest_shape_finds_instance_and_turn():
    box = trimesh.creation.box((1.0, 0.4, 0.2))
    box.vertices += (0.3, 0.1, 0.0)
    points = surface_points(box.vertices, box.faces, COUNT)
    turned = points @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).T  # by +90° about z
    found = nearest_shape(points, [sphere(0.5), turned], yaws_deg=(0.0, 90.0, 180.0, 270.0))
    assert (found.index, found.yaw_deg) == (1, 90.0)
    assert found.chamfer < 1e-12 and found.f_score == 1.0
    assert nearest_shape(points, [sphere(0.5), turned]).chamfer > 0.05


def test_silhouettes():
    a, b = np.zeros((2, 2, 4, 4), bool)
    a[:, :, :2], b[:, :, 1:3] = True, True
    assert silhouette_iou(a, b) == pytest.approx(1 / 3)
    b[1] = a[1]
    assert silhouette_iou(a, b) == pytest.approx((1 / 3 + 1) / 2)
    assert silhouette_iou(a & False, a & False) == 0.0


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no surface"):
        surface_points(np.zeros((3, 3)), np.array([[0, 1, 2]]), 10)
    with pytest.raises(ValueError, match="no surface"):
        surface_points(np.zeros((0, 3)), np.zeros((0, 3), int), 10)
    with pytest.raises(ValueError, match="nothing to compare with"):
        nearest_shape(sphere(), [])
    with pytest.raises(ValueError, match="shapes"):
        silhouette_iou(np.zeros((1, 2, 2), bool), np.zeros((1, 3, 3), bool))
