"""Compiled signed distances, sphere tracing and shading of one object given as a flat table of parts.

An object is a float32 array [P, COLUMNS]; each row is one part: a primitive in its own frame, how it joins the parts
before it (union, smooth union, cut, or paint on the surface without geometry), and its two-tone albedo. The kernels
interpret the rows, so that a new kind of object is new data and never new compiled code.

World: right-handed, z up, lengths in units in which every object fits a sphere of radius 0.6 around the origin.
"""

import math

import numpy as np
from numba import njit

compiled = njit(cache=True, fastmath=True, error_model="numpy")

# Columns of a part; CENTRE, FRAME (rows are the part's axes in the world), SIZE, ALBEDO and SECOND span several.
KIND, OP, SMOOTH, BOUND, CENTRE, FRAME, SIZE, ALBEDO, SECOND, PATTERN, PERIOD, STRIPE, WRAP = (
    0, 1, 2, 3, 4, 7, 16, 20, 23, 26, 27, 28, 29,
)  # fmt: skip
COLUMNS = 30
ELLIPSOID, BOX, CONE, TORUS, ROD, WEDGE = range(6)
UNION, CUT, PAINT = range(3)
STRIPE_RINGS, STRIPE_X, STRIPE_WALLS, STRIPE_Z = range(4)
PLAIN, STRIPED, DOTTED = range(3)
COLOUR, NORMAL_MAP, GREY = range(3)

BLOCK, TILE = 4, 16  # rays per side of the blocks and of the tiles of blocks that share a cone march and a parts list
HIT = np.float32(0.0015)  # distance that counts as the surface; a pixel at 64x64 is about 0.024
STEPS = 56
NORMAL_STEP = np.float32(0.003)


@compiled
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


@compiled
def _part_distance(part, x, y, z):
    px, py, pz = x - part[CENTRE], y - part[CENTRE + 1], z - part[CENTRE + 2]
    f = FRAME
    return _primitive(
        part,
        part[f] * px + part[f + 1] * py + part[f + 2] * pz,
        part[f + 3] * px + part[f + 4] * py + part[f + 5] * pz,
        part[f + 6] * px + part[f + 7] * py + part[f + 8] * pz,
    )


@compiled
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
        # Some primitives underestimate by more than their bounding ball does; the larger bound keeps values continuous.
        d = max(_part_distance(part, x, y, z), lower)
        gap = k - abs(best - d)
        if d < best:
            best = d
            owner = j
        if gap > 0.0:
            best -= gap * gap / (4.0 * k)
    return best, owner


@compiled
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
        elif stripe == STRIPE_WALLS:  # across all four walls of a box and diagonally over its top
            s = 0.85 * (x + y)
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


@compiled
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


@compiled
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


@compiled
def _ray(c2w, tan_half, pixel, row, col):
    """Unit direction in the world through a point of the image, given in rays from the top left corner."""
    u, v = col * pixel - tan_half, tan_half - row * pixel
    n = 1.0 / math.sqrt(u * u + v * v + 1.0)
    return (
        (u * c2w[0, 0] + v * c2w[0, 1] - c2w[0, 2]) * n,
        (u * c2w[1, 0] + v * c2w[1, 1] - c2w[1, 2]) * n,
        (u * c2w[2, 0] + v * c2w[2, 1] - c2w[2, 2]) * n,
    )


@compiled
def _enter(parts, candidates, candidate_count, active, origin, direction, near, far, tan_cone):
    """March a cone of rays as far as all of them are free.

    Writes to `active` those of the first `candidate_count` candidates that the cone can touch; returns how many, 0
    where the cone meets no surface before `far`, and the free distance along its axis, starting from `near`.
    """
    ox, oy, oz = origin
    dx, dy, dz = direction
    cos_cone = 1.0 / math.sqrt(1.0 + tan_cone * tan_cone)
    sin_cone = tan_cone * cos_cone
    count = 0
    solid = False
    for i in range(candidate_count):
        j = candidates[i]
        part = parts[j]
        px, py, pz = part[CENTRE] - ox, part[CENTRE + 1] - oy, part[CENTRE + 2] - oz
        t = px * dx + py * dy + pz * dz
        across = math.sqrt(max(px * px + py * py + pz * pz - t * t, 0.0))
        if across * cos_cone - t * sin_cone <= part[BOUND] + part[SMOOTH] + 0.01:
            active[count] = j
            count += 1
            solid = solid or part[OP] == UNION
    if not solid:
        return 0, near
    for _ in range(STEPS):
        d, _ = _distance(parts, active, count, ox + near * dx, oy + near * dy, oz + near * dz)
        free = (d - near * tan_cone) / (1.0 + tan_cone)
        if free < 2.0 * HIT:
            break
        near += free
        if near > far:
            return 0, near
    return count, near


@compiled
def _hit(parts, active, count, origin, direction, near, radius):
    """Sphere-trace one ray: distance to the surface, or -1 where it passes, and the part that it meets."""
    ox, oy, oz = origin
    dx, dy, dz = direction
    middle = -(ox * dx + oy * dy + oz * dz)
    reach = middle * middle - (ox * ox + oy * oy + oz * oz - radius * radius)
    if reach <= 0.0:
        return -1.0, 0
    end = middle + math.sqrt(reach)
    t = max(near, middle - math.sqrt(reach))
    for _ in range(STEPS):
        d, owner = _distance(parts, active, count, ox + t * dx, oy + t * dy, oz + t * dz)
        if d < HIT:
            return t, owner
        t += d
        if t > end:
            break
    return -1.0, 0


@compiled
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
    pixel = 2.0 * tan_half / rays
    everything = np.arange(parts.shape[0])
    in_tile, in_block = np.empty_like(everything), np.empty_like(everything)
    origin = (c2w[0, 3], c2w[1, 3], c2w[2, 3])
    away = math.sqrt(origin[0] ** 2 + origin[1] ** 2 + origin[2] ** 2)
    start, far = max(away - radius, 0.0), away + radius
    half_diagonal = math.sqrt(0.5) * pixel  # seen at the image centre, where rays lie farthest apart
    for tile_row in range(0, rays, TILE):
        for tile_col in range(0, rays, TILE):
            axis = _ray(c2w, tan_half, pixel, tile_row + 0.5 * TILE, tile_col + 0.5 * TILE)
            tile_count, tile_near = _enter(
                parts, everything, parts.shape[0], in_tile, origin, axis, start, far, half_diagonal * TILE
            )
            if tile_count == 0:
                continue
            tile_near /= math.sqrt(1.0 + (half_diagonal * TILE) ** 2)
            for block in range((TILE // BLOCK) ** 2):
                row0 = tile_row + block // (TILE // BLOCK) * BLOCK
                col0 = tile_col + block % (TILE // BLOCK) * BLOCK
                axis = _ray(c2w, tan_half, pixel, row0 + 0.5 * BLOCK, col0 + 0.5 * BLOCK)
                count, near = _enter(
                    parts, in_tile, tile_count, in_block, origin, axis, tile_near, far, half_diagonal * BLOCK
                )
                if count == 0:
                    continue
                near /= math.sqrt(1.0 + (half_diagonal * BLOCK) ** 2)
                for row in range(row0, min(row0 + BLOCK, rays)):
                    for col in range(col0, min(col0 + BLOCK, rays)):
                        ray = _ray(c2w, tan_half, pixel, row + 0.5, col + 0.5)
                        t, owner = _hit(parts, in_block, count, origin, ray, near, radius)
                        if t < 0.0:
                            continue
                        i, j = row // 2, col // 2
                        x, y, z = origin[0] + t * ray[0], origin[1] + t * ray[1], origin[2] + t * ray[2]
                        nx, ny, nz = _normal(parts, in_block, count, x, y, z)
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
                                r, g, b = _albedo(parts, in_block, count, owner, x, y, z, nx, ny, nz)
                            lambert = max(nx * light[0] + ny * light[1] + nz * light[2], 0.0)
                            lit = shade[0] + shade[1] * lambert + shade[2] * (0.5 + 0.5 * nz)
                            r, g, b = r * lit, g * lit, b * lit
                        rgb[i, j, 0] += 0.25 * min(r, 1.0)
                        rgb[i, j, 1] += 0.25 * min(g, 1.0)
                        rgb[i, j, 2] += 0.25 * min(b, 1.0)
    _average(rgb, alpha, depth, normal, backdrop)
    return rgb, alpha, depth, normal


@compiled
def _average(rgb, alpha, depth, normal, backdrop):
    """Turn sums over a pixel's four rays into means, in place, and put the backdrop behind."""
    size = alpha.shape[0]
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


@compiled
def distances(parts, points):
    """Signed distance [N] of an object at float32 points [N, 3]."""
    active = np.arange(parts.shape[0])
    out = np.empty(points.shape[0], np.float32)
    for i in range(points.shape[0]):
        out[i], _ = _distance(parts, active, parts.shape[0], points[i, 0], points[i, 1], points[i, 2])
    return out


@compiled
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
