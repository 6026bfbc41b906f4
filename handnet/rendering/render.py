"""Coloured hands in the camera frame to images, silhouettes and depth, with occlusion between the hands of an image.

Pinhole cameras; pixel conventions as in `visibility`. Computed in float32 or better also under autocast.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from handnet.precision import full_precision
from handnet.rendering.checks import check_float, check_meshes
from handnet.rendering.kernels import EPSILON
from handnet.rendering.measuring import blend_corners, measure
from handnet.rendering.pytorch3d_backend import MAX_FACES_PER_PIXEL
from handnet.rendering.rasterize import Backend, chosen_backend, find_faces, rasterize
from handnet.rendering.soft import soft_union


class Rendering(NamedTuple):
    """B images of H x W. Background: colour 0, silhouette 0, hand_index -1, depth 0."""

    image: Tensor  # (B,H,W,3) gradients to colors and, through the barycentrics, to vertices
    silhouette: Tensor  # (B,H,W) 0 or 1, no gradient
    hand_index: Tensor  # (B,H,W) int64 into the M hands, -1 = none
    depth_m: Tensor  # (B,H,W)


@full_precision
def project_px(vertices_m: Tensor, K: Tensor) -> Tensor:
    """Camera frame (M,V,3) m under K (M,3,3) px -> (M,V,3): x px, y px, z m.

    Points at or behind the camera plane keep their depth (so no face with such a corner is drawn) and finite x, y.
    """
    check_float("project_px", "vertices_m", vertices_m, "M", "V", 3)
    check_float("project_px", "K", K, len(vertices_m), 3, 3)
    z = vertices_m[..., 2:]
    rays = vertices_m / torch.where(z > EPSILON, z, torch.ones_like(z))
    rays = torch.cat([rays[..., :2], torch.ones_like(z)], -1)
    return torch.cat([rays @ K[:, :2].transpose(1, 2).to(rays.dtype), z], -1)


@full_precision
def render_hands(
    vertices_m: Tensor,
    faces: Tensor,
    colors: Tensor,
    K: Tensor,
    image_index: Tensor,
    num_images: int,
    height: int,
    width: int,
    *,
    backend: Backend | None = None,
) -> Rendering:
    """Draw M hands into num_images images.

    vertices_m (M,V,3) camera frame; faces (M,F,3) int64; colors (M,V,3) any range; K (M,3,3) px; image_index (M,) int64.
    Backend and errors are those of `rasterize`; colors of another vertex count, and not finite ones, are errors too.
    """
    pixels = (num_images, height, width)
    projected = project_px(vertices_m, K)
    check_float("render_hands", "colors", colors, *vertices_m.shape[:2], 3)
    backend = chosen_backend(backend, vertices_m)
    compiled = backend == "kernel"
    face_index = find_faces(projected, faces, image_index, *pixels, 1, 0.0, backend)
    found = measure(projected, faces, face_index, clip=False, with_distance=False, compiled=compiled)

    def spread(values: Tensor) -> Tensor:
        empty = values.new_zeros((math.prod(pixels), *values.shape[1:]))
        return empty.index_copy(0, found.slots, values).view(*pixels, *values.shape[1:])

    nearest = face_index[..., 0]
    hand_index = torch.where(nearest >= 0, nearest // max(faces.shape[1], 1), nearest)
    image = spread(blend_corners(found.corners, found.weights, colors, compiled=compiled))
    return Rendering(image, (nearest >= 0).to(vertices_m.dtype), hand_index, spread(found.depth_m))


@full_precision
def soft_silhouette(
    vertices_m: Tensor,
    faces: Tensor,
    K: Tensor,
    image_index: Tensor,
    num_images: int,
    height: int,
    width: int,
    *,
    sigma_px: float = 0.7,
    backend: Backend | None = None,
    faces_per_pixel: int = MAX_FACES_PER_PIXEL,
) -> Tensor:
    """Soft union silhouette (B,H,W) in [0,1] with gradients to vertices_m: 1 - prod(1 - sigmoid(-d / sigma_px²)).

    d is the signed squared distance (px²) to a face; faces farther than where the sigmoid is 1e-4 are left out.
    Where faces are smaller than sigma_px many share a pixel, and the outline swells: of a hand at 64 px by 0.8 px with
    sigma_px 0.7, by 0.2 px with 0.25. Against a hard mask take a small one.
    On the CPU every face counts. PyTorch3D's pixels keep the faces_per_pixel nearest, which is fewer than all where a
    small picture holds a large mesh. Other arguments and errors are those of `render_hands`.
    """
    if not 0 < sigma_px < float("inf"):
        raise ValueError(f"soft_silhouette: expected sigma_px > 0, got {sigma_px}")
    blur_px = sigma_px * math.sqrt(math.log(1e4 - 1))
    placed = (project_px(vertices_m, K), faces, image_index, num_images, height, width)
    if chosen_backend(backend, vertices_m) == "kernel":
        check_meshes("soft_silhouette", *placed, blur_px)
        return soft_union(*placed, sigma_px, blur_px)
    fragments = rasterize(*placed, faces_per_pixel=faces_per_pixel, blur_px=blur_px, backend=backend)
    outside = torch.sigmoid(fragments.signed_distance_px2 / sigma_px**2)
    return 1.0 - torch.where(fragments.face_index >= 0, outside, torch.ones_like(outside)).prod(-1)
