"""Buildings, vehicles, plants and food. Each function draws one class; fronts look along +x."""

from . import kernel as K
from .palette import (
    BARK,
    CARROT,
    CHERRY,
    CHOCOLATE,
    CREAM,
    GLASS,
    GOLD,
    INK,
    IRON,
    LEAF,
    SNOW,
    STEEL,
    WAFFLE,
    WOOD,
)
from .sketch import Sketch


def house(s: Sketch):
    """Door and two windows in front, a plain back with one small round window, chimney at the right."""
    w, d, h = s.between(0.38, 0.46), s.between(0.32, 0.40), s.between(0.26, 0.34)
    roof = s.between(0.18, 0.26)
    s.box((0, 0, -0.10), (d, w, h), edge=0.01, stripe=K.STRIPE_Z)
    s.box((0, 0, h - 0.10), (d + 0.06, w + 0.07, 0.035), SNOW, edge=0.01)
    s.wedge((0, 0, h - 0.07 + roof), d + 0.05, w + 0.06, roof)
    s.box((-0.1, 0.5 * w, h + 1.3 * roof), (0.08, 0.08, 0.18), IRON, edge=0.01)
    s.box((d, 0, -0.10 - h + 0.19), (0.03, 0.105, 0.19), WOOD, edge=0.01)
    s.ball((d + 0.04, 0.06, -0.10 - h + 0.18), 0.025, GOLD)
    for y in (-0.26, 0.26):
        s.box((d, y * w / 0.42, -0.04), (0.025, 0.10, 0.11), SNOW, edge=0.01)
        s.box((d + 0.01, y * w / 0.42, -0.04), (0.025, 0.07, 0.08), GLASS, edge=0.01)
    s.cone((d + 0.05, 0, h - 0.05 + 0.7 * roof), 0.09, 0.09, 0.03, GLASS, axis=(1, 0, 0))
    s.cone((-d, 0, 0.0), 0.10, 0.10, 0.02, SNOW, axis=(1, 0, 0))


def rocket(s: Sketch):
    """Porthole and door in front, three fins, nozzle below."""
    r, h = s.between(0.20, 0.26), s.between(0.42, 0.52)
    s.ball((0, 0, 0.02), (r, r, 1.15 * h), stripe=K.STRIPE_Z)
    s.cone((0, 0, -0.25 * h), 0.72 * r, 0.98 * r, 0.55 * h, stripe=K.STRIPE_Z, smooth=0.05)
    s.ball((0, 0, 1.15 * h - 0.02), (0.08, 0.08, 0.12), STEEL)
    for x, y in ((-1.0, 0.0), (0.35, 0.94), (0.35, -0.94)):
        s.rod((0.6 * r * x, 0.6 * r * y, -0.35 * h), ((r + 0.20) * x, (r + 0.20) * y, -h - 0.02), 0.09, 0.05, IRON)
        s.rod((0.6 * r * x, 0.6 * r * y, -0.75 * h), ((r + 0.20) * x, (r + 0.20) * y, -h - 0.02), 0.07, 0.05, IRON)
    s.cone((0, 0, -0.92 * h), 0.15, 0.10, 0.08, STEEL)
    axis = (1, 0, 0)
    s.ring((r - 0.01, 0, 0.16), 0.10, 0.035, STEEL, axis=axis)
    s.cone((r - 0.03, 0, 0.16), 0.10, 0.10, 0.04, GLASS, axis=axis)
    s.box((r, 0, -0.24), (0.06, 0.085, 0.15), CREAM, 0.01, op=K.PAINT)


def car(s: Sketch):
    """Bonnet, headlights and grille in front, boot and red lights at the back."""
    length, w = s.between(0.52, 0.60), s.between(0.26, 0.31)
    s.box((0, 0, -0.06), (length, w, 0.14), edge=0.06)
    s.box((-0.12, 0, 0.13), (0.30, w - 0.04, 0.16), edge=0.08)
    s.box((0.14, 0, 0.15), (0.08, w - 0.08, 0.09), GLASS, 0.02, op=K.PAINT)
    s.box((-0.42, 0, 0.16), (0.06, w - 0.09, 0.07), SNOW, 0.02, op=K.PAINT)
    for x in (-0.25, 0.0):
        s.box((x, 0, 0.15), (0.095, 0.5, 0.075), GLASS, 0.02, op=K.PAINT)
    for y in (-0.62 * w, 0.62 * w):
        s.ball((length - 0.01, y, -0.03), 0.075, (1.0, 0.97, 0.70))
        s.box((-length, y, -0.02), (0.02, 0.06, 0.045), (0.85, 0.05, 0.05), 0.01)
    s.box((length, 0, -0.10), (0.02, 0.35 * w, 0.05), INK, 0.01)
    s.box((-length, 0, -0.10), (0.02, 0.09, 0.04), SNOW, 0.01)
    for x in (-0.32, 0.32):
        for y in (-w, w):
            s.cone((x, y, -0.18), 0.13, 0.13, 0.05, INK, axis=(0, 1, 0))
            s.cone((x, 1.12 * y, -0.18), 0.06, 0.06, 0.035, STEEL, axis=(0, 1, 0))


def mushroom(s: Sketch):
    """A cap on a pale stem."""
    r, h = s.between(0.40, 0.50), s.between(0.26, 0.36)
    s.cone((0, 0, -0.20), s.between(0.14, 0.18), 0.11, 0.34, CREAM, edge=0.04)
    s.ball((0, 0, 0.06), (r, r, h))
    s.box((0, 0, -0.26), (0.6, 0.6, 0.30), CREAM, 0.0, op=K.CUT)
    s.cone((0, 0, -0.20), s.between(0.14, 0.18), 0.11, 0.34, CREAM, edge=0.04, smooth=0.05)


def tree(s: Sketch):
    """A fir: three cones of foliage on a trunk."""
    r, h = s.between(0.32, 0.40), s.between(0.17, 0.22)
    s.cone((0, 0, -0.50), 0.09, 0.08, 0.14, BARK)
    for i, width in enumerate((1.0, 0.78, 0.54)):
        s.cone((0, 0, -0.26 + 0.27 * i), width * r, 0.28 * width * r, h, edge=0.02, stripe=K.STRIPE_Z)
    s.ball((0, 0, 0.50), 0.05, GOLD)


def cactus(s: Sketch):
    """A ribbed trunk with two raised arms in a clay pot."""
    r, h = s.between(0.13, 0.17), s.between(0.42, 0.54)
    s.rod((0, 0, -0.35), (0, 0, h), r, 0.95 * r, stripe=K.STRIPE_Z)
    for side in (-1, 1):
        y, z, up = side * (r + s.between(0.14, 0.18)), s.between(-0.08, 0.14), s.between(0.18, 0.28)
        s.rod((0, 0, z), (0, y, z), 0.075, 0.075, smooth=0.03)
        s.rod((0, y, z), (0, y, z + up), 0.08, 0.075, smooth=0.03)
    s.cone((0, 0, -0.48), 0.17, 0.24, 0.14, (0.72, 0.38, 0.22))
    s.cone((0, 0, -0.36), 0.27, 0.27, 0.04, (0.72, 0.38, 0.22))


def donut(s: Sketch):
    """Dough with coloured icing on its upper half."""
    r, t = s.between(0.36, 0.40), s.between(0.17, 0.21)
    s.ring((0, 0, 0), r, t, WAFFLE)
    s.ring((0, 0, 0.05), r, t, stripe=K.STRIPE_X)


def cake(s: Sketch):
    """Two tiers of coloured icing with a cream edge, a candle and a cherry-free top."""
    r, h = s.between(0.42, 0.50), s.between(0.15, 0.19)
    s.cone((0, 0, -0.32), r + 0.09, r + 0.09, 0.025, SNOW)
    s.cone((0, 0, -0.30 + h), r, r, h, edge=0.03)
    s.ring((0, 0, -0.29 + 2 * h), r - 0.02, 0.045, CREAM)
    s.cone((0, 0, -0.32 + 2.8 * h), 0.6 * r, 0.6 * r, h, edge=0.03)
    s.ring((0, 0, -0.31 + 3.8 * h), 0.6 * r - 0.02, 0.04, CREAM)
    s.rod((0, 0, -0.32 + 3.8 * h), (0, 0, -0.10 + 3.8 * h), 0.032, 0.032, SNOW)
    s.ball((0, 0, -0.05 + 3.8 * h), (0.035, 0.035, 0.06), CARROT)


def cone(s: Sketch):
    """Ice cream cone: coloured scoop on a waffle."""
    r, h = s.between(0.27, 0.33), s.between(0.34, 0.42)
    s.cone((0, 0, -0.30), 0.02, 0.86 * r, h, WAFFLE, edge=0.01)
    s.ball((0, 0, -0.24 + h), (r, r, 0.95 * r))
    s.ring((0, 0, -0.30 + h), 0.82 * r, 0.07, smooth=0.05)
    s.ball((0, 0, 0.02 + h), (0.62 * r, 0.62 * r, 0.6 * r), smooth=0.06)


def sundae(s: Sketch):
    """Scoops in a glass bowl on a foot, chocolate sauce, a wafer and a cherry on top."""
    r = s.between(0.31, 0.37)
    glass = (0.72, 0.86, 0.94)
    s.cone((0, 0, -0.53), 0.24, 0.20, 0.035, glass)
    s.rod((0, 0, -0.50), (0, 0, -0.22), 0.05, 0.06, glass)
    s.cone((0, 0, -0.12), 0.13, r + 0.04, 0.17, glass, edge=0.03, smooth=0.05)
    for x, y in ((1.0, 0.0), (-0.5, 0.87), (-0.5, -0.87)):
        s.ball((0.5 * r * x, 0.5 * r * y, 0.12), 0.62 * r)
    s.ball((0, 0, 0.32), 0.62 * r)
    s.ball((0, 0, 0.40), (0.52 * r, 0.52 * r, 0.42 * r), CHOCOLATE, smooth=0.02)
    s.ball((0, 0, 0.40 + 0.42 * r + 0.05), 0.085, CHERRY)
    s.rod((-0.04, 0.5 * r, 0.20), (-0.10, 0.5 * r + 0.16, 0.62), 0.04, 0.04, WAFFLE)


def rose(s: Sketch):
    """Nested petals on a stem with leaves and thorns."""
    r = s.between(0.24, 0.29)
    s.rod((0, 0, -0.62), (0, 0, 0.10), 0.035, 0.04, LEAF)
    for i, z in enumerate((-0.52, -0.40, -0.28, -0.16, -0.04)):
        x, y = ((1, 0), (-0.5, 0.87), (-0.5, -0.87))[i % 3]
        s.rod((0, 0, z), (0.12 * x, 0.12 * y, z + 0.05), 0.032, 0.006, LEAF)
    for side in (-1, 1):
        z = -0.30 + 0.14 * side
        s.ball((0, 0.19 * side, z + 0.08), (0.055, 0.03, 0.16), LEAF, axis=(0, 1.0 * side, 0.6))
    s.cone((0, 0, 0.10), 0.05, 0.15, 0.06, LEAF)
    s.ball((0, 0, 0.28), 0.66 * r, s.shade(0.75))
    for x, y in _FIVE:  # outer petals lean outwards, the inner ones between them stand up around the bud
        s.ball(
            (0.72 * r * x, 0.72 * r * y, 0.27), (0.62 * r, 0.66 * r, 0.24 * r), axis=(0.8 * x, 0.8 * y, -0.6), stripe=1
        )
        s.ball(
            (-0.46 * r * x, -0.46 * r * y, 0.40), (0.46 * r, 0.46 * r, 0.20 * r), s.shade(0.88),
            axis=(-0.95 * x, -0.95 * y, -0.3),
        )  # fmt: skip
    s.ring((0, 0, 0.28 + 0.62 * r), 0.24 * r, 0.09 * r, s.shade(0.95))
    s.ball((0, 0, 0.28 + 0.66 * r), 0.12 * r, s.shade(0.6))


_FIVE = ((1.0, 0.0), (0.309, 0.951), (-0.809, 0.588), (-0.809, -0.588), (0.309, -0.951))
