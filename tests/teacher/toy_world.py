"""A stand-in for the procedural world with its interface: one coloured rectangle, shifted by the view word."""

from __future__ import annotations

import numpy as np

CLASSES = ("mug", "chair", "rose")
COLORS = ("red", "green", "blue")
PATTERNS = ("plain", "striped")
VIEWS = ("front", "side", "back", "overhead")
VIEW_CLASSES = ("mug", "chair")
_RGB = np.array([[220, 30, 30], [30, 200, 30], [30, 30, 220]], np.uint8)


def is_held_out(class_name: str, color: str, pattern: str) -> bool:
    return (class_name, color, pattern) == ("mug", "blue", "striped")


def caption(class_name, color, pattern, view=None, kind=0):
    adjective = "" if pattern == "plain" else f"{pattern} "
    return f"a {adjective}{color} {class_name}" + (f", {view} view" if view else "") + (", normal map" if kind else "")


def sample_batch(seed, start, n, size=64, split="train", group=1, style="light"):
    ids = {name: np.zeros(n, np.int64) for name in ("class_id", "color_id", "pattern_id", "view_id", "kind")}
    images = np.full((n, size, size, 3), 230, np.uint8)
    masks = np.zeros((n, size, size), np.uint8)
    azimuth = np.zeros(n, np.float32)
    captions = []
    for row, index in enumerate(range(start, start + n)):
        rng = np.random.default_rng((seed, index // group))
        c, k, p = int(rng.integers(3)), int(rng.integers(3)), int(rng.integers(2))
        if split == "held_out":
            c, k, p = 0, 2, 1
        view = index % 4
        top, left = (size // 4) * (view // 2), (size // 4) * (view % 2)
        box = (slice(top, top + size // 2), slice(left, left + (c + 1) * size // 6))
        images[row][box] = _RGB[k]
        if p:
            images[row][box][::4] = 255
        masks[row][box] = 255
        azimuth[row] = (0, 90, 180, 45)[view]
        if style == "cutout":
            images[row][masks[row] == 0] = 0
        for name, value in zip(ids, (c, k, p, view, 0)):
            ids[name][row] = value
        captions.append(caption(CLASSES[c], COLORS[k], PATTERNS[p], VIEWS[view]))
    return {"image": images, "foreground": masks, "caption": captions, **ids,
            "azimuth_deg": azimuth, "elevation_deg": np.full(n, 30.0, np.float32),
            "fovy_deg": np.full(n, 50.0, np.float32), "distance": np.full(n, 1.7, np.float32)}  # fmt: skip
