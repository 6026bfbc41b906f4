"""Rasterise many meshes into many images: visibility from a kernel, barycentrics differentiable in torch.

Pixel coordinates throughout (see `visibility`). The fragments are those of PyTorch3D; so are the gradients, but for
barycentrics clipped to a face (blur_px > 0), where PyTorch3D's hand-written backward is wrong by orders of magnitude.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from handnet.rendering import pytorch3d_backend
from handnet.rendering.visibility import EPSILON, visible_faces

Backend = Literal["kernel", "pytorch3d"]


class Fragments(NamedTuple):
    """What `rasterize` found. B images, K slots a pixel near to far; empty slots hold -1 in every dense field.

    The n filled slots are also listed: `slots` (n,) into the flattened B*H*W*K, `corners` (n,3) into the flattened
    M*V vertices and `weights` (n,3), their barycentrics, so that work on fragments need not touch the empty ones.
    """

    face_index: Tensor  # (B,H,W,K) int64 into the M * F faces
    barycentric: Tensor  # (B,H,W,K,3) perspective-correct
    depth_m: Tensor  # (B,H,W,K)
    signed_distance_px2: Tensor  # (B,H,W,K) squared distance to the face's outline, negative inside
    slots: Tensor
    corners: Tensor
    weights: Tensor


def rasterize(
    vertices_px: Tensor,
    faces: Tensor,
    image_index: Tensor,
    num_images: int,
    height: int,
    width: int,
    *,
    faces_per_pixel: int = 1,
    blur_px: float = 0.0,
    backend: Backend | None = None,
) -> Fragments:
    """The K nearest faces of every pixel; barycentrics, depth and distance carry gradients to vertices_px.

    vertices_px (M,V,3): x px, y px, z m (camera frame), float32 or float64; faces (M,F,3) int64 into V;
    image_index (M,) int64: the image each mesh belongs to (any number per image, none too).
    blur_px > 0 adds faces whose outline passes closer than blur_px to the pixel centre (barycentrics clipped to the face).
    backend: None = the CPU kernel, or PyTorch3D for CUDA tensors. Faces that reach behind the camera are not drawn.
    Raises ValueError for wrong shapes, indices out of range, or vertices that are not finite.
    """
    _check(vertices_px, faces, image_index, num_images, height, width, faces_per_pixel, blur_px)
    if backend is None:
        backend = "pytorch3d" if vertices_px.is_cuda else "kernel"
    if backend == "pytorch3d":
        face_index = pytorch3d_backend.visible_faces(vertices_px, faces, image_index, num_images, height, width, faces_per_pixel, blur_px)
    else:
        face_index = torch.from_numpy(
            visible_faces(
                vertices_px.detach().double().contiguous().numpy(),
                faces.contiguous().numpy(),
                image_index.numpy(),
                num_images,
                height,
                width,
                faces_per_pixel,
                blur_px,
                num_threads=torch.get_num_threads(),
            )
        )
    slots, corners = _filled(face_index, faces, vertices_px.shape[1])
    weights, depth, distance = _measure(vertices_px, slots, corners, height, width, faces_per_pixel, clip=blur_px > 0)

    def spread(values: Tensor) -> Tensor:
        empty = values.new_full((face_index.numel(), *values.shape[1:]), -1.0)
        return empty.index_copy(0, slots, values).view(*face_index.shape, *values.shape[1:])

    return Fragments(face_index, spread(weights), spread(depth), spread(distance), slots, corners, weights)


def interpolate(fragments: Fragments, attributes: Tensor) -> Tensor:
    """Vertex attributes (M,V,C) at the filled slots -> (n,C), differentiable in both; see `Fragments.slots`."""
    at_corners = attributes.reshape(-1, attributes.shape[-1]).index_select(0, fragments.corners.reshape(-1))
    at_corners = at_corners.view(*fragments.corners.shape, attributes.shape[-1])
    return (fragments.weights[..., None].to(at_corners.dtype) * at_corners).sum(1)


def _filled(face_index: Tensor, faces: Tensor, num_vertices: int) -> tuple[Tensor, Tensor]:
    flat = face_index.reshape(-1)
    slots = (flat >= 0).nonzero(as_tuple=True)[0]
    chosen = flat.index_select(0, slots)
    mesh = chosen // max(faces.shape[1], 1)
    return slots, faces.reshape(-1, 3).index_select(0, chosen) + (mesh * num_vertices)[:, None]


def _measure(
    vertices_px: Tensor, slots: Tensor, corners: Tensor, height: int, width: int, num_slots: int, clip: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Barycentrics (n,3), depth (n,) and signed squared distance (n,) of the filled slots, component by component."""
    flat = vertices_px.reshape(-1, 3).index_select(0, corners.T.reshape(-1)).view(3, -1, 3)
    x, y, z = flat.unbind(-1)  # each (3,n): one row a corner
    pixel = slots // num_slots
    px = (pixel % width).to(x.dtype) + 0.5
    py = (pixel // width % height).to(x.dtype) + 0.5
    dx, dy = px - x, py - y
    edge_x, edge_y = x.roll(-1, 0) - x, y.roll(-1, 0) - y
    cross = dx * edge_y - dy * edge_x  # row k: doubled area of the pixel with edge k -> k + 1
    area = (x[2] - x[0]) * (y[1] - y[0]) - (y[2] - y[0]) * (x[1] - x[0])
    flat_weights = cross.roll(-1, 0) / area
    length2 = (edge_x * edge_x + edge_y * edge_y).clamp(min=EPSILON)
    along = ((dx * edge_x + dy * edge_y) / length2).clamp(0.0, 1.0)
    distance = ((dx - along * edge_x) ** 2 + (dy - along * edge_y) ** 2).min(0).values
    distance = torch.where((flat_weights > 0).all(0), -distance, distance)
    weights = flat_weights * z.roll(-1, 0) * z.roll(1, 0)
    weights = weights / weights.sum(0).clamp(min=EPSILON)
    if clip:
        weights = weights.clamp(min=0.0)
        weights = weights / weights.sum(0).clamp(min=1e-5)
    return weights.T, (weights * z).sum(0), distance


def _check(
    vertices_px: Tensor, faces: Tensor, image_index: Tensor, num_images: int, height: int, width: int, faces_per_pixel: int, blur_px: float
) -> None:
    num_meshes = vertices_px.shape[0]
    if vertices_px.ndim != 3 or vertices_px.shape[2] != 3 or not vertices_px.is_floating_point():
        raise ValueError(f"rasterize: expected vertices_px (M,V,3) float, got {tuple(vertices_px.shape)} {vertices_px.dtype}")
    if faces.ndim != 3 or faces.shape[0] != num_meshes or faces.shape[2] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"rasterize: expected faces ({num_meshes},F,3) int64, got {tuple(faces.shape)} {faces.dtype}")
    if tuple(image_index.shape) != (num_meshes,) or image_index.dtype != torch.int64:
        raise ValueError(f"rasterize: expected image_index ({num_meshes},) int64, got {tuple(image_index.shape)} {image_index.dtype}")
    if num_images < 0 or height < 1 or width < 1 or faces_per_pixel < 1 or not 0 <= blur_px < float("inf"):
        raise ValueError(
            "rasterize: expected num_images >= 0, height, width, faces_per_pixel >= 1 and blur_px >= 0,"
            f" got {num_images}, {height}, {width}, {faces_per_pixel}, {blur_px}"
        )
    for name, index, limit in (("image_index", image_index, num_images), ("faces", faces, vertices_px.shape[1])):
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < limit):
            raise ValueError(f"rasterize: expected {name} in [0, {limit}), got {int(index.min())}..{int(index.max())}")
    if not torch.isfinite(vertices_px).all():
        bad = sorted({int(mesh) for mesh in (~torch.isfinite(vertices_px)).nonzero()[:, 0]})
        raise ValueError(f"rasterize: expected finite vertices_px, got NaN or infinity in meshes {bad[:8]}")
