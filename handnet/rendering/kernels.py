"""The compiled loops over faces and pixels, with the gradients of what has one written out beside it.

All in one file: numba's cache notices a change in the file of the compiled function only, not in those it calls.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numba

# PyTorch3D's kEpsilon: the smallest depth (m), and the smallest doubled area in its NDC units
EPSILON = 1e-8
# and the smallest sum of barycentrics clipped to a face
CLIP_EPSILON = 1e-5
# Pixels of a row that the soft silhouette measures at once, as vectors. Its images have rows longer by as many.
LANES = 8
# A pixel whose product falls below this is opaque in float32 whatever else covers it.
OPAQUE = 1e-12

_exact = numba.njit(cache=True, nogil=True, error_model="numpy")
# For loops over the LANES: sums may be reordered, and small functions must not stay calls, or there is no vector code.
_RELAXED = {"contract", "nsz", "reassoc"}
_vector = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_RELAXED)
_inline = numba.njit(nogil=True, error_model="numpy", fastmath=_RELAXED, forceinline=True)


@_exact
def face_window(vertices, a, b, c, blur_px, row_lo, row_hi, width, min_area):
    """First and last row, first and last column of the pixels that face (a, b, c) may touch, and its doubled area; no
    pixels (1, 0, 1, 0) if it has no area, reaches behind the camera, where it has no sound projection, or lies outside."""
    y0, y1, y2 = vertices[a, 1], vertices[b, 1], vertices[c, 1]
    # both ends are clamped before they become integers: a far vertex would overflow
    top = math.ceil(min(max(min(y0, min(y1, y2)) - blur_px - 0.5, row_lo), row_hi))
    bottom = math.floor(max(min(max(y0, max(y1, y2)) + blur_px - 0.5, row_hi - 1.0), row_lo - 1.0))
    if top > bottom or min(vertices[a, 2], min(vertices[b, 2], vertices[c, 2])) < EPSILON:
        return 1, 0, 1, 0, 0.0
    x0, x1, x2 = vertices[a, 0], vertices[b, 0], vertices[c, 0]
    left = math.ceil(min(max(min(x0, min(x1, x2)) - blur_px - 0.5, 0.0), width))
    right = math.floor(max(min(max(x0, max(x1, x2)) + blur_px - 0.5, width - 1.0), -1.0))
    product = (x2 - x0) * (y1 - y0)
    area = product - (y2 - y0) * (x1 - x0)
    # of a face with a far vertex the area may be all rounding
    if left > right or abs(area) <= max(min_area, 1e-14 * abs(product)):
        return 1, 0, 1, 0, 0.0
    return top, bottom, left, right, area


@_exact
def fill(vertices, faces, meshes, starts, num_bands, first_job, last_job, blur_px, min_area, face_index, depth):
    """Jobs first_job..last_job - 1 of (image, band of rows): write face_index (B,H,W,K) and depth (B,H,W,K) in place."""
    height, width, num_slots = face_index.shape[1:]
    num_faces = faces.shape[1]
    blur2 = blur_px * blur_px
    for job in range(first_job, last_job):
        image, band = job // num_bands, job % num_bands
        row_lo, row_hi = band * height // num_bands, (band + 1) * height // num_bands
        for m in meshes[starts[image] : starts[image + 1]]:
            for f in range(num_faces):
                a, b, c = faces[m, f, 0], faces[m, f, 1], faces[m, f, 2]
                top, bottom, left, right, area = face_window(vertices[m], a, b, c, blur_px, row_lo, row_hi, width, min_area)
                if top > bottom:
                    continue
                x0, y0, z0 = vertices[m, a, 0], vertices[m, a, 1], vertices[m, a, 2]
                x1, y1, z1 = vertices[m, b, 0], vertices[m, b, 1], vertices[m, b, 2]
                x2, y2, z2 = vertices[m, c, 0], vertices[m, c, 1], vertices[m, c, 2]
                sign = 1.0 if area > 0.0 else -1.0
                for i in range(top, bottom + 1):
                    py = i + 0.5
                    for j in range(left, right + 1):
                        px = j + 0.5
                        c0 = (px - x1) * (y2 - y1) - (py - y1) * (x2 - x1)
                        c1 = (px - x2) * (y0 - y2) - (py - y2) * (x0 - x2)
                        c2 = (px - x0) * (y1 - y0) - (py - y0) * (x1 - x0)
                        if not (sign * c0 > 0.0 and sign * c1 > 0.0 and sign * c2 > 0.0):
                            if blur2 <= 0.0:
                                continue
                            near = min(_segment_distance2(px, py, x0, y0, x1, y1), _segment_distance2(px, py, x1, y1, x2, y2))
                            if min(near, _segment_distance2(px, py, x2, y2, x0, y0)) >= blur2:
                                continue
                        p0, p1, p2 = c0 / area * z1 * z2, z0 * (c1 / area) * z2, z0 * z1 * (c2 / area)
                        total = max(p0 + p1 + p2, EPSILON)
                        p0, p1, p2 = p0 / total, p1 / total, p2 / total
                        if blur2 > 0.0:
                            p0, p1, p2 = max(p0, 0.0), max(p1, 0.0), max(p2, 0.0)
                            total = max(p0 + p1 + p2, CLIP_EPSILON)
                            p0, p1, p2 = p0 / total, p1 / total, p2 / total
                        z = p0 * z0 + p1 * z1 + p2 * z2
                        k = num_slots - 1
                        if z < 0.0 or z >= depth[image, i, j, k]:
                            continue
                        while k > 0 and depth[image, i, j, k - 1] > z:
                            depth[image, i, j, k] = depth[image, i, j, k - 1]
                            face_index[image, i, j, k] = face_index[image, i, j, k - 1]
                            k -= 1
                        depth[image, i, j, k] = z
                        face_index[image, i, j, k] = m * num_faces + f


@_exact
def _segment_distance2(px: float, py: float, ax: float, ay: float, bx: float, by: float) -> float:
    dx, dy = bx - ax, by - ay
    length2 = dx * dx + dy * dy
    if length2 <= EPSILON:
        return (px - bx) ** 2 + (py - by) ** 2
    t = min(max((dx * (px - ax) + dy * (py - ay)) / length2, 0.0), 1.0)
    return (px - ax - t * dx) ** 2 + (py - ay - t * dy) ** 2


@_inline
def _sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without a branch or a call, so that loops over it become vector code; to 1e-10 for |x| < 10."""
    y = min(max(x, -40.0), 20.0) / -64.0
    e = 1.0 + y * (1.0 + y * (1 / 2 + y * (1 / 6 + y * (1 / 24 + y * (1 / 120 + y * (1 / 720 + y * (1 / 5040)))))))
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    return 1.0 / (1.0 + e * e)


@_inline
def _corners(vertices, a, b, c, area):
    """x, y of a face's corners so ordered that its area is positive, and the inverse squared lengths of its edges."""
    x0, y0, x1, y1, x2, y2 = vertices[a, 0], vertices[a, 1], vertices[b, 0], vertices[b, 1], vertices[c, 0], vertices[c, 1]
    if area < 0.0:
        x1, y1, x2, y2 = x2, y2, x1, y1
    inverse0 = 1.0 / max((x1 - x0) ** 2 + (y1 - y0) ** 2, EPSILON)
    inverse1 = 1.0 / max((x2 - x1) ** 2 + (y2 - y1) ** 2, EPSILON)
    inverse2 = 1.0 / max((x0 - x2) ** 2 + (y0 - y2) ** 2, EPSILON)
    return x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2


@_inline
def _nearest(px, py, x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2):
    """Signed squared distance of a pixel to a face's outline, negative inside, and where on the outline it is:
    the three corners' shares of the nearest point, and the way from there to the pixel (x, y)."""
    dx0, dy0, dx1, dy1, dx2, dy2 = px - x0, py - y0, px - x1, py - y1, px - x2, py - y2
    ex0, ey0, ex1, ey1, ex2, ey2 = x1 - x0, y1 - y0, x2 - x1, y2 - y1, x0 - x2, y0 - y2
    t0 = min(max((dx0 * ex0 + dy0 * ey0) * inverse0, 0.0), 1.0)
    t1 = min(max((dx1 * ex1 + dy1 * ey1) * inverse1, 0.0), 1.0)
    t2 = min(max((dx2 * ex2 + dy2 * ey2) * inverse2, 0.0), 1.0)
    rx0, ry0, rx1, ry1, rx2, ry2 = dx0 - t0 * ex0, dy0 - t0 * ey0, dx1 - t1 * ex1, dy1 - t1 * ey1, dx2 - t2 * ex2, dy2 - t2 * ey2
    d0, d1, d2 = rx0 * rx0 + ry0 * ry0, rx1 * rx1 + ry1 * ry1, rx2 * rx2 + ry2 * ry2
    distance = min(d0, min(d1, d2))
    on0 = d0 <= distance
    on1 = (d1 <= distance) & (not on0)
    share0 = 1.0 - t0 if on0 else (0.0 if on1 else t2)
    share1 = t0 if on0 else (1.0 - t1 if on1 else 0.0)
    share2 = 0.0 if on0 else (t1 if on1 else 1.0 - t2)
    rx = rx0 if on0 else (rx1 if on1 else rx2)
    ry = ry0 if on0 else (ry1 if on1 else ry2)
    inside = min(dx0 * ey0 - dy0 * ex0, min(dx1 * ey1 - dy1 * ex1, dx2 * ey2 - dy2 * ex2)) > 0.0
    return (-distance if inside else distance), share0, share1, share2, rx, ry


@_vector
def multiply(vertices, faces, meshes, starts, num_bands, first_job, last_job, blur_px, sharpness, min_area, product):
    """Jobs of (image, band of rows): multiply sigmoid(d * sharpness) of every face into product (B,H,W + LANES)."""
    height, width = product.shape[1], product.shape[2] - LANES
    for job in range(first_job, last_job):
        image, band = job // num_bands, job % num_bands
        row_lo, row_hi = band * height // num_bands, (band + 1) * height // num_bands
        for m in meshes[starts[image] : starts[image + 1]]:
            for f in range(faces.shape[1]):
                a, b, c = faces[m, f, 0], faces[m, f, 1], faces[m, f, 2]
                top, bottom, left, right, area = face_window(vertices[m], a, b, c, blur_px, row_lo, row_hi, width, min_area)
                if top > bottom:
                    continue
                x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2 = _corners(vertices[m], a, b, c, area)
                for i in range(top, bottom + 1):
                    for start in range(left, right + 1, LANES):
                        lanes = product[image, i, start : start + LANES]
                        most = 0.0
                        for k in range(LANES):
                            most = max(most, lanes[k])
                        if most < OPAQUE:
                            continue
                        for k in range(LANES):
                            d, _, _, _, _, _ = _nearest(start + k + 0.5, i + 0.5, x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2)
                            lanes[k] *= _sigmoid(d * sharpness) if d < blur_px * blur_px else 1.0


@_vector
def pull(vertices, faces, image_index, num_runs, first_job, last_job, blur_px, sharpness, min_area, upstream, gradient):
    """Jobs of (mesh, run of faces): d loss / d (x, y) of every face's corners into gradient (M,F,3,2).

    upstream (B,H,W + LANES): d loss / d log product, 0 in the padding.
    """
    height, width = upstream.shape[1], upstream.shape[2] - LANES
    num_faces = faces.shape[1]
    for job in range(first_job, last_job):
        m, run = job // num_runs, job % num_runs
        image = image_index[m]
        for f in range(run * num_faces // num_runs, (run + 1) * num_faces // num_runs):
            a, b, c = faces[m, f, 0], faces[m, f, 1], faces[m, f, 2]
            top, bottom, left, right, area = face_window(vertices[m], a, b, c, blur_px, 0, height, width, min_area)
            if top > bottom:
                continue
            x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2 = _corners(vertices[m], a, b, c, area)
            g0x = g0y = g1x = g1y = g2x = g2y = 0.0
            for i in range(top, bottom + 1):
                for start in range(left, right + 1, LANES):
                    lanes = upstream[image, i, start : start + LANES]
                    most = 0.0
                    for k in range(LANES):
                        most = max(most, abs(lanes[k]))
                    if most == 0.0:
                        continue
                    for k in range(LANES):
                        d, share0, share1, share2, rx, ry = _nearest(
                            start + k + 0.5, i + 0.5, x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2
                        )
                        # d log sigmoid(u) / du = 1 - sigmoid(u); the squared distance falls by 2 r as its nearest point moves by r
                        slope = lanes[k] * (1.0 - _sigmoid(d * sharpness)) * sharpness * (2.0 if d < 0.0 else -2.0)
                        slope = slope if d < blur_px * blur_px else 0.0
                        g0x += slope * share0 * rx
                        g0y += slope * share0 * ry
                        g1x += slope * share1 * rx
                        g1y += slope * share1 * ry
                        g2x += slope * share2 * rx
                        g2y += slope * share2 * ry
            if area < 0.0:
                g1x, g1y, g2x, g2y = g2x, g2y, g1x, g1y
            gradient[m, f, 0, 0], gradient[m, f, 0, 1] = g0x, g0y
            gradient[m, f, 1, 0], gradient[m, f, 1, 1] = g1x, g1y
            gradient[m, f, 2, 0], gradient[m, f, 2, 1] = g2x, g2y


@_exact
def gather(faces, per_face, gradient):
    """Add the gradients of the faces' corners (M,F,3,2) to those of the vertices (M,V,3), in one fixed order."""
    for m in range(faces.shape[0]):
        for f in range(faces.shape[1]):
            for k in range(3):
                gradient[m, faces[m, f, k], 0] += per_face[m, f, k, 0]
                gradient[m, faces[m, f, k], 1] += per_face[m, f, k, 1]


@_exact
def _weigh(x0, y0, z0, x1, y1, z1, x2, y2, z2, px, py, clip):
    """Barycentrics of a pixel in a face: screen (3), perspective sum before its clamp, perspective (3), sum of these
    clipped to the face before its clamp, and the barycentrics that are meant (3)."""
    area = (x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)
    s0 = ((px - x1) * (y2 - y1) - (py - y1) * (x2 - x1)) / area
    s1 = ((px - x2) * (y0 - y2) - (py - y2) * (x0 - x2)) / area
    s2 = ((px - x0) * (y1 - y0) - (py - y0) * (x1 - x0)) / area
    total = s0 * z1 * z2 + s1 * z2 * z0 + s2 * z0 * z1
    divisor = max(total, EPSILON)
    w0, w1, w2 = s0 * z1 * z2 / divisor, s1 * z2 * z0 / divisor, s2 * z0 * z1 / divisor
    if not clip:
        return area, s0, s1, s2, total, w0, w1, w2, 1.0, w0, w1, w2
    clipped = max(w0, 0.0) + max(w1, 0.0) + max(w2, 0.0)
    divisor = max(clipped, CLIP_EPSILON)
    return area, s0, s1, s2, total, w0, w1, w2, clipped, max(w0, 0.0) / divisor, max(w1, 0.0) / divisor, max(w2, 0.0) / divisor


@_exact
def measure(vertices, faces, face_index, slots, height, width, num_slots, clip, corners, weights, depth, distance):
    """Of the filled slots: corners (n,3) into the vertices of all meshes, barycentrics (n,3), depth (n,), and signed squared
    distance (n,) unless that has no room. vertices (M,V,3), faces (M,F,3), face_index flat."""
    for n in range(len(slots)):
        mesh, face = divmod(face_index[slots[n]], faces.shape[1])
        pixel = slots[n] // num_slots
        px, py = pixel % width + 0.5, pixel // width % height + 0.5
        a, b, c = faces[mesh, face, 0], faces[mesh, face, 1], faces[mesh, face, 2]
        x0, y0, z0 = vertices[mesh, a, 0], vertices[mesh, a, 1], vertices[mesh, a, 2]
        x1, y1, z1 = vertices[mesh, b, 0], vertices[mesh, b, 1], vertices[mesh, b, 2]
        x2, y2, z2 = vertices[mesh, c, 0], vertices[mesh, c, 1], vertices[mesh, c, 2]
        area, _, _, _, _, _, _, _, _, b0, b1, b2 = _weigh(x0, y0, z0, x1, y1, z1, x2, y2, z2, px, py, clip)
        first = mesh * vertices.shape[1]
        corners[n, 0], corners[n, 1], corners[n, 2] = first + a, first + b, first + c
        weights[n, 0], weights[n, 1], weights[n, 2] = b0, b1, b2
        depth[n] = b0 * z0 + b1 * z1 + b2 * z2
        if len(distance):
            x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2 = _corners(vertices[mesh], a, b, c, area)
            distance[n] = _nearest(px, py, x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2)[0]


@_exact
def measure_backward(vertices, corners, slots, height, width, num_slots, clip, g_weights, g_depth, g_distance, gradient):
    """Add to gradient (M*V,3) what the gradients of barycentrics, depth and distance make of it. vertices (M*V,3)."""
    for n in range(len(slots)):
        pixel = slots[n] // num_slots
        px, py = pixel % width + 0.5, pixel // width % height + 0.5
        a, b, c = corners[n, 0], corners[n, 1], corners[n, 2]
        x0, y0, z0 = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        x1, y1, z1 = vertices[b, 0], vertices[b, 1], vertices[b, 2]
        x2, y2, z2 = vertices[c, 0], vertices[c, 1], vertices[c, 2]
        area, s0, s1, s2, total, w0, w1, w2, clipped, b0, b1, b2 = _weigh(x0, y0, z0, x1, y1, z1, x2, y2, z2, px, py, clip)
        g0, g1, g2 = g_weights[n, 0] + g_depth[n] * z0, g_weights[n, 1] + g_depth[n] * z1, g_weights[n, 2] + g_depth[n] * z2
        gz0, gz1, gz2 = g_depth[n] * b0, g_depth[n] * b1, g_depth[n] * b2
        if clip:
            mean = g0 * b0 + g1 * b1 + g2 * b2 if clipped >= CLIP_EPSILON else 0.0
            divisor = max(clipped, CLIP_EPSILON)
            g0 = (g0 - mean) / divisor if w0 >= 0.0 else 0.0
            g1 = (g1 - mean) / divisor if w1 >= 0.0 else 0.0
            g2 = (g2 - mean) / divisor if w2 >= 0.0 else 0.0
        mean = g0 * w0 + g1 * w1 + g2 * w2 if total >= EPSILON else 0.0
        divisor = max(total, EPSILON)
        # of the products s z z, then of the screen barycentrics times the area
        g0, g1, g2 = (g0 - mean) / divisor, (g1 - mean) / divisor, (g2 - mean) / divisor
        gz0 += g1 * s1 * z2 + g2 * s2 * z1
        gz1 += g0 * s0 * z2 + g2 * s2 * z0
        gz2 += g0 * s0 * z1 + g1 * s1 * z0
        g0, g1, g2 = g0 * z1 * z2 / area, g1 * z2 * z0 / area, g2 * z0 * z1 / area
        g_area = -(g0 * s0 + g1 * s1 + g2 * s2)
        gx0 = g1 * (y2 - py) + g2 * (py - y1) + g_area * (y2 - y1)
        gy0 = g1 * (px - x2) + g2 * (x1 - px) + g_area * (x1 - x2)
        gx1 = g0 * (py - y2) + g2 * (y0 - py) + g_area * (y0 - y2)
        gy1 = g0 * (x2 - px) + g2 * (px - x0) + g_area * (x2 - x0)
        gx2 = g0 * (y1 - py) + g1 * (py - y0) + g_area * (y1 - y0)
        gy2 = g0 * (px - x1) + g1 * (x0 - px) + g_area * (x0 - x1)
        if len(g_distance):
            inverse0 = 1.0 / max((x1 - x0) ** 2 + (y1 - y0) ** 2, EPSILON)
            inverse1 = 1.0 / max((x2 - x1) ** 2 + (y2 - y1) ** 2, EPSILON)
            inverse2 = 1.0 / max((x0 - x2) ** 2 + (y0 - y2) ** 2, EPSILON)
            _, share0, share1, share2, rx, ry = _nearest(px, py, x0, y0, x1, y1, x2, y2, inverse0, inverse1, inverse2)
            slope = g_distance[n] * (2.0 if s0 > 0.0 and s1 > 0.0 and s2 > 0.0 else -2.0)
            gx0, gy0 = gx0 + slope * share0 * rx, gy0 + slope * share0 * ry
            gx1, gy1 = gx1 + slope * share1 * rx, gy1 + slope * share1 * ry
            gx2, gy2 = gx2 + slope * share2 * rx, gy2 + slope * share2 * ry
        gradient[a, 0], gradient[a, 1], gradient[a, 2] = gradient[a, 0] + gx0, gradient[a, 1] + gy0, gradient[a, 2] + gz0
        gradient[b, 0], gradient[b, 1], gradient[b, 2] = gradient[b, 0] + gx1, gradient[b, 1] + gy1, gradient[b, 2] + gz1
        gradient[c, 0], gradient[c, 1], gradient[c, 2] = gradient[c, 0] + gx2, gradient[c, 1] + gy2, gradient[c, 2] + gz2


@_exact
def blend(attributes, corners, weights, blended):
    """blended (n,C) = the corners' attributes (M*V,C), weighted."""
    for n in range(len(corners)):
        a, b, c = corners[n, 0], corners[n, 1], corners[n, 2]
        for k in range(attributes.shape[1]):
            blended[n, k] = weights[n, 0] * attributes[a, k] + weights[n, 1] * attributes[b, k] + weights[n, 2] * attributes[c, k]


@_exact
def blend_backward(attributes, corners, weights, upstream, g_attributes, g_weights):
    """Gradients of `blend`, added to g_attributes (M*V,C) and written to g_weights (n,3)."""
    for n in range(len(corners)):
        for corner in range(3):
            vertex, weight, slope = corners[n, corner], weights[n, corner], 0.0
            for k in range(attributes.shape[1]):
                slope += upstream[n, k] * attributes[vertex, k]
                g_attributes[vertex, k] += upstream[n, k] * weight
            g_weights[n, corner] = slope


@_exact
def nearest_face(vertices, faces, cull_sign, face_id, bary, depth):
    """One mesh (V,3), (F,3): write the nearest face, its barycentrics and depth; cull_sign 1 leaves out faces that look away."""
    height, width = face_id.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        top, bottom, left, right, area = face_window(vertices, a, b, c, 0.0, 0, height, width, EPSILON)
        if top > bottom or area * cull_sign < 0.0:
            continue
        x0, y0, z0 = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        x1, y1, z1 = vertices[b, 0], vertices[b, 1], vertices[b, 2]
        x2, y2, z2 = vertices[c, 0], vertices[c, 1], vertices[c, 2]
        # screen barycentrics are linear in x and y; so is 1 / z
        step0, step1 = (y2 - y1) / area, (y0 - y2) / area
        inverse0, inverse1, inverse2 = 1.0 / z0, 1.0 / z1, 1.0 / z2
        for i in range(top, bottom + 1):
            py, px = i + 0.5, left + 0.5
            row0 = (px - x1) * step0 - (py - y1) * (x2 - x1) / area
            row1 = (px - x2) * step1 - (py - y2) * (x0 - x2) / area
            for j in range(left, right + 1):
                w0 = row0 + (j - left) * step0
                w1 = row1 + (j - left) * step1
                w2 = 1.0 - w0 - w1
                # edges count here: a pixel centre exactly between two faces must not become a hole
                if w0 < -1e-9 or w1 < -1e-9 or w2 < -1e-9:
                    continue
                p0, p1, p2 = w0 * inverse0, w1 * inverse1, w2 * inverse2
                z = 1.0 / (p0 + p1 + p2)
                if z < depth[i, j]:
                    depth[i, j] = z
                    face_id[i, j] = f
                    bary[i, j, 0], bary[i, j, 1], bary[i, j, 2] = p0 * z, p1 * z, p2 * z
