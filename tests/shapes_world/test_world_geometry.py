"""Distances, renders and meshes of the world against slow independent computations."""

import numpy as np
import pytest

from uni_instruct_3d.shapes_world import (
    CLASSES,
    VIEW_CLASSES,
    Light,
    fit_distance,
    instance_mesh,
    look_at,
    make_instance,
    render,
)
from uni_instruct_3d.shapes_world.kernel import HIT, distances
from uni_instruct_3d.shapes_world.palette import COLOR_ALBEDO, SECOND_TONE

FLAT = Light(ambient=1.0, diffuse=0.0, sky=0.0)  # the picture is the albedo itself
FOVY = 50.0


def _unit(rng, n):
    v = rng.standard_normal((n, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.mark.parametrize("class_name", CLASSES)
def test_distance_never_changes_faster_than_position(class_name):
    """|d(p) - d(q)| <= |p - q| makes every value a lower bound of the distance to the surface."""
    rng = np.random.default_rng(0)
    for seed in range(3):
        parts = make_instance(class_name, "red", "plain", seed).parts
        p = rng.uniform(-0.7, 0.7, (4000, 3))
        step = 10.0 ** rng.uniform(-2.5, -0.5, (4000, 1))
        q = (p + step * _unit(rng, 4000)).astype(np.float32)
        p = p.astype(np.float32)
        rate = np.abs(distances(parts, p) - distances(parts, q)) / np.linalg.norm(p - q, axis=1)
        assert rate.max() <= 1.001  # float32 rounding of 1e-7 over steps of at least 0.003
        assert rate.max() > 0.9


@pytest.mark.parametrize("class_name", CLASSES)
def test_objects_fill_but_never_leave_the_bounding_sphere(class_name):
    rng = np.random.default_rng(1)
    directions = _unit(rng, 4000).astype(np.float32)
    for seed in range(5):
        parts = make_instance(class_name, "red", "plain", seed).parts
        assert distances(parts, 0.6 * directions).min() > 0.0
        shells = np.concatenate([r * directions for r in np.linspace(0.52, 0.6, 8, dtype=np.float32)])
        assert distances(parts, shells).min() < 0.0


def _naive_trace(parts, c2w, rays):
    """Hit or not, and depth [rays, rays], by tracing every ray with all parts."""
    ticks = (2.0 * (np.arange(rays) + 0.5) / rays - 1.0) * np.tan(np.radians(FOVY) / 2.0)
    x, y = np.meshgrid(ticks, -ticks)
    directions = np.stack([x, y, -np.ones_like(x)], -1) @ c2w[:3, :3].astype(np.float64).T
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    directions = directions.reshape(-1, 3)
    t = np.zeros(rays * rays)
    for _ in range(250):
        t += np.maximum(distances(parts, (c2w[:3, 3] + t[:, None] * directions).astype(np.float32)), 0.0)
    d = distances(parts, (c2w[:3, 3] + t[:, None] * directions).astype(np.float32))
    return (d < 2 * HIT).reshape(rays, rays), t.reshape(rays, rays)


@pytest.mark.parametrize("class_name", ["mug", "chair", "cat", "rose", "bunny on pancakes"])
def test_render_equals_tracing_each_ray_with_all_parts(class_name):
    size = 32
    instance = make_instance(class_name, "green", "plain", 5)
    out = render(instance, 25.0, 20.0, FOVY, size=size)
    hit, t = _naive_trace(instance.parts, look_at(25.0, 20.0, fit_distance(FOVY)), 2 * size)
    share = hit.reshape(size, 2, size, 2).mean((1, 3))
    # The fast march calls a ray a hit within HIT of the surface, which thickens outlines by a fraction of a ray.
    assert np.abs(out["mask"] - share).mean() < 0.01
    inside = (share == 1.0) & (out["mask"] == 1.0)
    depth = t.reshape(size, 2, size, 2).mean((1, 3))
    error = np.abs(out["depth"] - depth)[inside]
    assert np.median(error) < 3 * HIT
    assert np.quantile(error, 0.97) < 0.02  # rays that graze an inner outline may fall on either side of it
    normals = out["normal"][inside]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1.0, atol=1e-5)
    towards_camera = look_at(25.0, 20.0, fit_distance(FOVY))[:3, 2]
    assert (normals @ towards_camera > -0.4).mean() > 0.99  # perspective: up to half the field of view behind 90°


def test_normal_map_shows_world_normals():
    instance = make_instance("donut", "red", "plain", 0)
    out = render(instance, 40.0, 30.0, size=32, kind=1)
    inside = out["mask"] == 1.0
    flat = inside & (np.abs(2 * out["image"] - 1) ** 2).sum(-1).__gt__(0.98)  # the four rays agree
    np.testing.assert_allclose(2 * out["image"][flat] - 1, out["normal"][flat], atol=0.02)


@pytest.mark.parametrize("class_name", ["teapot", "armchair", "bunny"])
def test_mesh_has_the_silhouette_of_the_render(class_name):
    size, azimuth, elevation = 40, -50.0, 15.0
    vertices, faces, albedo = instance_mesh(class_name, "blue", "plain", 3, resolution=96)
    assert vertices.shape == albedo.shape
    assert faces.max() == len(vertices) - 1
    c2w = look_at(azimuth, elevation, fit_distance(FOVY)).astype(np.float64)
    points = (vertices - c2w[:3, 3]) @ c2w[:3, :3]
    scale = 0.5 * size / np.tan(np.radians(FOVY) / 2.0)
    column = (0.5 * size + scale * points[:, 0] / -points[:, 2]).astype(int)
    row = (0.5 * size - scale * points[:, 1] / -points[:, 2]).astype(int)
    drawn = np.zeros((size, size), bool)
    drawn[row, column] = True  # vertices lie 0.013 apart, pixels 0.036
    mask = render(make_instance(class_name, "blue", "plain", 3), azimuth, elevation, FOVY, size=size)["mask"]
    assert drawn[mask == 1.0].all()
    near = np.pad(mask > 0.0, 1)
    near = np.max([near[i : i + size, j : j + size] for i in range(3) for j in range(3)], axis=0)
    assert near[drawn].all()  # a pixel whose four rays just miss the outline still has a covered neighbour
    volume = np.einsum("ij,ij->i", vertices[faces[:, 0]], np.cross(vertices[faces[:, 1]], vertices[faces[:, 2]]))
    assert volume.sum() > 0.0  # faces turn outwards


def _near(image, colour, tolerance=0.06):
    return np.abs(image - np.asarray(colour)).max(-1) < tolerance


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_named_colour_covers_the_object_from_every_side(class_name):
    """Least from the front of the bunny, whose pancakes, belly and muzzle keep their own colours: 0.085."""
    for color in ("red", "blue", "yellow"):
        instance = make_instance(class_name, color, "plain", 11)
        for azimuth, elevation in ((0, 15), (90, 15), (180, 15), (0, 70)):
            out = render(instance, azimuth, elevation, size=32, light=FLAT)
            inside = out["mask"] == 1.0
            assert _near(out["image"][inside], COLOR_ALBEDO[color]).mean() > 0.08, (color, azimuth, elevation)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("pattern", ["striped", "dotted"])
def test_patterns_show_both_tones(class_name, pattern):
    instance = make_instance(class_name, "green", pattern, 2)
    tones = np.zeros(2)
    for azimuth in (0, 90, 180, 270):
        out = render(instance, azimuth, 25, size=96, light=FLAT)
        inside = out["image"][out["mask"] == 1.0]
        tones += [_near(inside, COLOR_ALBEDO["green"]).sum(), _near(inside, SECOND_TONE["green"], 0.01).sum()]
    assert 0.1 < tones[1] / tones.sum() < 0.62


def _changed(class_name, azimuth, other):
    """Share of the object's pixels that look different from two sides."""
    instance = make_instance(class_name, "red", "plain", 4)
    one, two = (render(instance, a, 15, size=32) for a in (azimuth, other))
    either = (one["mask"] > 0) | (two["mask"] > 0)
    return (np.abs(one["image"] - two["image"]).max(-1)[either] > 0.15).mean()


@pytest.mark.parametrize("class_name", VIEW_CLASSES)
def test_front_side_and_back_differ(class_name):
    """Least from side to back of the snowman: 0.089."""
    for azimuth, other in ((0, 90), (90, 180), (0, 180), (0, -90), (-90, 180)):
        assert _changed(class_name, azimuth, other) > 0.08


@pytest.mark.parametrize("class_name", ["vase", "lamp", "barrel", "tree", "mushroom"])
def test_round_things_look_the_same_from_all_sides(class_name):
    """The light moves with the camera, so nothing but the edges of pixels may change."""
    assert _changed(class_name, 0, 90) < 0.02
    assert _changed(class_name, 0, 180) < 0.02
