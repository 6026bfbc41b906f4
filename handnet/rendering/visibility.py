"""Which face covers which pixel: compiled CPU kernels, no gradients.

`visible_faces` lists the K nearest faces of every pixel for `rasterize`; `zbuffer` is the plain one-mesh version.
Coordinates are continuous pixels: the centre of pixel (row i, column j) is (x, y) = (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import NDArray

# PyTorch3D's kEpsilon: the smallest depth (m), and the smallest doubled area in its NDC units
EPSILON = 1e-8


@numba.njit(cache=True, nogil=True)
def _segment_distance2(px: float, py: float, ax: float, ay: float, bx: float, by: float) -> float:
    dx, dy = bx - ax, by - ay
    length2 = dx * dx + dy * dy
    if length2 <= EPSILON:
        return (px - bx) ** 2 + (py - by) ** 2
    t = min(max((dx * (px - ax) + dy * (py - ay)) / length2, 0.0), 1.0)
    return (px - ax - t * dx) ** 2 + (py - ay - t * dy) ** 2


@numba.njit(cache=True, nogil=True)
def _fill(vertices, faces, meshes, starts, num_bands, first_job, last_job, blur_px, min_area, face_index, depth):  # type: ignore[no-untyped-def]
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
                y0, y1, y2 = vertices[m, a, 1], vertices[m, b, 1], vertices[m, c, 1]
                first = math.ceil(max(min(y0, min(y1, y2)) - blur_px - 0.5, row_lo))
                last = math.floor(min(max(y0, max(y1, y2)) + blur_px - 0.5, row_hi - 1))
                if first > last:
                    continue
                z0, z1, z2 = vertices[m, a, 2], vertices[m, b, 2], vertices[m, c, 2]
                # a face that reaches behind the camera has no sound projection
                if min(z0, min(z1, z2)) < EPSILON:
                    continue
                x0, x1, x2 = vertices[m, a, 0], vertices[m, b, 0], vertices[m, c, 0]
                left = math.ceil(max(min(x0, min(x1, x2)) - blur_px - 0.5, 0.0))
                right = math.floor(min(max(x0, max(x1, x2)) + blur_px - 0.5, width - 1.0))
                area = (x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)
                if left > right or abs(area) <= min_area:
                    continue
                for i in range(first, last + 1):
                    py = i + 0.5
                    for j in range(left, right + 1):
                        px = j + 0.5
                        w0 = ((px - x1) * (y2 - y1) - (py - y1) * (x2 - x1)) / area
                        w1 = ((px - x2) * (y0 - y2) - (py - y2) * (x0 - x2)) / area
                        w2 = ((px - x0) * (y1 - y0) - (py - y0) * (x1 - x0)) / area
                        if not (w0 > 0.0 and w1 > 0.0 and w2 > 0.0):
                            if blur2 <= 0.0:
                                continue
                            near = min(_segment_distance2(px, py, x0, y0, x1, y1), _segment_distance2(px, py, x1, y1, x2, y2))
                            if min(near, _segment_distance2(px, py, x2, y2, x0, y0)) >= blur2:
                                continue
                        p0, p1, p2 = w0 * z1 * z2, z0 * w1 * z2, z0 * z1 * w2
                        total = max(p0 + p1 + p2, EPSILON)
                        p0, p1, p2 = p0 / total, p1 / total, p2 / total
                        if blur2 > 0.0:
                            p0, p1, p2 = max(p0, 0.0), max(p1, 0.0), max(p2, 0.0)
                            total = max(p0 + p1 + p2, 1e-5)
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


def visible_faces(
    vertices_px: NDArray[np.float64],
    faces: NDArray[np.int64],
    image_index: NDArray[np.int64],
    num_images: int,
    height: int,
    width: int,
    faces_per_pixel: int = 1,
    blur_px: float = 0.0,
    num_threads: int = 1,
) -> NDArray[np.int64]:
    """The nearest faces of every pixel, near to far.

    vertices_px (M,V,3): x px, y px, z m; faces (M,F,3) into V; image_index (M,) the image each mesh belongs to.
    A face counts for a pixel whose centre lies strictly inside it or, with blur_px > 0, closer to it than blur_px.
    Returns (B,H,W,K) indices into the M * F faces, -1 where there are fewer than K. Inputs must be finite and in range.
    """
    meshes = np.argsort(image_index, kind="stable")
    starts = np.searchsorted(image_index[meshes], np.arange(num_images + 1))
    face_index = np.full((num_images, height, width, faces_per_pixel), -1, np.int64)
    depth = np.full(face_index.shape, np.inf)
    # the kernels release the GIL; plain threads, unlike numba's own, survive a later fork
    num_bands = 1 if num_threads == 1 or num_images >= 4 * num_threads else 4 * num_threads
    num_jobs = num_images * num_bands
    min_area = EPSILON * (min(height, width) / 2) ** 2

    def run(first_job: int, last_job: int) -> None:
        _fill(vertices_px, faces, meshes, starts, num_bands, first_job, last_job, blur_px, min_area, face_index, depth)

    if num_threads == 1:
        run(0, num_jobs)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(run, range(num_jobs), range(1, num_jobs + 1)))
    return face_index


@numba.njit(cache=True, nogil=True)
def _zbuffer(vertices, faces, cull_sign, face_id, bary, depth):  # type: ignore[no-untyped-def]
    height, width = face_id.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0, z0 = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        x1, y1, z1 = vertices[b, 0], vertices[b, 1], vertices[b, 2]
        x2, y2, z2 = vertices[c, 0], vertices[c, 1], vertices[c, 2]
        area = (x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)
        if abs(area) <= EPSILON or area * cull_sign < 0.0 or min(z0, min(z1, z2)) < EPSILON:
            continue
        top = math.ceil(max(min(y0, min(y1, y2)) - 0.5, 0.0))
        bottom = math.floor(min(max(y0, max(y1, y2)) - 0.5, height - 1.0))
        left = math.ceil(max(min(x0, min(x1, x2)) - 0.5, 0.0))
        right = math.floor(min(max(x0, max(x1, x2)) - 0.5, width - 1.0))
        if top > bottom or left > right:
            continue
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


def zbuffer(
    vertices_px: NDArray[np.floating], faces: NDArray[np.integer], height: int, width: int, *, cull_back_faces: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Nearest face of every pixel of one mesh, single-threaded and without gradients.

    vertices_px (V,3): x px, y px, z m; faces (F,3). Faces that reach behind the camera are left out, and with
    cull_back_faces those that are clockwise seen from outside and face away (a closed mesh looks the same, faster).
    Returns face_id (H,W) or -1, perspective-correct barycentrics (H,W,3) and depth in m (H,W), inf where no face is.
    """
    if vertices_px.ndim != 2 or vertices_px.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"zbuffer: expected vertices_px (V,3) and faces (F,3), got {vertices_px.shape} and {faces.shape}")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices_px)):
        raise ValueError(f"zbuffer: expected face indices in [0, {len(vertices_px)}), got {faces.min()}..{faces.max()}")
    if not np.isfinite(vertices_px).all():
        raise ValueError("zbuffer: expected finite vertices_px, got NaN or infinity")
    face_id = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    _zbuffer(
        np.ascontiguousarray(vertices_px, np.float64), np.ascontiguousarray(faces, np.int64), float(cull_back_faces), face_id, bary, depth
    )
    return face_id, bary, depth
