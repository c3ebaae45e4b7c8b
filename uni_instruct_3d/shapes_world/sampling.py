"""Batches of training data: item i is a pure function of (seed, i, size, split, group, style)."""

from typing import NamedTuple

import numpy as np

from .palette import COLORS, PATTERNS
from .render import Instance, Light, draw_instance, fit_distance, look_at, render_c2w
from .vocabulary import (
    CLASSES,
    HELD_OUT,
    OBJECT_CLASSES,
    PREFIXES,
    VIEWS,
    caption,
    choose,
    is_held_out,
    view_word,
    with_view,
)

SPLITS = ("train", "held_out", "all")
GROUPS = (1, 2, 3, 4)
VIEW_CLASS_WEIGHT = 1.7  # classes whose views differ are drawn that much more often
KIND_SHARES = (0.87, 0.08, 0.05)  # colour render, normal map, textureless shading
PROMPT_SHARE = 0.35  # of the items of a class with a fixed prompt, how many are drawn and captioned as that prompt
PREFIX_SHARE = 0.25
VIEWLESS_SHARE = 0.04  # captions without a view word, so that "a red mug" alone is understood too (group 1 only)
CANONICAL_SPREAD = 18.0  # deviation of azimuths near 0, ±90 and 180 degrees; the others fill the view word's sector


class Style(NamedTuple):
    """What a data set looks like beside its objects.

    canonical: share of azimuths near 0, ±90 and 180 degrees. low, high: elevations of front, side and back views come
    from -10..low with probability `low_share`, else from low..high; overhead: range of the others' elevation. fill:
    share of the vertical field of view that the bounding sphere spans. exposure: range of the brightest shading.
    cutout: black behind everything, so that `image` is the object premultiplied by its coverage and any background can
    be put behind it later; else white to light grey. orbit: the views of a group stand around the object at equal steps
    of azimuth, at one height, whatever word that makes theirs; else each view word is one of the group's.
    """

    canonical: float
    low: float
    low_share: float
    high: float
    overhead: tuple[float, float]
    fill: tuple[float, float]
    exposure: tuple[float, float]
    cutout: bool
    orbit: bool = False


STYLES = {
    "light": Style(0.75, 45.0, 0.88, 60.0, (60.1, 85.0), (0.62, 0.98), (0.95, 1.10), False),
    # threestudio's random cameras: every azimuth, up to the zenith; no exposure clips white (albedo 0.96)
    "cutout": Style(0.3, 45.0, 0.75, 60.0, (60.1, 89.0), (0.64, 1.05), (0.84, 1.00), True),
    # several views of one object at once, from wherever a text-to-3D camera may stand
    "orbit": Style(0.3, 45.0, 0.75, 60.0, (60.1, 80.0), (0.64, 1.05), (0.84, 1.00), True, orbit=True),
}
ORBIT_OVERHEAD = 0.15  # share of orbits so high that all their views are overhead views

_WEIGHTS = np.array([VIEW_CLASS_WEIGHT if row.has_views else 1.0 for row in OBJECT_CLASSES.values()])
_CUMULATIVE = np.cumsum(_WEIGHTS / _WEIGHTS.sum())


def class_probabilities() -> np.ndarray:
    """How often each of `CLASSES` occurs in the splits `train` and `all`, [K] summing to 1."""
    return _WEIGHTS / _WEIGHTS.sum()


def _stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    """Independent random numbers per (seed, index, purpose), without any state between calls."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, purpose, index]))


def _pick(rng, items):
    return items[int(rng.random() * len(items))]


def _combination(rng, split: str) -> tuple[str, str, str, str]:
    """Class, colour, pattern and prompt text without its view."""
    prefix = _pick(rng, PREFIXES) if rng.random() < PREFIX_SHARE else ""
    period = "." if rng.random() < 0.5 else ""
    if split == "held_out":
        return (*_pick(rng, HELD_OUT), prefix)
    class_name = CLASSES[int(np.searchsorted(_CUMULATIVE, rng.random(), side="right"))]
    row = OBJECT_CLASSES[class_name]
    if row.prompt and rng.random() < PROMPT_SHARE:
        return class_name, _pick(rng, row.prompt_colors), _pick(rng, row.prompt_patterns), row.prompt + period
    while True:
        color, pattern = _pick(rng, COLORS), _pick(rng, PATTERNS)
        if split == "all" or not is_held_out(class_name, color, pattern):
            return class_name, color, pattern, prefix


def _azimuth(rng, view: str, canonical: float) -> float:
    """Degrees in [-180, 180), strictly inside the view word's sector."""
    if view == "overhead":
        return 360.0 * rng.random() - 180.0
    centre = {"front": 0.0, "side": 90.0, "back": 180.0}[view]
    sign = 1.0 if rng.random() < 0.5 else -1.0
    offset = 90.0 * rng.random() - 45.0
    if rng.random() < canonical:
        offset = CANONICAL_SPREAD * rng.standard_normal()
        while abs(offset) >= 45.0:
            offset = CANONICAL_SPREAD * rng.standard_normal()
    offset = min(max(offset, -44.9), 44.9)
    azimuth = sign * (centre + offset) if view == "side" else centre + offset
    return (azimuth + 180.0) % 360.0 - 180.0


def _between(rng, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


class _Scene:
    """All that the items of a group share."""

    def __init__(self, seed: int, index: int, split: str, style: Style):
        rng = _stream(seed, index, 0)
        class_name, color, pattern, text = _combination(rng, split)
        self.kind = int(np.searchsorted(np.cumsum(KIND_SHARES), rng.random(), side="right"))
        self.kind = min(self.kind, len(KIND_SHARES) - 1)
        is_prompt = text.startswith(OBJECT_CLASSES[class_name].prompt or "\0")
        self.text = text if is_prompt else caption(class_name, color, pattern, prefix=text)
        self.instance: Instance = draw_instance(rng, class_name, color, pattern)
        self.view_offset = int(rng.random() * len(VIEWS))
        self.viewless = rng.random() < VIEWLESS_SHARE
        is_low = rng.random() < style.low_share
        self.elevation = _between(rng, *((-10.0, style.low) if is_low else (style.low, style.high)))
        self.overhead_elevation = _between(rng, *style.overhead)
        self.fovy = 40.0 + 30.0 * rng.random()
        self.fill = _between(rng, *style.fill)
        diffuse = 0.40 + 0.25 * rng.random()
        sky = 0.05 + 0.12 * rng.random()
        total = _between(rng, *style.exposure)
        direction = (1.4 * rng.random() - 0.7, 0.2 + 0.7 * rng.random(), 0.8)
        self.light = Light(direction, total - diffuse - sky, diffuse, sky)
        self.background = np.zeros((2, 3), np.float32) if style.cutout else self._background(rng)
        if style.orbit:
            self.first_azimuth = 360.0 * rng.random() - 180.0
            self.orbit_elevation = self.overhead_elevation if rng.random() < ORBIT_OVERHEAD else self.elevation

    def _background(self, rng):
        """White to light grey with a slight tint and a slight change from top to bottom. Normal maps lie on mid grey
        (the code of no direction) or on black (over which threestudio's mesh renderer composites), half each."""
        if self.kind == 1:
            level = 0.5 if rng.random() < 0.5 else 0.0
            return np.full((2, 3), level, np.float32)
        base = 0.80 + 0.20 * rng.random()
        tint = 0.04 * (rng.random(3) - 0.5)
        slope = 0.08 * (rng.random() - 0.5)
        return np.clip(np.stack([base + tint + slope, base + tint - slope]), 0.0, 1.0).astype(np.float32)


def _view(scene: _Scene, index: int, group: int) -> int:
    return (index % group + (scene.view_offset if group < len(VIEWS) else 0)) % len(VIEWS)


def _told(scene: _Scene, view_id: int, group: int) -> str:
    unsaid = scene.viewless and group == 1 and scene.kind == 0
    return with_view(scene.text, None if unsaid else VIEWS[view_id], scene.kind)


def caption_of(seed: int, index: int, split: str = "train") -> tuple[str, int]:
    """Caption and kind of one item of `sample_batch` (group 1, style light), which is not drawn for it."""
    scene = _Scene(seed, index, choose("split", split, SPLITS), STYLES["light"])
    return _told(scene, _view(scene, index, 1), 1), scene.kind


def sample_batch(
    seed: int, start: int, n: int, size: int = 64, split: str = "train", group: int = 1, style: str = "light"
) -> dict[str, np.ndarray | list[str]]:
    """Items start .. start + n - 1 of the endless data set `seed`.

    split: "train" (held-out combinations never occur), "held_out" (only they), "all". group: items
    g*group .. g*group + group - 1 share object, light, background, lens and caption but not the view word; with 4 they
    come as front, side, back, overhead. Item i depends on nothing but (seed, i, size, split, group, style), however
    the range is cut, so several processes can share the work. style: a row of `STYLES`.

    Returns image uint8 [n, S, S, 3]; foreground uint8 [n, S, S] (coverage, 255 = object); caption, a list of str;
    class_id, color_id, pattern_id, view_id, kind int64 [n] (kind 0 colour render, 1 world-normal map, 2 textureless
    shading); azimuth_deg, elevation_deg, fovy_deg, distance float32 [n]; c2w float32 [n, 4, 4].
    """
    choose("split", split, SPLITS)
    choose("group", group, GROUPS)
    look = STYLES[choose("style", style, STYLES)]
    if seed < 0 or start < 0 or n < 0 or size < 1:
        raise ValueError(f"seed, start, n must be >= 0 and size >= 1, got {seed}, {start}, {n}, {size}")
    ids = ("class_id", "color_id", "pattern_id", "view_id", "kind")
    scalars = ("azimuth_deg", "elevation_deg", "fovy_deg", "distance")
    batch: dict = {name: np.empty(n, np.int64) for name in ids} | {name: np.empty(n, np.float32) for name in scalars}
    batch["image"] = np.empty((n, size, size, 3), np.uint8)
    batch["foreground"] = np.empty((n, size, size), np.uint8)
    batch["c2w"] = np.empty((n, 4, 4), np.float32)
    batch["caption"] = []
    scene, scene_index = None, -1
    for row, index in enumerate(range(start, start + n)):
        if index // group != scene_index:
            scene_index = index // group
            scene = _Scene(seed, scene_index, split, look)
        rng = _stream(seed, index, 1)
        view_id = _view(scene, index, group)
        distance = fit_distance(scene.fovy, scene.fill)
        if look.orbit:
            azimuth = (scene.first_azimuth + 360.0 * (index % group) / group + 180.0) % 360.0 - 180.0
            elevation, target = scene.orbit_elevation, (0.0, 0.0, 0.0)
            view_id = VIEWS.index(view_word(azimuth, elevation))
        else:
            azimuth = _azimuth(rng, VIEWS[view_id], look.canonical)
            elevation = scene.overhead_elevation if VIEWS[view_id] == "overhead" else scene.elevation
            target = 0.03 * (2.0 * rng.random(3) - 1.0)
        c2w = look_at(azimuth, elevation, distance, target=target)
        out = render_c2w(scene.instance, c2w, scene.fovy, size, scene.kind, scene.light, scene.background)
        batch["image"][row] = (255.0 * out["image"] + 0.5).astype(np.uint8)
        batch["foreground"][row] = (255.0 * out["mask"] + 0.5).astype(np.uint8)
        batch["c2w"][row] = c2w
        instance = scene.instance
        batch["class_id"][row] = CLASSES.index(instance.class_name)
        batch["color_id"][row] = COLORS.index(instance.color)
        batch["pattern_id"][row] = PATTERNS.index(instance.pattern)
        batch["view_id"][row], batch["kind"][row] = view_id, scene.kind
        batch["azimuth_deg"][row], batch["elevation_deg"][row] = azimuth, elevation
        batch["fovy_deg"][row], batch["distance"][row] = scene.fovy, distance
        batch["caption"].append(_told(scene, view_id, group))
    return batch
