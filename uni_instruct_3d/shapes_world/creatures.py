"""Figures and animals. Each function draws one class; faces look along +x."""

from . import kernel as K
from .palette import BUTTER, CARROT, CREAM, INK, IRON, ROSY, SNOW, STEEL, SYRUP, WAFFLE, WOOD
from .sketch import Sketch


def snowman(s: Sketch):
    """Three snow balls; coloured coat and hat, face with a carrot nose and buttons in front."""
    r, m, t = s.between(0.30, 0.35), s.between(0.25, 0.28), s.between(0.17, 0.20)
    s.ball((0, 0, -0.36), r, SNOW)
    s.ball((0, 0, 0.02), (m, m, m))
    s.ball((0, 0, 0.36), t, SNOW)
    s.cone((0, 0, 0.48), t + 0.07, t + 0.07, 0.025)
    s.cone((0, 0, 0.60), t - 0.02, t - 0.02, 0.13)
    s.rod((0.8 * t, 0, 0.34), (t + 0.20, 0, 0.32), 0.05, 0.012, CARROT)
    for y in (-0.075, 0.075):
        s.ball((0.90 * t, y, 0.41), 0.036, INK)
    for z in (0.12, 0.0, -0.12):
        s.ball((m - 0.01, 0, z + 0.02), 0.04, INK)
    for side in (-1, 1):
        s.rod((0, 0.9 * m * side, 0.06), (0, (m + 0.20) * side, 0.22), 0.028, 0.022, WOOD)


def robot(s: Sketch):
    """Box body with a panel and box head with a face in front, battery at the back."""
    w, h, d = s.between(0.24, 0.30), s.between(0.22, 0.28), s.between(0.16, 0.20)
    s.box((0, 0, -0.06), (d, w, h), edge=0.04, stripe=K.STRIPE_Z)
    top = h + 0.10
    s.cone((0, 0, h - 0.04), 0.07, 0.07, 0.05, STEEL)
    s.box((0, 0, top + 0.06), (d - 0.01, 0.8 * w, 0.16), edge=0.04)
    s.box((d - 0.01, 0, top + 0.06), (0.03, 0.64 * w, 0.10), INK, edge=0.02)
    for y in (-0.30 * w, 0.30 * w):
        s.ball((d + 0.01, y, top + 0.08), 0.045, (1.0, 0.95, 0.35))
    s.box((d + 0.0, 0, -0.02), (0.03, 0.55 * w, 0.45 * h), CREAM, edge=0.02)
    for y, tint in ((-0.25 * w, (0.9, 0.1, 0.1)), (0.25 * w, (0.1, 0.6, 0.2))):
        s.ball((d + 0.03, y, 0.02), 0.04, tint)
    s.box((-d - 0.05, 0, -0.04), (0.07, 0.6 * w, 0.6 * h), IRON, edge=0.03)
    s.rod((0, 0, top + 0.2), (0, 0, top + 0.34), 0.02, 0.02, STEEL)
    s.ball((0, 0, top + 0.36), 0.05, (0.9, 0.1, 0.1))
    for side in (-1, 1):
        s.rod((0, side * (w + 0.06), 0.10), (0.08, side * (w + 0.10), -0.26), 0.055, 0.055, STEEL)
        s.box((0.03, 0.5 * w * side, -0.06 - h - 0.10), (0.13, 0.09, 0.13), STEEL, edge=0.03)


def _cat_head(s: Sketch, x: float, z: float, r: float, asleep: bool):
    s.ball((x, 0, z), r, smooth=0.03)
    for y in (-0.6 * r, 0.6 * r):
        s.rod((x - 0.02, y, z + 0.6 * r), (x - 0.02, 1.25 * y, z + 1.22 * r), 0.36 * r, 0.08 * r, s.shade(0.9))
        s.ball((x + 0.22 * r, 1.12 * y, z + 0.88 * r), 0.17 * r, ROSY)
        if asleep:
            s.box((x + 0.9 * r, 0.68 * y, z + 0.14 * r), (0.4 * r, 0.2 * r, 0.06 * r), INK, 0.0, op=K.PAINT)
        else:
            s.ball((x + 0.84 * r, 0.62 * y, z + 0.22 * r), 0.19 * r, (0.55, 0.85, 0.25))
            s.ball((x + 0.98 * r, 0.62 * y, z + 0.22 * r), 0.11 * r, INK)
    s.ball((x + 0.78 * r, 0, z - 0.25 * r), (0.34 * r, 0.44 * r, 0.28 * r), SNOW)
    s.ball((x + 1.08 * r, 0, z - 0.10 * r), 0.11 * r, ROSY)


def cat(s: Sketch):
    """A sitting cat: pale chest and face in front, tail up at the back."""
    w, h = s.between(0.24, 0.28), s.between(0.34, 0.40)
    s.rod((-0.12, 0, -0.32), (0.03, 0, 0.10), w, 0.62 * w, stripe=K.STRIPE_Z)
    s.ball((0.15, 0, -0.14), (0.12, 0.13, 0.24), SNOW)
    for y in (-0.10, 0.10):
        s.rod((0.12, y, -0.10), (0.20, y, -0.48), 0.07, 0.065, smooth=0.03)
        s.ball((0.24, y, -0.50), (0.09, 0.07, 0.06), SNOW)
        s.ball((-0.02, 2.2 * y, -0.40), (0.18, 0.10, 0.15), smooth=0.04)
    _cat_head(s, 0.08, h - 0.06, s.between(0.20, 0.23), asleep=False)
    s.rod((-0.30, 0, -0.46), (-0.50, 0, -0.30), 0.055, 0.055, smooth=0.03)
    s.rod((-0.50, 0, -0.30), (-0.46, 0, 0.08), 0.055, 0.05, smooth=0.03)
    s.ball((-0.46, 0, 0.10), 0.065, SNOW)


def sleeping_cat(s: Sketch):
    """A cat lying curled up: head on its paws in front with closed eyes, tail around its right side."""
    w = s.between(0.27, 0.31)
    s.ball((-0.14, 0, -0.02), (0.44, 0.38, w), stripe=K.STRIPE_X)
    s.ball((-0.30, 0.10, -0.03), (0.28, 0.30, w), smooth=0.08, stripe=K.STRIPE_X)
    for y in (-0.14, 0.14):
        s.rod((0.10, y, -0.20), (0.44, 0.7 * y, -0.22), 0.085, 0.075, smooth=0.03)
        s.ball((0.47, 0.7 * y, -0.22), 0.085, SNOW)
    _cat_head(s, 0.30, 0.02, s.between(0.21, 0.24), asleep=True)
    s.rod((-0.50, 0.12, -0.20), (-0.26, 0.44, -0.21), 0.07, 0.07, smooth=0.04)
    s.rod((-0.26, 0.44, -0.21), (0.16, 0.42, -0.22), 0.07, 0.06, smooth=0.04)
    s.ball((0.18, 0.42, -0.22), 0.075, SNOW)


def bunny(s: Sketch, base: float = 0.0, size: float = 1.0):
    """A sitting bunny: long ears, pale belly and face in front, round white tail at the back."""
    w = size * s.between(0.25, 0.29)

    def at(x, y, z):
        return (size * x, size * y, base + size * z)

    s.ball(at(-0.04, 0, -0.20), (w, w, size * 0.30))
    s.ball(at(0.14, 0, -0.20), (size * 0.13, size * 0.16, size * 0.21), SNOW)
    r = size * s.between(0.20, 0.23)
    s.ball(at(0.06, 0, 0.18), r, smooth=0.04 * size)
    tall = s.between(0.30, 0.40)
    for y in (-0.10, 0.10):
        s.rod(at(0.0, y, 0.32), at(-0.06, 1.4 * y, 0.36 + tall), 0.065 * size, 0.055 * size)
        s.rod(at(0.045, 1.05 * y, 0.40), at(-0.01, 1.4 * y, 0.32 + tall), 0.035 * size, 0.030 * size, ROSY)
        s.ball(at(0.245, 0.75 * y, 0.23), 0.045 * size, INK)
        s.ball(at(0.16, 1.4 * y, -0.44), (size * 0.15, size * 0.09, size * 0.07), smooth=0.02)
        s.rod(at(0.10, 1.5 * y, -0.08), at(0.24, 0.8 * y, -0.16), 0.06 * size, 0.055 * size, smooth=0.02)
    s.ball(at(0.22, 0, 0.12), (size * 0.09, size * 0.11, size * 0.075), SNOW)
    s.ball(at(0.31, 0, 0.155), size * 0.035, ROSY)
    s.ball(at(-0.33, 0, -0.32), size * 0.12, SNOW)


def bunny_on_pancakes(s: Sketch):
    """A small bunny on a stack of pancakes with syrup and a pat of butter in front."""
    r = s.between(0.42, 0.48)
    layers = 3 + int(s.rng.random() < 0.5)
    for i in range(layers):
        shift = s.between(-0.02, 0.02)
        s.cone((shift, -shift, -0.46 + 0.105 * i), r, r, 0.055, WAFFLE if i % 2 else (0.80, 0.54, 0.24), edge=0.05)
    top = -0.46 + 0.105 * (layers - 1) + 0.05
    s.cone((0, 0, top), 0.8 * r, 0.8 * r, 0.03, SYRUP, edge=0.025)
    for x, y in ((0.75, 0.30), (0.62, -0.48), (-0.78, 0.1), (-0.2, -0.78), (-0.1, 0.78)):
        s.rod((r * x, r * y, top), (1.22 * r * x, 1.22 * r * y, top - 0.12), 0.06, 0.05, SYRUP, smooth=0.04)
    s.box((0.32, 0.0, top + 0.05), (0.07, 0.09, 0.035), BUTTER)
    bunny(s, base=top + 0.40, size=0.76)
