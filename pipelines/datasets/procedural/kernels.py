"""Compiled loops of the renderer: normals, light visibility, shading of vertices, resolving supersampled pixels.

All single-threaded and without the GIL; lengths in metres, camera frame, linear light.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# share of light that wraps around the terminator, per channel: red travels farthest under the skin
WRAP = (0.30, 0.14, 0.08)


@numba.njit(cache=True, nogil=True)
def vertex_normals(vertices, faces):  # type: ignore[no-untyped-def]
    """(N,3) float32, (F,3) int64 -> area-weighted unit normals (N,3) float32."""
    summed = np.zeros(vertices.shape, np.float32)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for v in (a, b, c):
            summed[v, 0] += nx
            summed[v, 1] += ny
            summed[v, 2] += nz
    for v in range(len(summed)):
        length = math.sqrt(summed[v, 0] ** 2 + summed[v, 1] ** 2 + summed[v, 2] ** 2)
        if length > 0:
            summed[v] /= length
    return summed


@numba.njit(cache=True, nogil=True)
def height_maps(vertices, faces, frames, center, radius_m, size):  # type: ignore[no-untyped-def]
    """Orthographic maps (K,size,size) of how far the mesh reaches toward each light.

    frames (K,3,3): rows u, v, d with d toward the light. Values are (p - center) . d, -1e9 where nothing is.
    """
    maps = np.full((frames.shape[0], size, size), np.float32(-1e9))
    local = np.empty((vertices.shape[0], 3), np.float32)
    scale = np.float32(size / (2 * radius_m))
    for k in range(frames.shape[0]):
        for v in range(len(vertices)):
            x, y, z = vertices[v, 0] - center[0], vertices[v, 1] - center[1], vertices[v, 2] - center[2]
            local[v, 0] = (frames[k, 0, 0] * x + frames[k, 0, 1] * y + frames[k, 0, 2] * z) * scale + np.float32(size / 2)
            local[v, 1] = (frames[k, 1, 0] * x + frames[k, 1, 1] * y + frames[k, 1, 2] * z) * scale + np.float32(size / 2)
            local[v, 2] = frames[k, 2, 0] * x + frames[k, 2, 1] * y + frames[k, 2, 2] * z
        for f in range(faces.shape[0]):
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            x0, y0, x1, y1, x2, y2 = local[a, 0], local[a, 1], local[b, 0], local[b, 1], local[c, 0], local[c, 1]
            left, right = max(math.ceil(min(x0, x1, x2) - 0.5), 0), min(math.floor(max(x0, x1, x2) - 0.5), size - 1)
            top, bottom = max(math.ceil(min(y0, y1, y2) - 0.5), 0), min(math.floor(max(y0, y1, y2) - 0.5), size - 1)
            area = (x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)
            if left > right or top > bottom or abs(area) < 1e-12:
                continue
            for i in range(top, bottom + 1):
                for j in range(left, right + 1):
                    px, py = j + 0.5, i + 0.5
                    w0 = ((px - x1) * (y2 - y1) - (py - y1) * (x2 - x1)) / area
                    w1 = ((px - x2) * (y0 - y2) - (py - y2) * (x0 - x2)) / area
                    if w0 >= 0 and w1 >= 0 and w0 + w1 <= 1:
                        height = w0 * local[a, 2] + w1 * local[b, 2] + (1 - w0 - w1) * local[c, 2]
                        if height > maps[k, i, j]:
                            maps[k, i, j] = height
    return maps


@numba.njit(cache=True, nogil=True)
def seen(face_id, faces, num_vertices):  # type: ignore[no-untyped-def]
    """Which faces own a pixel (F,) and which vertices belong to them (N,), both bool; nothing else needs shading."""
    face_seen = np.zeros(faces.shape[0], np.bool_)
    vertex_seen = np.zeros(num_vertices, np.bool_)
    for i in range(face_id.shape[0]):
        for j in range(face_id.shape[1]):
            if face_id[i, j] >= 0:
                face_seen[face_id[i, j]] = True
    for f in range(faces.shape[0]):
        if face_seen[f]:
            for corner in range(3):
                vertex_seen[faces[f, corner]] = True
    return face_seen, vertex_seen


@numba.njit(cache=True, nogil=True)
def light_shares(vertices, normals, wanted, frames, maps, center, radius_m, bias_m, soft_m):  # type: ignore[no-untyped-def]
    """Share (N,K) of each light that other parts let through to the wanted vertices; `maps` from `height_maps`.

    Four comparisons, bilinear. Toward and past the terminator the bias grows by up to soft_m: light seeps through the
    edge of a finger, and wrapped light must not end in a hard shadow of the surface itself.
    """
    size = maps.shape[1]
    scale, half = np.float32(size / (2 * radius_m)), np.float32(size / 2 - 0.5)
    shares = np.ones((vertices.shape[0], frames.shape[0]), np.float32)
    for v in range(vertices.shape[0]):
        if not wanted[v]:
            continue
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        # a little off the surface, so that it does not shade itself
        x = vertices[v, 0] - center[0] + np.float32(0.0015) * nx
        y = vertices[v, 1] - center[1] + np.float32(0.0015) * ny
        z = vertices[v, 2] - center[2] + np.float32(0.0015) * nz
        for k in range(frames.shape[0]):
            frame, height_map = frames[k], maps[k]
            cosine = nx * frame[2, 0] + ny * frame[2, 1] + nz * frame[2, 2]
            if cosine < -WRAP[0]:
                continue
            column = (frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z) * scale + half
            row = (frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z) * scale + half
            if not (0 <= column < size - 1 and 0 <= row < size - 1):
                continue
            height = frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + bias_m + soft_m * max(np.float32(0.25) - cosine, np.float32(0))
            j, i = int(column), int(row)
            fx, fy = column - j, row - i
            lit = np.float32(0)
            if height_map[i, j] <= height:
                lit += (1 - fx) * (1 - fy)
            if height_map[i, j + 1] <= height:
                lit += fx * (1 - fy)
            if height_map[i + 1, j] <= height:
                lit += (1 - fx) * fy
            if height_map[i + 1, j + 1] <= height:
                lit += fx * fy
            shares[v, k] = lit
    return shares


@numba.njit(cache=True, nogil=True)
def smoothed(values, faces, face_seen, num_passes):  # type: ignore[no-untyped-def]
    """Average values (N,K) over the seen faces around each vertex, num_passes times."""
    for _ in range(num_passes):
        total = np.zeros(values.shape, np.float32)
        count = np.zeros(values.shape[0], np.float32)
        for f in range(faces.shape[0]):
            if not face_seen[f]:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            for k in range(values.shape[1]):
                mean = (values[a, k] + values[b, k] + values[c, k]) * np.float32(1 / 3)
                total[a, k] += mean
                total[b, k] += mean
                total[c, k] += mean
            count[a] += 1
            count[b] += 1
            count[c] += 1
        for v in range(values.shape[0]):
            if count[v] > 0:
                for k in range(values.shape[1]):
                    total[v, k] /= count[v]
        values = total
    return values


@numba.njit(cache=True, nogil=True)
def shade_vertices(  # type: ignore[no-untyped-def]
    vertices, normals, wanted, albedo, gloss, sky_directions, sky_color, sky_shares, key_directions, key_color, key_shares
):
    """Linear colours (N,3) of skin or cloth at the wanted vertices under K sky directions and L key lights.

    albedo (N,3) linear, gloss (N,) in [0, 1]; shares from `light_shares`; colours are irradiance when facing the light.
    """
    result = np.zeros((vertices.shape[0], 3), np.float32)
    for v in range(vertices.shape[0]):
        if not wanted[v]:
            continue
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        r, g, b = np.float32(0), np.float32(0), np.float32(0)
        lost_r, lost_g, lost_b = np.float32(0), np.float32(0), np.float32(0)
        for k in range(sky_directions.shape[0]):
            cosine = nx * sky_directions[k, 0] + ny * sky_directions[k, 1] + nz * sky_directions[k, 2]
            if cosine <= 0:
                continue
            lit = cosine * sky_shares[v, k]
            lost = cosine - lit
            r += lit * sky_color[k, 0]
            g += lit * sky_color[k, 1]
            b += lit * sky_color[k, 2]
            lost_r += lost * sky_color[k, 0]
            lost_g += lost * sky_color[k, 1]
            lost_b += lost * sky_color[k, 2]
        # what the sky does not reach is lit by the skin around it
        r += np.float32(0.55) * albedo[v, 0] * lost_r
        g += np.float32(0.55) * albedo[v, 1] * lost_g
        b += np.float32(0.55) * albedo[v, 2] * lost_b
        away = -1 / math.sqrt(vertices[v, 0] ** 2 + vertices[v, 1] ** 2 + vertices[v, 2] ** 2)
        ex, ey, ez = vertices[v, 0] * away, vertices[v, 1] * away, vertices[v, 2] * away
        facing = max(nx * ex + ny * ey + nz * ez, 0.0)
        # dielectric at a grazing angle: the sky's reflection brightens the rim
        rim = 0.028 + 0.25 * gloss[v] * (1 - facing) ** 5
        shine_r, shine_g, shine_b = rim * r, rim * g, rim * b
        exponent = 8.0 + 60.0 * gloss[v] * gloss[v]
        strength = (0.02 + 0.06 * gloss[v]) * (exponent + 8) / 25.0
        for k in range(key_directions.shape[0]):
            lx, ly, lz = key_directions[k, 0], key_directions[k, 1], key_directions[k, 2]
            cosine = nx * lx + ny * ly + nz * lz
            if cosine <= -WRAP[0]:
                continue
            lit = key_shares[v, k]
            r += lit * key_color[k, 0] * (cosine + WRAP[0]) / (1 + WRAP[0])
            g += lit * key_color[k, 1] * max((cosine + WRAP[1]) / (1 + WRAP[1]), 0.0)
            b += lit * key_color[k, 2] * max((cosine + WRAP[2]) / (1 + WRAP[2]), 0.0)
            if cosine > 0:
                hx, hy, hz = lx + ex, ly + ey, lz + ez
                length = math.sqrt(hx * hx + hy * hy + hz * hz)
                if length > 1e-6:
                    half = max((nx * hx + ny * hy + nz * hz) / length, 0.0)
                    shine = lit * cosine * strength * half**exponent
                    shine_r += shine * key_color[k, 0]
                    shine_g += shine * key_color[k, 1]
                    shine_b += shine * key_color[k, 2]
        result[v, 0] = albedo[v, 0] * r + shine_r
        result[v, 1] = albedo[v, 1] * g + shine_g
        result[v, 2] = albedo[v, 2] * b + shine_b
    return result


@numba.njit(cache=True, nogil=True)
def resolve(face_id, bary, faces, colors, num_hand_faces, factor):  # type: ignore[no-untyped-def]
    """Average factor x factor samples to pixels: linear colour (H,W,3) times coverage, coverage of anything, of the hand.

    Faces below num_hand_faces are the hand's; the others (forearm, sleeve) cover but do not count as hand.
    """
    height, width = face_id.shape[0] // factor, face_id.shape[1] // factor
    image = np.zeros((height, width, 3), np.float32)
    coverage = np.zeros((height, width), np.float32)
    hand = np.zeros((height, width), np.float32)
    share = np.float32(1.0 / (factor * factor))
    for i in range(height * factor):
        for j in range(width * factor):
            f = face_id[i, j]
            if f < 0:
                continue
            row, column = i // factor, j // factor
            for corner in range(3):
                weight = bary[i, j, corner] * share
                v = faces[f, corner]
                for channel in range(3):
                    image[row, column, channel] += weight * colors[v, channel]
            coverage[row, column] += share
            if f < num_hand_faces:
                hand[row, column] += share
    return image, coverage, hand


@numba.njit(cache=True, nogil=True)
def composite(background, to_linear, gain, light, coverage, top, left):  # type: ignore[no-untyped-def]
    """A rendering (h,w,3), already times its coverage, at (top, left) over an 8-bit background (H,W,3): linear (H,W,3).

    to_linear (256,) decodes the background, gain (3,) lights it.
    """
    result = np.empty(background.shape, np.float32)
    height, width = coverage.shape
    for i in range(background.shape[0]):
        for j in range(background.shape[1]):
            row, column = i - top, j - left
            inside = 0 <= row < height and 0 <= column < width
            through = 1 - coverage[row, column] if inside else np.float32(1)
            for channel in range(3):
                value = to_linear[background[i, j, channel]] * gain[channel] * through
                if inside:
                    value += light[row, column, channel]
                result[i, j, channel] = value
    return result


@numba.njit(cache=True, nogil=True)
def develop(linear, exposure, curve, max_light, noise, strength):  # type: ignore[no-untyped-def]
    """Linear light (H,W,3) -> 8-bit photograph: exposure, display curve, sensor noise.

    curve (S,) holds display values 0..255 over the square root of light up to max_light; noise (H,W,3,2) random bytes,
    two of which make a triangular variable; strength is its standard deviation in display steps.
    """
    result = np.empty(linear.shape, np.uint8)
    last = np.float32(curve.shape[0] - 1)
    scale = np.float32(strength / 104.5)  # standard deviation of the sum of two bytes
    for i in range(linear.shape[0]):
        for j in range(linear.shape[1]):
            for channel in range(3):
                light = min(max(linear[i, j, channel] * exposure, np.float32(0)), max_light)
                value = curve[int(math.sqrt(light / max_light) * last + np.float32(0.5))]
                value += scale * (np.float32(noise[i, j, channel, 0]) + np.float32(noise[i, j, channel, 1]) - np.float32(255))
                result[i, j, channel] = np.uint8(min(max(value + np.float32(0.5), np.float32(0)), np.float32(255)))
    return result
