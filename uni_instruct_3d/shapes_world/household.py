"""Things of the house. Each function draws one class; fronts look along +x, +y is right in the front view."""

from . import kernel as K
from .palette import CREAM, GLASS, GOLD, INK, IRON, LAMP_GLOW, SCREEN, STEEL, WOOD
from .sketch import Sketch


def _face_badge(s: Sketch, x: float, z: float, r: float):
    """A pale printed disc with a smiling face on the front at height z; x reaches through the surface."""
    axis = (1, 0, 0)
    s.cone((x, 0, z), 1.14 * r, 1.14 * r, 0.14, INK, 0.0, op=K.PAINT, axis=axis)
    s.cone((x, 0, z), r, r, 0.14, CREAM, 0.0, op=K.PAINT, axis=axis)
    for y in (-0.38 * r, 0.38 * r):
        s.cone((x, y, z + 0.28 * r), 0.2 * r, 0.2 * r, 0.14, INK, 0.0, op=K.PAINT, axis=axis)
    s.box((x, 0, z - 0.36 * r), (0.14, 0.52 * r, 0.15 * r), INK, 0.0, op=K.PAINT)


def mug(s: Sketch):
    """Handle at the right of the front view, a printed face on the front."""
    r, h = s.between(0.30, 0.38), s.between(0.34, 0.46)
    low = r * s.between(0.85, 1.0)
    s.cone((0, 0, 0), low, r, h, edge=0.03)
    s.ring((0, 0.98 * r, 0.02), 0.56 * h, s.between(0.055, 0.075), s.shade(1.0), smooth=0.02, axis=(1, 0, 0))
    s.cone((0, 0, 0.12), 0.86 * low, 0.86 * r, h, CREAM, op=K.CUT)
    _face_badge(s, r, -0.04, 0.64 * r)


def teapot(s: Sketch):
    """Spout at the right of the front view, handle at the left, a flower on the front."""
    r, h = s.between(0.40, 0.46), s.between(0.32, 0.38)
    s.ball((0, 0, 0), (r, r, h), stripe=K.STRIPE_Z)
    s.rod((0, 0.75 * r, -0.08), (0, r + 0.27, 0.28), 0.11, 0.05, s.shade(1.0), smooth=0.06)
    s.ring((0, -r - 0.02, 0.03), 0.19, 0.05, s.shade(1.0), smooth=0.03, axis=(1, 0, 0))
    s.cone((0, 0, h - 0.02), 0.23, 0.17, 0.05, s.shade(0.8))
    s.ball((0, 0, h + 0.09), 0.075, GOLD)
    s.cone((0, 0, -h + 0.01), 0.22, 0.22, 0.05, s.shade(0.8))
    axis = (1, 0, 0)
    for y, z in ((0.0, 0.13), (0.124, 0.04), (0.076, -0.105), (-0.076, -0.105), (-0.124, 0.04)):
        s.cone((r, y, z), 0.095, 0.095, 0.22, CREAM, 0.0, op=K.PAINT, axis=axis)
    s.cone((r, 0, 0), 0.075, 0.075, 0.22, (0.95, 0.60, 0.10), 0.0, op=K.PAINT, axis=axis)


def vase(s: Sketch):
    """Belly, neck and flared lip with golden bands."""
    r, h = s.between(0.27, 0.36), s.between(0.42, 0.55)
    neck = s.between(0.11, 0.16)
    s.ball((0, 0, -0.30 * h), (r, r, 0.72 * h), stripe=K.STRIPE_Z)
    s.cone((0, 0, -0.96 * h), 0.62 * r, 0.5 * r, 0.06, s.shade(0.8), smooth=0.05)
    s.cone((0, 0, 0.55 * h), neck + 0.03, neck, 0.40 * h, smooth=0.12, stripe=K.STRIPE_Z)
    lip = neck + s.between(0.07, 0.13)
    s.cone((0, 0, 0.98 * h), neck, lip, 0.07, smooth=0.05, stripe=K.STRIPE_Z)
    s.cone((0, 0, 0.98 * h + 0.04), 0.7 * neck, lip - 0.03, 0.07, INK, 0.0, op=K.CUT)
    s.ring((0, 0, 0.24 * h), neck + 0.045, 0.035, GOLD)
    s.ring((0, 0, 0.98 * h + 0.065), lip - 0.01, 0.022, GOLD)


def chair(s: Sketch):
    """Four legs, a seat with a pale cushion, the backrest at the back."""
    w, seat, back = s.between(0.27, 0.34), s.between(-0.08, 0.02), s.between(0.42, 0.55)
    for x in (-w + 0.05, w - 0.05):
        for y in (-w + 0.05, w - 0.05):
            s.rod((x, y, -0.55), (x, y, seat), 0.045, 0.05, s.shade(0.85))
    s.box((0, 0, seat), (w, w, 0.055))
    s.box((0.03, 0, seat + 0.07), (w - 0.07, w - 0.06, 0.045), CREAM, edge=0.04)
    s.box((-w + 0.04, 0, seat + 0.5 * back), (0.045, w, 0.5 * back + 0.03), edge=0.03)
    s.box((-w + 0.09, 0, seat + 0.55 * back + 0.03), (0.03, w - 0.09, 0.5 * back - 0.11), CREAM, edge=0.025)


def armchair(s: Sketch):
    """Upholstered seat with arms; pale seat and back cushions face the front."""
    w, d, back = s.between(0.40, 0.48), s.between(0.34, 0.40), s.between(0.38, 0.50)
    arm = s.between(0.16, 0.22)
    s.box((0, 0, -0.20), (d, w, 0.16), edge=0.05)
    s.box((-d + 0.07, 0, -0.20 + back), (0.10, w, back), edge=0.08)
    for y in (-w + 0.05, w - 0.05):
        s.box((0.02, y, -0.14), (d, 0.10, 0.20 + arm), edge=0.08)
    s.box((0.06, 0, 0.01), (d - 0.07, w - 0.15, 0.08), CREAM, edge=0.06)
    s.box((-d + 0.19, 0, 0.30), (0.06, w - 0.15, back - 0.20), CREAM, edge=0.05)
    for x in (-d + 0.08, d - 0.08):
        for y in (-w + 0.08, w - 0.08):
            s.rod((x, y, -0.48), (x, y, -0.34), 0.045, 0.05, WOOD)


def table(s: Sketch):
    """A top on four legs."""
    w, d, h = s.between(0.44, 0.56), s.between(0.34, 0.46), s.between(0.22, 0.34)
    s.box((0, 0, h), (d, w, 0.06))
    s.box((0, 0, h - 0.09), (d - 0.07, w - 0.07, 0.05), s.shade(0.8))
    for x in (-d + 0.07, d - 0.07):
        for y in (-w + 0.07, w - 0.07):
            s.rod((x, y, -h), (x, y, h), 0.045, 0.06, s.shade(0.9))


def lamp(s: Sketch):
    """Table lamp: foot, stem and a coloured shade."""
    r, h = s.between(0.30, 0.38), s.between(0.18, 0.24)
    s.cone((0, 0, -0.50), 0.24, 0.20, 0.05, IRON)
    s.rod((0, 0, -0.50), (0, 0, 0.2), 0.04, 0.04, GOLD)
    s.cone((0, 0, 0.28), r, s.between(0.5, 0.65) * r, h, edge=0.01)
    s.cone((0, 0, 0.28 - h), 0.9 * r, 0.85 * r, 0.05, LAMP_GLOW, op=K.CUT)
    s.ball((0, 0, 0.30 + h), 0.04, GOLD)


def television(s: Sketch):
    """A box with a screen and two knobs in front, vents at the back, antennas on top."""
    w, h, d = s.between(0.46, 0.54), s.between(0.32, 0.38), s.between(0.22, 0.28)
    s.box((0, 0, 0), (d, w, h), edge=0.05)
    s.box((-d - 0.06, 0, -0.02), (0.08, 0.6 * w, 0.6 * h), IRON, edge=0.03)
    s.box((d + 0.01, -0.10, 0.0), (0.025, w - 0.20, h - 0.09), SCREEN, edge=0.02)
    s.box((d + 0.03, -0.22, 0.10), (0.012, 0.09, 0.05), GLASS, edge=0.01)
    for z in (0.14, -0.02):
        s.cone((d + 0.02, w - 0.11, z), 0.06, 0.06, 0.03, CREAM, axis=(1, 0, 0))
    for y in (-0.26, 0.26):
        s.rod((-0.05, 0.1 * y, h), (-0.05, y, h + 0.28), 0.022, 0.018, STEEL)
        s.rod((0, 1.2 * y, -h), (0, 1.4 * y, -h - 0.10), 0.04, 0.03, WOOD)


def clock(s: Sketch):
    """Alarm clock: white face with hands in front, winding key at the back, two bells on top."""
    r, d = s.between(0.38, 0.43), s.between(0.14, 0.20)
    axis = (1, 0, 0)
    s.cone((0, 0, 0), r, r, d, edge=0.04, axis=axis, stripe=K.STRIPE_RINGS)
    s.cone((d, 0, 0), 0.8 * r, 0.8 * r, 0.03, CREAM, 0.0, op=K.PAINT, axis=axis)
    s.box((d, 0.0, 0.12), (0.03, 0.032, 0.15), INK, 0.0, op=K.PAINT)
    s.box((d, 0.09, 0.0), (0.03, 0.11, 0.032), INK, 0.0, op=K.PAINT)
    for y, z in ((0.0, 0.66 * r), (0.0, -0.66 * r), (0.66 * r, 0.0), (-0.66 * r, 0.0)):
        s.cone((d, y, z), 0.035, 0.035, 0.03, (0.8, 0.1, 0.1), 0.0, op=K.PAINT, axis=axis)
    s.box((-d - 0.04, 0, 0), (0.06, 0.13, 0.04), GOLD)
    for y in (-0.24, 0.24):
        s.ball((0, y, r + 0.06), 0.13, GOLD)
        s.rod((0, 0.9 * y, -0.7 * r), (0, 1.4 * y, -r - 0.10), 0.05, 0.05, IRON)


def boot(s: Sketch):
    """A boot whose toe and laces point to the front; dark sole, pull tab at the back."""
    h, toe = s.between(0.36, 0.48), s.between(0.30, 0.40)
    s.cone((-0.16, 0, 0.12), 0.20, 0.22, h, edge=0.03, stripe=K.STRIPE_Z)
    s.rod((-0.16, 0, -0.26), (toe - 0.12, 0, -0.28), 0.19, 0.17, smooth=0.10, stripe=K.STRIPE_X)
    s.cone((-0.16, 0, 0.24), 0.17, 0.17, h, INK, op=K.CUT)
    s.box((-0.16 + 0.5 * (toe + 0.0), 0, -0.44), (0.26 + 0.5 * toe - 0.03, 0.21, 0.06), IRON, edge=0.05)
    s.box((-0.32, 0, -0.50), (0.12, 0.19, 0.06), IRON, edge=0.03)
    s.ring((-0.16, 0, 0.12 + h), 0.20, 0.045, CREAM)
    for z in (-0.02, 0.12, 0.26):
        s.rod((0.055, -0.11, z - 0.02), (0.055, 0.11, z - 0.02), 0.032, 0.032, CREAM)
    s.box((-0.38, 0, 0.02 + h), (0.03, 0.07, 0.16), GOLD)


def barrel(s: Sketch):
    """Bulging barrel with three iron hoops."""
    r, h = s.between(0.34, 0.42), s.between(0.44, 0.52)
    s.cone((0, 0, 0.5 * h), r, 0.8 * r, 0.5 * h, edge=0.0)
    s.cone((0, 0, -0.5 * h), 0.8 * r, r, 0.5 * h, edge=0.0)
    for z, w in ((0.0, 1.0), (0.72, 0.86), (-0.72, 0.86)):
        s.cone((0, 0, z * h), w * r + 0.025, w * r + 0.025, 0.045, IRON)
    s.cone((0, 0, h), 0.68 * r, 0.68 * r, 0.05, s.shade(0.8), op=K.CUT)
