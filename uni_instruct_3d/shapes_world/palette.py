"""Colours and patterns of the world. Albedo is RGB in 0..1."""

COLOR_ALBEDO = {
    "red": (0.86, 0.08, 0.08),
    "orange": (1.00, 0.50, 0.04),
    "yellow": (0.98, 0.86, 0.08),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.10, 0.24, 0.86),
    "purple": (0.50, 0.12, 0.70),
    "pink": (1.00, 0.46, 0.70),
    "brown": (0.42, 0.22, 0.09),
    "white": (0.96, 0.96, 0.96),
    "black": (0.09, 0.09, 0.10),
}
# The pattern's second tone: light on saturated and dark colours, dark on those too light for white to show.
_LIGHT, _DARK = (0.97, 0.95, 0.92), (0.22, 0.22, 0.26)
SECOND_TONE = {name: _LIGHT for name in COLOR_ALBEDO} | {
    "yellow": (0.36, 0.28, 0.10),
    "white": (0.45, 0.45, 0.50),
    "black": (0.78, 0.78, 0.80),
}
COLORS = tuple(COLOR_ALBEDO)
PATTERNS = ("plain", "striped", "dotted")

# Fixed colours of details.
CREAM = (0.98, 0.94, 0.82)
SNOW = (0.95, 0.96, 0.98)
INK = (0.06, 0.06, 0.08)
CARROT = (0.98, 0.45, 0.05)
WOOD = (0.55, 0.36, 0.18)
BARK = (0.40, 0.26, 0.14)
STEEL = (0.62, 0.65, 0.69)
IRON = (0.30, 0.32, 0.36)
GLASS = (0.55, 0.80, 0.95)
SCREEN = (0.12, 0.20, 0.32)
LEAF = (0.16, 0.48, 0.14)
WAFFLE = (0.87, 0.64, 0.32)
CHOCOLATE = (0.30, 0.15, 0.07)
CHERRY = (0.80, 0.05, 0.12)
GOLD = (0.93, 0.72, 0.20)
ROSY = (0.96, 0.62, 0.62)
SYRUP = (0.62, 0.30, 0.06)
BUTTER = (1.00, 0.90, 0.45)
LAMP_GLOW = (1.00, 0.96, 0.75)
