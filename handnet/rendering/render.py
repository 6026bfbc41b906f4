"""Coloured hands in the camera frame to images, silhouettes and depth, with occlusion between the hands of an image.

Pinhole cameras; pixel conventions as in `visibility`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from handnet.rendering.rasterize import interpolate, rasterize
from handnet.rendering.visibility import EPSILON


class Rendering(NamedTuple):
    """B images of H x W. Background: colour 0, silhouette 0, hand_index -1, depth 0."""

    image: Tensor  # (B,H,W,3) gradients to colors and, through the barycentrics, to vertices
    silhouette: Tensor  # (B,H,W) 0 or 1, no gradient
    hand_index: Tensor  # (B,H,W) int64 into the M hands, -1 = none
    depth_m: Tensor  # (B,H,W)


def project_px(vertices_m: Tensor, K: Tensor) -> Tensor:
    """Camera frame (M,V,3) m under K (M,3,3) px -> (M,V,3): x px, y px, z m.

    Points at or behind the camera plane keep their depth (so no face with such a corner is drawn) and finite x, y.
    """
    z = vertices_m[..., 2:]
    rays = vertices_m / torch.where(z > EPSILON, z, torch.ones_like(z))
    rays = torch.cat([rays[..., :2], torch.ones_like(z)], -1)
    return torch.cat([rays @ K[:, :2].transpose(1, 2).to(rays.dtype), z], -1)


def render_hands(
    vertices_m: Tensor,
    faces: Tensor,
    colors: Tensor,
    K: Tensor,
    image_index: Tensor,
    num_images: int,
    height: int,
    width: int,
) -> Rendering:
    """Draw M hands into num_images images.

    vertices_m (M,V,3) camera frame; faces (M,F,3) int64; colors (M,V,3) any range; K (M,3,3) px; image_index (M,) int64.
    Errors are those of `rasterize`.
    """
    fragments = rasterize(project_px(vertices_m, K), faces, image_index, num_images, height, width)
    pixels = (num_images, height, width)
    color = interpolate(fragments, colors)
    image = color.new_zeros((math.prod(pixels), 3)).index_copy(0, fragments.slots, color).view(*pixels, 3)
    face_index = fragments.face_index[..., 0]
    found = face_index >= 0
    hand_index = torch.where(found, face_index // max(faces.shape[1], 1), face_index)
    depth = torch.where(found, fragments.depth_m[..., 0], torch.zeros((), dtype=vertices_m.dtype, device=vertices_m.device))
    return Rendering(image, found.to(vertices_m.dtype), hand_index, depth)


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
    faces_per_pixel: int = 32,
) -> Tensor:
    """Soft union silhouette (B,H,W) in [0,1] with gradients to vertices_m: 1 - prod(1 - sigmoid(-d / sigma_px²)).

    d is the signed squared distance (px²) to a face; faces farther than where the sigmoid is 1e-4 are left out.
    """
    if not sigma_px > 0:
        raise ValueError(f"soft_silhouette: expected sigma_px > 0, got {sigma_px}")
    blur_px = sigma_px * math.sqrt(math.log(1e4 - 1))
    fragments = rasterize(
        project_px(vertices_m, K), faces, image_index, num_images, height, width, faces_per_pixel=faces_per_pixel, blur_px=blur_px
    )
    outside = torch.sigmoid(fragments.signed_distance_px2 / sigma_px**2)
    return 1.0 - torch.where(fragments.face_index >= 0, outside, torch.ones_like(outside)).prod(-1)
