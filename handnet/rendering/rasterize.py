"""Rasterise many meshes into many images: which faces a pixel sees, and differentiable barycentrics, depth and distance.

Pixel coordinates throughout (see `visibility`). The fragments are those of PyTorch3D; so are the gradients, but with
blur_px > 0 at pixels beside a sliver where its extrapolated perspective barycentrics have no positive sum: PyTorch3D's
hand-written backward overlooks the clamp that its forward pass applies there.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from handnet.precision import full_precision
from handnet.rendering import pytorch3d_backend
from handnet.rendering.checks import check_float, check_meshes
from handnet.rendering.measuring import blend_corners, measure
from handnet.rendering.visibility import visible_faces

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
    mesh_size: tuple[int, int]  # M, V


@full_precision
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
    Raises ValueError for wrong shapes, and on the CPU for indices out of range or vertices that are not finite.
    """
    backend = chosen_backend(backend, vertices_px)
    face_index = find_faces(vertices_px, faces, image_index, num_images, height, width, faces_per_pixel, blur_px, backend)
    found = measure(vertices_px, faces, face_index, clip=blur_px > 0, with_distance=True, compiled=backend == "kernel")

    def spread(values: Tensor) -> Tensor:
        empty = values.new_full((face_index.numel(), *values.shape[1:]), -1.0)
        return empty.index_copy(0, found.slots, values).view(*face_index.shape, *values.shape[1:])

    return Fragments(
        face_index,
        spread(found.weights),
        spread(found.depth_m),
        spread(found.signed_distance_px2),
        found.slots,
        found.corners,
        found.weights,
        (vertices_px.shape[0], vertices_px.shape[1]),
    )


@full_precision
def interpolate(fragments: Fragments, attributes: Tensor) -> Tensor:
    """Vertex attributes (M,V,C) at the filled slots -> (n,C), differentiable in both; see `Fragments.slots`."""
    check_float("interpolate", "attributes", attributes, *fragments.mesh_size, "C")
    return blend_corners(fragments.corners, fragments.weights, attributes, compiled=not attributes.is_cuda)


def find_faces(
    vertices_px: Tensor,
    faces: Tensor,
    image_index: Tensor,
    num_images: int,
    height: int,
    width: int,
    faces_per_pixel: int,
    blur_px: float,
    backend: Backend,
) -> Tensor:
    """`Fragments.face_index` alone; arguments and errors as of `rasterize`."""
    check_meshes("rasterize", vertices_px, faces, image_index, num_images, height, width, blur_px)
    if faces_per_pixel < 1:
        raise ValueError(f"rasterize: expected faces_per_pixel >= 1, got {faces_per_pixel}")
    if backend == "pytorch3d":
        return pytorch3d_backend.visible_faces(vertices_px, faces, image_index, num_images, height, width, faces_per_pixel, blur_px)
    return torch.from_numpy(
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


def chosen_backend(backend: Backend | None, vertices: Tensor) -> Backend:
    """None = PyTorch3D for CUDA tensors, our kernels for others, which they alone can read."""
    if backend not in (None, "kernel", "pytorch3d"):
        raise ValueError(f"backend: expected 'kernel', 'pytorch3d' or None, got {backend!r}")
    if backend == "kernel" and vertices.is_cuda:
        raise ValueError("backend: expected tensors on the CPU for 'kernel', got CUDA")
    return backend or ("pytorch3d" if vertices.is_cuda else "kernel")
