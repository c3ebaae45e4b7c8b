"""How far an object reaches, from the support points of its parts: what a sketch is fitted by."""

import math

import numpy as np

from .kernel import BOX, CENTRE, CONE, ELLIPSOID, FRAME, KIND, OP, ROD, SIZE, TORUS, UNION, compiled


@compiled
def _support(part, dx, dy, dz):
    """The farthest point of a part's primitive in a direction of its own frame (of the hull, for the ring)."""
    kind = int(part[KIND])
    a, b, c, d = part[SIZE], part[SIZE + 1], part[SIZE + 2], part[SIZE + 3]
    across = math.sqrt(dx * dx + dy * dy) + 1e-9
    if kind == ELLIPSOID:
        n = math.sqrt((a * dx) ** 2 + (b * dy) ** 2 + (c * dz) ** 2)
        return a * a * dx / n, b * b * dy / n, c * c * dz / n
    if kind == BOX:
        return math.copysign(a, dx) + d * dx, math.copysign(b, dy) + d * dy, math.copysign(c, dz) + d * dz
    if kind == CONE:
        r, h = (b, c) if b * across + c * dz > a * across - c * dz else (a, -c)
        return r * dx / across + d * dx, r * dy / across + d * dy, h + d * dz
    if kind == TORUS:
        return a * dx / across + b * dx, a * dy / across + b * dy, b * dz
    if kind == ROD:
        r, h = (b, c) if b + c * dz > a - c * dz else (a, -c)
        return r * dx, r * dy, h + r * dz
    if c * dz > abs(dy) * b - c * dz:
        return math.copysign(a, dx), 0.0 * dx, c + 0.0 * dx
    return math.copysign(a, dx), math.copysign(b, dy), -c + 0.0 * dx


@compiled
def extent(parts, directions):
    """Middle height of the solid parts and their reach around the point of that height on the z axis."""
    count = parts.shape[0] * directions.shape[0]
    points = np.zeros((count, 3), np.float32)
    used = 0
    for j in range(parts.shape[0]):
        part = parts[j]
        if part[OP] != UNION:
            continue
        f = FRAME
        for i in range(directions.shape[0]):
            x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
            sx, sy, sz = _support(
                part,
                part[f] * x + part[f + 1] * y + part[f + 2] * z,
                part[f + 3] * x + part[f + 4] * y + part[f + 5] * z,
                part[f + 6] * x + part[f + 7] * y + part[f + 8] * z,
            )
            for c in range(3):
                points[used, c] = part[CENTRE + c] + part[f + c] * sx + part[f + 3 + c] * sy + part[f + 6 + c] * sz
            used += 1
    low, high = points[0, 2], points[0, 2]
    for i in range(used):
        low = min(low, points[i, 2])
        high = max(high, points[i, 2])
    middle = 0.5 * (low + high)
    reach = 0.0
    for i in range(used):
        reach = max(reach, points[i, 0] ** 2 + points[i, 1] ** 2 + (points[i, 2] - middle) ** 2)
    return middle, math.sqrt(reach)
