"""Visibility from PyTorch3D behind our pixel coordinates: the CUDA path, and the oracle of the CPU kernel's tests.

PyTorch3D's NDC: x left, y up, the shorter image side spans [-1, 1], pixels are square, z is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """As `visibility.visible_faces`, on tensors of any device. (B,H,W,K) int64, -1 where there is no face."""
    # imported here: it takes seconds, and the CPU path does not need it
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    num_faces, num_vertices = faces.shape[1], vertices_px.shape[1]
    if num_images == 0 or vertices_px.shape[0] == 0 or num_faces == 0:
        return torch.full((num_images, height, width, faces_per_pixel), -1, device=vertices_px.device)
    ndc = px_to_ndc(vertices_px.float(), height, width)
    members = [(image_index == image).nonzero(as_tuple=True)[0] for image in range(num_images)]
    offset = num_vertices * torch.arange(vertices_px.shape[0], device=faces.device)[:, None, None]
    meshes = Meshes(
        verts=[ndc[index].reshape(-1, 3) for index in members],
        faces=[(faces[index] + offset[: len(index)]).reshape(-1, 3) for index in members],
    )
    packed = rasterize_meshes(
        meshes,
        image_size=(height, width),
        blur_radius=(2.0 * blur_px / min(height, width)) ** 2,
        faces_per_pixel=faces_per_pixel,
        perspective_correct=True,
        clip_barycentric_coords=blur_px > 0,
    )[0]
    # PyTorch3D packs the faces image by image; ours stay in the order of the meshes
    order = torch.cat(members)
    ours = order[packed.clamp(min=0) // num_faces] * num_faces + packed % num_faces
    return torch.where(packed >= 0, ours, packed)
