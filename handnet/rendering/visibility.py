"""Which face covers which pixel: the compiled CPU kernels behind numpy arrays, no gradients.

`visible_faces` lists the K nearest faces of every pixel for `rasterize`; `zbuffer` is the plain one-mesh version.
Coordinates are continuous pixels: the centre of pixel (row i, column j) is (x, y) = (j + 0.5, i + 0.5).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from handnet.rendering import kernels
from handnet.rendering.kernels import EPSILON


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
    meshes, starts = meshes_by_image(image_index, num_images)
    face_index = np.full((num_images, height, width, faces_per_pixel), -1, np.int64)
    depth = np.full(face_index.shape, np.inf)
    num_bands = num_row_bands(num_images, num_threads)
    min_area = smallest_area(height, width)

    def run(first_job: int, last_job: int) -> None:
        kernels.fill(vertices_px, faces, meshes, starts, num_bands, first_job, last_job, blur_px, min_area, face_index, depth)

    run_jobs(run, num_images * num_bands, num_threads)
    return face_index


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
    kernels.nearest_face(
        np.ascontiguousarray(vertices_px, np.float64), np.ascontiguousarray(faces, np.int64), float(cull_back_faces), face_id, bary, depth
    )
    return face_id, bary, depth


def meshes_by_image(image_index: NDArray[np.int64], num_images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Meshes in the order of their images, each image's in their own order; image b has meshes[starts[b] : starts[b + 1]]."""
    meshes = np.argsort(image_index, kind="stable")
    return meshes, np.searchsorted(image_index[meshes], np.arange(num_images + 1))


def smallest_area(height: int, width: int) -> float:
    """Doubled area in px² up to which a face counts as degenerate, as in PyTorch3D."""
    return float(EPSILON * (min(height, width) / 2) ** 2)


def num_row_bands(num_images: int, num_threads: int) -> int:
    """Bands that each image's rows are cut into, so that every thread has work."""
    return 1 if num_threads == 1 or num_images >= 4 * num_threads else 4 * num_threads


def run_jobs(run: Callable[[int, int], None], num_jobs: int, num_threads: int) -> None:
    """`run(first, last)` over jobs 0..num_jobs - 1. The kernels release the GIL; plain threads, unlike numba's own,
    survive a later fork."""
    if num_threads == 1 or num_jobs < 2:
        run(0, num_jobs)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(run, range(num_jobs), range(1, num_jobs + 1)))
