"""Compiled signed distances, sphere tracing and shading of one object given as a flat table of parts.

An object is a float32 array [P, COLUMNS]; each row is one part: a primitive in its own frame, how it joins the parts
before it (union, smooth union, cut, or paint on the surface without geometry), and its two-tone albedo. The kernels
interpret the rows, so that a new kind of object is new data and never new compiled code.

World: right-handed, z up, lengths in units in which every object fits a sphere of radius 0.6 around the origin.
"""

import math

import numpy as np
from numba import njit

# Columns of a part; CENTRE, FRAME (rows are the part's axes in the world), SIZE, ALBEDO and SECOND span several.
KIND, OP, SMOOTH, BOUND, CENTRE, FRAME, SIZE, ALBEDO, SECOND, PATTERN, PERIOD, STRIPE, WRAP = (
    0, 1, 2, 3, 4, 7, 16, 20, 23, 26, 27, 28, 29,
)  # fmt: skip
COLUMNS = 30
ELLIPSOID, BOX, CONE, TORUS, ROD, WEDGE = range(6)
UNION, CUT, PAINT = range(3)
STRIPE_RINGS, STRIPE_X, STRIPE_Y, STRIPE_Z = range(4)
PLAIN, STRIPED, DOTTED = range(3)
COLOUR, NORMAL_MAP, GREY = range(3)

BLOCK = 8  # rays per side of a block that shares one cone march and one list of parts
HIT = np.float32(0.0015)  # distance that counts as the surface; a pixel at 64x64 is about 0.024
STEPS = 56
NORMAL_STEP = np.float32(0.003)


@njit(cache=True, fastmath=True)
def _primitive(part, x, y, z):
    """Signed distance (never more than the true one) of one part's primitive at a point of its own frame."""
    kind = int(part[KIND])
    a, b, c, d = part[SIZE], part[SIZE + 1], part[SIZE + 2], part[SIZE + 3]
    if kind == ELLIPSOID:  # semi-axes a, b, c; scaled by the smallest, which keeps the gradient at or below one
        return (math.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) - 1.0) * min(a, b, c)
    if kind == BOX:  # half sizes a, b, c of the inner box, rounding d
        qx, qy, qz = abs(x) - a, abs(y) - b, abs(z) - c
        outside = math.sqrt(max(qx, 0.0) ** 2 + max(qy, 0.0) ** 2 + max(qz, 0.0) ** 2)
        return outside + min(max(qx, qy, qz), 0.0) - d
    if kind == CONE:  # radius a at the bottom and b at the top, half height c, rounding d
        r = math.sqrt(x * x + y * y)
        cap_r = max(r - (a if z < 0.0 else b), 0.0)
        cap_z = abs(z) - c
        slope = b - a
        along = ((b - r) * slope + (c - z) * 2.0 * c) / (slope * slope + 4.0 * c * c)
        along = min(max(along, 0.0), 1.0)
        side_r, side_z = r - b + slope * along, z - c + 2.0 * c * along
        nearest = min(cap_r * cap_r + cap_z * cap_z, side_r * side_r + side_z * side_z)
        inside = side_r < 0.0 and cap_z < 0.0
        return (-math.sqrt(nearest) if inside else math.sqrt(nearest)) - d
    if kind == TORUS:  # ring radius a around z, tube radius b
        r = math.sqrt(x * x + y * y) - a
        return math.sqrt(r * r + z * z) - b
    if kind == ROD:  # balls of radius a at z = -c and b at z = +c, and their convex hull
        r, h = math.sqrt(x * x + y * y), z + c
        tilt = (a - b) / (2.0 * c)
        upright = math.sqrt(max(1.0 - tilt * tilt, 0.0))
        along = upright * h - tilt * r
        if along < 0.0:
            return math.sqrt(r * r + h * h) - a
        if along > upright * 2.0 * c:
            return math.sqrt(r * r + (h - 2.0 * c) ** 2) - b
        return r * upright + h * tilt - a
    # WEDGE: half length a along x, half width b along y at the bottom, ridge at z = +c, bottom at z = -c
    roof = (abs(y) * 2.0 * c + (z - c) * b) / math.sqrt(4.0 * c * c + b * b)
    return max(roof, -z - c, abs(x) - a)


@njit(cache=True, fastmath=True)
def _part_distance(part, x, y, z):
    px, py, pz = x - part[CENTRE], y - part[CENTRE + 1], z - part[CENTRE + 2]
    f = FRAME
    return _primitive(
        part,
        part[f] * px + part[f + 1] * py + part[f + 2] * pz,
        part[f + 3] * px + part[f + 4] * py + part[f + 5] * pz,
        part[f + 6] * px + part[f + 7] * py + part[f + 8] * pz,
    )


@njit(cache=True, fastmath=True)
def _distance(parts, active, count, x, y, z):
    """Signed distance of the listed parts at a point, and the index of the part that owns the surface there."""
    best = np.float32(1e3)
    owner = 0
    for i in range(count):
        j = active[i]
        part = parts[j]
        op = part[OP]
        if op == PAINT:
            continue
        px, py, pz = x - part[CENTRE], y - part[CENTRE + 1], z - part[CENTRE + 2]
        lower = math.sqrt(px * px + py * py + pz * pz) - part[BOUND]
        if op == CUT:
            if lower > -best:
                continue
            d = -_part_distance(part, x, y, z)
            if d > best:
                best = d
                owner = j
            continue
        k = part[SMOOTH]
        if lower > best + k:
            continue
        d = _part_distance(part, x, y, z)
        gap = k - abs(best - d)
        if d < best:
            best = d
            owner = j
        if gap > 0.0:
            best -= gap * gap / (4.0 * k)
    return best, owner


@njit(cache=True, fastmath=True)
def _second_tone(part, x, y, z, nx, ny, nz):
    """Whether a surface point (part's frame, with its normal there) lies on a stripe or a dot of the part."""
    if part[PATTERN] == PLAIN:
        return False
    period = part[PERIOD]
    if part[PATTERN] == STRIPED:
        stripe = part[STRIPE]
        if stripe == STRIPE_RINGS:  # rings on the sides, concentric circles on the top
            s = z - math.sqrt(x * x + y * y)
        elif stripe == STRIPE_X:
            s = x
        elif stripe == STRIPE_Y:
            s = y
        else:
            s = z
        s = s / period + 0.25
        return s - math.floor(s) < 0.45
    period *= 1.05
    if part[WRAP] > 0.0 and abs(nz) < 0.8:  # dots wrapped around the part's z axis
        r = math.sqrt(x * x + y * y)
        around = max(math.floor(2.0 * math.pi * part[WRAP] / period + 0.5), 3.0)
        v = z / period + 0.5
        row = math.floor(v)
        u = math.atan2(y, x) / (2.0 * math.pi) * around + 0.5 * (row % 2.0)
        du = (u - math.floor(u) - 0.5) * 2.0 * math.pi * r / around
    else:  # dots on the plane that faces the surface most
        ax, ay, az = abs(nx), abs(ny), abs(nz)
        if ax >= ay and ax >= az:
            p, q = y, z
        elif ay >= az:
            p, q = x, z
        else:
            p, q = x, y
        v = q / period + 0.5
        row = math.floor(v)
        u = p / period + 0.5 * (row % 2.0) + 0.5
        du = (u - math.floor(u) - 0.5) * period
    dv = (v - row - 0.5) * period
    return du * du + dv * dv < (0.32 * period) ** 2


@njit(cache=True, fastmath=True)
def _albedo(parts, active, count, owner, x, y, z, nx, ny, nz):
    part = parts[owner]
    px, py, pz = x - part[CENTRE], y - part[CENTRE + 1], z - part[CENTRE + 2]
    f = FRAME
    column = ALBEDO
    if _second_tone(
        part,
        part[f] * px + part[f + 1] * py + part[f + 2] * pz,
        part[f + 3] * px + part[f + 4] * py + part[f + 5] * pz,
        part[f + 6] * px + part[f + 7] * py + part[f + 8] * pz,
        part[f] * nx + part[f + 1] * ny + part[f + 2] * nz,
        part[f + 3] * nx + part[f + 4] * ny + part[f + 5] * nz,
        part[f + 6] * nx + part[f + 7] * ny + part[f + 8] * nz,
    ):
        column = SECOND
    for i in range(count):
        layer = parts[active[i]]
        if layer[OP] == PAINT and _part_distance(layer, x, y, z) < 0.0:
            part = layer
            column = ALBEDO
    return part[column], part[column + 1], part[column + 2]


@njit(cache=True, fastmath=True)
def _normal(parts, active, count, x, y, z):
    """Unit gradient of the distance by the four corners of a tetrahedron."""
    h = NORMAL_STEP
    a, _ = _distance(parts, active, count, x + h, y - h, z - h)
    b, _ = _distance(parts, active, count, x - h, y - h, z + h)
    c, _ = _distance(parts, active, count, x - h, y + h, z - h)
    d, _ = _distance(parts, active, count, x + h, y + h, z + h)
    nx, ny, nz = a - b - c + d, -a - b + c + d, -a + b - c + d
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    return nx / length, ny / length, nz / length


@njit(cache=True, fastmath=True)
def _cull(parts, active, ox, oy, oz, dx, dy, dz, sin_cone, cos_cone):
    """List the parts that a cone of rays can touch; returns how many, or 0 where none of them adds surface."""
    count = 0
    solid = False
    for j in range(parts.shape[0]):
        part = parts[j]
        px, py, pz = part[CENTRE] - ox, part[CENTRE + 1] - oy, part[CENTRE + 2] - oz
        t = px * dx + py * dy + pz * dz
        across = math.sqrt(max(px * px + py * py + pz * pz - t * t, 0.0))
        if across * cos_cone - t * sin_cone <= part[BOUND] + part[SMOOTH] + 0.01:
            active[count] = j
            count += 1
            solid = solid or part[OP] == UNION
    return count if solid else 0


@njit(cache=True, fastmath=True)
def trace(parts, c2w, tan_half, size, kind, light, shade, backdrop, radius):
    """Render one object with 2x2 rays per pixel.

    parts float32 [P, COLUMNS]; c2w float32 [4, 4]; tan_half = tan(fovy / 2); size in pixels; kind COLOUR, NORMAL_MAP
    or GREY; light float32 [3] unit vector towards the light; shade float32 [3] = (ambient, diffuse, sky) weights;
    backdrop float32 [2, 3] colours at the top and the bottom of the image; radius of the bounding sphere.
    Returns rgb [S, S, 3] in 0..1, alpha [S, S] (share of rays that hit), depth [S, S] (mean distance along the unit
    ray of those that hit, 0 where none) and normal [S, S, 3] (unit, world space, 0 where none).
    """
    rgb = np.zeros((size, size, 3), np.float32)
    alpha = np.zeros((size, size), np.float32)
    depth = np.zeros((size, size), np.float32)
    normal = np.zeros((size, size, 3), np.float32)
    rays = 2 * size
    active = np.empty(parts.shape[0], np.int64)
    ox, oy, oz = c2w[0, 3], c2w[1, 3], c2w[2, 3]
    oo = ox * ox + oy * oy + oz * oz - radius * radius
    pixel = 2.0 * tan_half / rays
    blocks = (rays + BLOCK - 1) // BLOCK
    for block in range(blocks * blocks):
        row0, col0 = (block // blocks) * BLOCK, (block % blocks) * BLOCK
        u = (col0 + 0.5 * BLOCK) * pixel - tan_half
        v = tan_half - (row0 + 0.5 * BLOCK) * pixel
        n = 1.0 / math.sqrt(u * u + v * v + 1.0)
        dx = (u * c2w[0, 0] + v * c2w[0, 1] - c2w[0, 2]) * n
        dy = (u * c2w[1, 0] + v * c2w[1, 1] - c2w[1, 2]) * n
        dz = (u * c2w[2, 0] + v * c2w[2, 1] - c2w[2, 2]) * n
        tan_cone = 0.5 * math.sqrt(2.0) * BLOCK * pixel  # widest at the image centre, so safe everywhere
        cos_cone = 1.0 / math.sqrt(1.0 + tan_cone * tan_cone)
        sin_cone = tan_cone * cos_cone
        count = _cull(parts, active, ox, oy, oz, dx, dy, dz, sin_cone, cos_cone)
        near = 0.0
        far = 0.0
        if count > 0:
            middle = -(ox * dx + oy * dy + oz * dz)
            far = middle + radius + 0.05
            near = max(math.sqrt(oo + radius * radius) - radius, 0.0)
            for _ in range(STEPS):  # all rays of the block stay inside the cone, so its free way is theirs too
                d, _ = _distance(parts, active, count, ox + near * dx, oy + near * dy, oz + near * dz)
                free = (d - near * tan_cone) / (1.0 + tan_cone)
                if free < 2.0 * HIT:
                    break
                near += free
                if near > far:
                    count = 0
                    break
        for row in range(row0, min(row0 + BLOCK, rays)):
            for col in range(col0, min(col0 + BLOCK, rays)):
                i, j = row // 2, col // 2
                if count > 0:
                    u = (col + 0.5) * pixel - tan_half
                    v = tan_half - (row + 0.5) * pixel
                    n = 1.0 / math.sqrt(u * u + v * v + 1.0)
                    dx = (u * c2w[0, 0] + v * c2w[0, 1] - c2w[0, 2]) * n
                    dy = (u * c2w[1, 0] + v * c2w[1, 1] - c2w[1, 2]) * n
                    dz = (u * c2w[2, 0] + v * c2w[2, 1] - c2w[2, 2]) * n
                    middle = -(ox * dx + oy * dy + oz * dz)
                    reach = middle * middle - oo
                    if reach > 0.0:
                        end = middle + math.sqrt(reach)
                        t = max(near * cos_cone, middle - math.sqrt(reach))
                        hit = False
                        owner = 0
                        for _ in range(STEPS):
                            d, owner = _distance(parts, active, count, ox + t * dx, oy + t * dy, oz + t * dz)
                            if d < HIT:
                                hit = True
                                break
                            t += d
                            if t > end:
                                break
                        if hit:
                            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                            nx, ny, nz = _normal(parts, active, count, x, y, z)
                            alpha[i, j] += 1.0
                            depth[i, j] += t
                            normal[i, j, 0] += nx
                            normal[i, j, 1] += ny
                            normal[i, j, 2] += nz
                            if kind == NORMAL_MAP:
                                r, g, b = 0.5 + 0.5 * nx, 0.5 + 0.5 * ny, 0.5 + 0.5 * nz
                            else:
                                r, g, b = 0.8, 0.8, 0.8
                                if kind == COLOUR:
                                    r, g, b = _albedo(parts, active, count, owner, x, y, z, nx, ny, nz)
                                lambert = max(nx * light[0] + ny * light[1] + nz * light[2], 0.0)
                                lit = shade[0] + shade[1] * lambert + shade[2] * (0.5 + 0.5 * nz)
                                r, g, b = r * lit, g * lit, b * lit
                            rgb[i, j, 0] += 0.25 * min(r, 1.0)
                            rgb[i, j, 1] += 0.25 * min(g, 1.0)
                            rgb[i, j, 2] += 0.25 * min(b, 1.0)
    for i in range(size):
        low = (i + 0.5) / size
        for j in range(size):
            hits = alpha[i, j]
            clear = 1.0 - 0.25 * hits
            for c in range(3):
                rgb[i, j, c] += clear * (backdrop[0, c] * (1.0 - low) + backdrop[1, c] * low)
            if hits > 0.0:
                depth[i, j] /= hits
                length = math.sqrt(normal[i, j, 0] ** 2 + normal[i, j, 1] ** 2 + normal[i, j, 2] ** 2) + 1e-12
                for c in range(3):
                    normal[i, j, c] /= length
            alpha[i, j] = 0.25 * hits
    return rgb, alpha, depth, normal


@njit(cache=True, fastmath=True)
def distances(parts, points):
    """Signed distance [N] of an object at float32 points [N, 3]."""
    active = np.arange(parts.shape[0])
    out = np.empty(points.shape[0], np.float32)
    for i in range(points.shape[0]):
        out[i], _ = _distance(parts, active, parts.shape[0], points[i, 0], points[i, 1], points[i, 2])
    return out


@njit(cache=True, fastmath=True)
def surface_albedo(parts, points):
    """Albedo [N, 3] of an object at float32 surface points [N, 3]."""
    count = parts.shape[0]
    active = np.arange(count)
    out = np.empty((points.shape[0], 3), np.float32)
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        _, owner = _distance(parts, active, count, x, y, z)
        nx, ny, nz = _normal(parts, active, count, x, y, z)
        out[i, 0], out[i, 1], out[i, 2] = _albedo(parts, active, count, owner, x, y, z, nx, ny, nz)
    return out


@njit(cache=True, fastmath=True)
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


@njit(cache=True, fastmath=True)
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
