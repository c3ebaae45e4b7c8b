"""Instances, cameras and single renders with ground truth; meshes of instances."""

import math
from typing import NamedTuple

import numpy as np

from . import kernel as K
from .palette import COLOR_ALBEDO, COLORS, PATTERNS, SECOND_TONE
from .sketch import BOUNDING_RADIUS, Sketch
from .vocabulary import CLASSES, OBJECT_CLASSES, choose


class Instance(NamedTuple):
    """One object: its class, colour and pattern, and its table of parts [P, COLUMNS] (see kernel)."""

    class_name: str
    color: str
    pattern: str
    parts: np.ndarray


class Light(NamedTuple):
    """Lambert light in the camera's frame: direction to it (right, up, towards the viewer), and the weights of the
    ambient term, of the cosine term and of a term that grows with the normal's height."""

    direction: tuple[float, float, float] = (0.3, 0.5, 0.8)
    ambient: float = 0.35
    diffuse: float = 0.55
    sky: float = 0.15


def make_instance(class_name: str, color: str, pattern: str, seed: int) -> Instance:
    """An object with proportions drawn from `seed`."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return draw_instance(rng, class_name, color, pattern)


def draw_instance(rng: np.random.Generator, class_name: str, color: str, pattern: str) -> Instance:
    """An object with proportions and a slight variation of its colour drawn from `rng`."""
    choose("class", class_name, CLASSES)
    choose("color", color, COLORS)
    choose("pattern", pattern, PATTERNS)
    tint = 1.0 + 0.06 * (rng.random(3) - 0.5)
    main = tuple(min(c * t, 1.0) for c, t in zip(COLOR_ALBEDO[color], tint))
    sketch = Sketch(rng, main, SECOND_TONE[color], PATTERNS.index(pattern))
    OBJECT_CLASSES[class_name].draw(sketch)
    return Instance(class_name, color, pattern, sketch.parts())


def look_at(azimuth_deg: float, elevation_deg: float, distance: float, target=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Camera-to-world float32 [4, 4] (columns right, up, minus look-at, position) of a camera on the sphere of
    `distance` around the origin that looks at `target`. Azimuth 0 is +x and grows towards +y; degrees."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    position = distance * np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    look = np.asarray(target, np.float64) - position
    look /= np.linalg.norm(look)
    right = np.array([look[1], -look[0], 0.0])  # look x up, with up = +z
    right /= np.linalg.norm(right)
    up = np.cross(right, look)
    c2w = np.eye(4, dtype=np.float32)
    c2w[:3, 0], c2w[:3, 1], c2w[:3, 2], c2w[:3, 3] = right, up, -look, position
    return c2w


def fit_distance(fovy_deg: float, fill: float = 0.85) -> float:
    """Camera distance at which the bounding sphere spans the share `fill` of the vertical field of view."""
    return BOUNDING_RADIUS / math.sin(fill * math.radians(fovy_deg) / 2.0)


def render_c2w(
    instance: Instance, c2w: np.ndarray, fovy_deg: float, size: int = 64, kind: int = 0, light: Light = Light(), # noqa: B008
    background=((0.95, 0.95, 0.95), (0.95, 0.95, 0.95)),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Render from a camera matrix; see `render` for what comes back. `background` holds the colours at the top and
    the bottom of the image."""
    towards = c2w[:3, :3] @ np.asarray(light.direction, np.float32)
    towards = (towards / np.linalg.norm(towards)).astype(np.float32)
    shade = np.array([light.ambient, light.diffuse, light.sky], np.float32)
    backdrop = np.ascontiguousarray(background, np.float32)
    tan_half = math.tan(math.radians(fovy_deg) / 2.0)
    rgb, alpha, depth, normal = K.trace(
        instance.parts, np.ascontiguousarray(c2w, np.float32), tan_half, size, kind, towards, shade, backdrop,
        BOUNDING_RADIUS,
    )  # fmt: skip
    return {"image": rgb, "mask": alpha, "depth": depth, "normal": normal}


def render(
    instance: Instance,
    azimuth_deg: float,
    elevation_deg: float,
    fovy_deg: float = 50.0,
    distance: float | None = None,
    size: int = 64,
    kind: int = 0,
    light: Light = Light(),  # noqa: B008
    background=(0.95, 0.95, 0.95),
) -> dict[str, np.ndarray]:
    """One view of an instance with its ground truth.

    Angles in degrees; `distance` None fits the object into the picture; `kind` 0 colour, 1 world normals as
    (n + 1) / 2, 2 textureless shading. Returns float32 image [S, S, 3] in 0..1, mask [S, S] (share of the pixel's
    rays that hit), depth [S, S] (along the unit ray, 0 where nothing is hit) and normal [S, S, 3] (unit, world).
    """
    distance = fit_distance(fovy_deg) if distance is None else distance
    c2w = look_at(azimuth_deg, elevation_deg, distance)
    return render_c2w(instance, c2w, fovy_deg, size, kind, light, (background, background))


def instance_mesh(class_name: str, color: str, pattern: str, seed: int, resolution: int = 96):
    """Ground-truth mesh of the instance `make_instance(class_name, color, pattern, seed)`.

    Returns vertices float32 [V, 3], faces int32 [F, 3] (counter-clockwise from outside) and vertex albedo float32
    [V, 3] in 0..1, by marching cubes on a grid of `resolution` cells per side over the bounding cube.
    """
    from skimage.measure import marching_cubes

    instance = make_instance(class_name, color, pattern, seed)
    half = BOUNDING_RADIUS + 0.02
    axis = np.linspace(-half, half, resolution + 1, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    volume = K.distances(instance.parts, points).reshape(resolution + 1, resolution + 1, resolution + 1)
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(2 * half / resolution,) * 3)
    vertices = (vertices - half).astype(np.float32)
    return vertices, faces.astype(np.int32), K.surface_albedo(instance.parts, vertices)
