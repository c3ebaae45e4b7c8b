"""The drawing board on which a class of objects lays down its parts."""

import math

import numpy as np

from . import kernel as K
from .extent import extent

OBJECT_RADIUS = 0.585  # after fitting; leaves room for the bulge of smooth unions inside the promised 0.6
BOUNDING_RADIUS = 0.6


def _directions(count: int) -> np.ndarray:
    """Evenly spread unit vectors [count, 3] (Fibonacci spiral), with both poles added for exact heights."""
    i = np.arange(count) + 0.5
    z, turn = 1.0 - 2.0 * i / count, np.pi * (1.0 + 5.0**0.5) * i
    r = np.sqrt(1.0 - z * z)
    spiral = np.stack([r * np.cos(turn), r * np.sin(turn), z], 1)
    return np.concatenate([spiral, [[0, 0, 1], [0, 0, -1]]]).astype(np.float32)


_FIT_DIRECTIONS = _directions(64)


def _frame(axis):
    """Rows x, y, z of a right-handed frame whose z is `axis` and whose x stays as close to the world's as it can."""
    ax, ay, az = axis
    n = math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax / n, ay / n, az / n
    hx, hy = (0.0, 1.0) if abs(ax) > 0.95 else (1.0, 0.0)
    dot = hx * ax + hy * ay
    xx, xy, xz = hx - dot * ax, hy - dot * ay, -dot * az
    n = math.sqrt(xx * xx + xy * xy + xz * xz)
    xx, xy, xz = xx / n, xy / n, xz / n
    return (xx, xy, xz, ay * xz - az * xy, az * xx - ax * xz, ax * xy - ay * xx, ax, ay, az)


UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class Sketch:
    """Collects parts. The front of every object looks along +x; +y is right in the front view; z is up.

    A part takes the object's named colour and pattern unless `color` (RGB in 0..1) says otherwise. `smooth` is the
    width of the smooth union with what was drawn before; `op` cuts away or paints instead. `axis` points the part's
    own z. `stripe` chooses along what its stripes run, `wrap` is the radius at which dots wrap around its z axis.
    """

    def __init__(self, rng: np.random.Generator, main, second, pattern: int):
        self.rng = rng
        self.main, self.second, self.pattern = main, second, pattern
        self.period = self.between(0.17, 0.21)
        self.rows: list[tuple] = []

    def between(self, low: float, high: float) -> float:
        """A random proportion."""
        return low + (high - low) * self.rng.random()

    def shade(self, factor: float):
        """The named colour, darker or lighter."""
        return tuple(min(factor * c, 1.0) for c in self.main)

    def _add(self, kind, bound, centre, size, color, smooth, op, axis, stripe, wrap):
        frame = UPRIGHT if axis is None else _frame(axis)
        if color is None:
            look = (*self.main, *self.second, self.pattern)
        else:
            look = (*color, *color, K.PLAIN)
        self.rows.append((kind, op, smooth, bound, *centre, *frame, *size, *look, self.period, stripe, wrap))

    def ball(self, centre, size, color=None, smooth=0.0, op=K.UNION, axis=None, stripe=K.STRIPE_Z):
        """Sphere (one radius) or ellipsoid (three semi-axes)."""
        a, b, c = size if isinstance(size, tuple) else (size, size, size)
        self._add(K.ELLIPSOID, max(a, b, c), centre, (a, b, c, 0.0), color, smooth, op, axis, stripe, max(a, b))

    def box(self, centre, half, color=None, edge=0.02, smooth=0.0, op=K.UNION, axis=None, stripe=K.STRIPE_WALLS):
        """Box with three half sizes (outer) and rounded edges."""
        edge = min(edge, 0.9 * min(half))
        a, b, c = (h - edge for h in half)
        bound = math.sqrt(a * a + b * b + c * c) + edge
        self._add(K.BOX, bound, centre, (a, b, c, edge), color, smooth, op, axis, stripe, 0.0)

    def cone(self, centre, low, high, half, color=None, edge=0.015, smooth=0.0, op=K.UNION, axis=None, stripe=0):
        """Cylinder or cut cone along its z: radius `low` at the bottom, `high` at the top, half height, rounded."""
        edge = min(edge, 0.9 * half, 0.9 * max(low, high))
        a, b, c = max(low - edge, 0.0), max(high - edge, 0.0), half - edge
        bound = math.sqrt(c * c + max(a, b) ** 2) + edge
        wrap = max(low, high)
        self._add(K.CONE, bound, centre, (a, b, c, edge), color, smooth, op, axis, stripe, wrap)

    def ring(self, centre, radius, tube, color=None, smooth=0.0, op=K.UNION, axis=None, stripe=K.STRIPE_RINGS):
        """Torus around its z."""
        size = (radius, tube, 0.0, 0.0)
        self._add(K.TORUS, radius + tube, centre, size, color, smooth, op, axis, stripe, 0.0)

    def rod(self, start, end, low, high=None, color=None, smooth=0.0, op=K.UNION, stripe=K.STRIPE_Z):
        """Round rod from `start` (radius `low`) to `end` (radius `high`)."""
        high = low if high is None else high
        axis = tuple(e - s for s, e in zip(start, end))
        half = 0.5 * math.sqrt(sum(c * c for c in axis))
        half = max(half, 0.51 * abs(low - high))  # nearer balls would swallow each other
        centre = tuple(0.5 * (s + e) for s, e in zip(start, end))
        bound = half + max(low, high)
        self._add(K.ROD, bound, centre, (low, high, half, 0.0), color, smooth, op, axis, stripe, max(low, high))

    def wedge(self, centre, length, width, height, color=None, op=K.UNION, stripe=K.STRIPE_X):
        """Prism with its ridge along x: half length, half width, half height."""
        bound = math.sqrt(length**2 + width**2 + height**2)
        self._add(K.WEDGE, bound, centre, (length, width, height, 0.0), color, 0.0, op, None, stripe, 0.0)

    def parts(self) -> np.ndarray:
        """The table of parts [P, COLUMNS], its height centred on z = 0 and scaled to fill the object radius."""
        parts = np.array(self.rows, np.float32)
        middle, reach = extent(parts, _FIT_DIRECTIONS)
        parts[:, K.CENTRE + 2] -= middle
        scale = OBJECT_RADIUS / reach
        for column in (K.SMOOTH, K.BOUND, K.WRAP):
            parts[:, column] *= scale
        parts[:, K.CENTRE : K.CENTRE + 3] *= scale
        parts[:, K.SIZE : K.SIZE + 4] *= scale
        return parts
