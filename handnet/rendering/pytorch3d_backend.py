"""Visibility from PyTorch3D behind our pixel coordinates: the CUDA path, and the oracle of the CPU kernel's tests.

PyTorch3D's NDC: x left, y up, the shorter image side spans [-1, 1], pixels are square, z is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# PyTorch3D's CUDA kernels keep no more faces of a pixel.
MAX_FACES_PER_PIXEL = 150


def px_to_ndc(vertices_px: Tensor, height: int, width: int) -> Tensor:
    """(...,3) x px, y px, z -> PyTorch3D NDC of an image of height x width, z unchanged."""
    shorter = min(height, width)
    scale = vertices_px.new_tensor([-2.0 / shorter, -2.0 / shorter, 1.0])
    return vertices_px * scale + vertices_px.new_tensor([width / shorter, height / shorter, 0.0])


@torch.no_grad()
def visible_faces(
    vertices_px: Tensor,
    faces: Tensor,
    image_index: Tensor,
    num_images: int,
    height: int,
    width: int,
    faces_per_pixel: int,
    blur_px: float,
) -> Tensor:
    """As `visibility.visible_faces`, on tensors of any device. (B,H,W,K) int64, -1 where there is no face.

    Nothing is copied to the host: the packed lists that PyTorch3D's `Meshes` would make are made by sorting.
    """
    # imported here: it takes seconds, and the CPU path does not need it
    from pytorch3d import _C

    (num_meshes, num_vertices, _), num_faces, device = vertices_px.shape, faces.shape[1], faces.device
    if num_images == 0 or num_meshes == 0 or num_faces == 0:
        return torch.full((num_images, height, width, faces_per_pixel), -1, device=device)
    order = torch.argsort(image_index, stable=True)
    starts = torch.searchsorted(image_index[order], torch.arange(num_images + 1, device=device))
    corners = (faces + num_vertices * torch.arange(num_meshes, device=device)[:, None, None])[order].reshape(-1, 3)
    packed = _C.rasterize_meshes(
        px_to_ndc(vertices_px.float(), height, width).reshape(-1, 3)[corners],
        starts[:-1] * num_faces,
        starts.diff() * num_faces,
        torch.full((len(corners),), -1, device=device),  # no face was cut at the camera's plane
        (height, width),
        (2.0 * blur_px / min(height, width)) ** 2,
        faces_per_pixel,
        _bin_px(height, width) if vertices_px.is_cuda else 0,
        max(10000, num_faces),  # faces of a tile at most: six hands, or one larger mesh
        True,  # perspective correct
        blur_px > 0,  # barycentrics clipped to the face
        False,  # faces seen from behind count
    )[0]
    # packed counts the faces image by image; ours stay in the order of the meshes
    ours = order[packed.clamp(min=0) // num_faces] * num_faces + packed % num_faces
    return torch.where(packed >= 0, ours, packed)


def _bin_px(height: int, width: int) -> int:
    """Side of the tiles to which PyTorch3D first assigns faces, by its own rule."""
    return 2 ** max(math.ceil(math.log2(max(height, width))) - 4, 3 if max(height, width) <= 64 else 4)
