"""Rasterise many meshes into many images: visibility from a kernel, barycentrics differentiable in torch.

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
from handnet.rendering.kernels import EPSILON
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
    face_index = find_faces(vertices_px, faces, image_index, num_images, height, width, faces_per_pixel, blur_px, backend)
    slots, corners = filled_slots(face_index, faces, vertices_px.shape[1])
    weights, z, dx, dy, on_screen = weigh_corners(vertices_px, slots, corners, height, width, faces_per_pixel, clip=blur_px > 0)

    def spread(values: Tensor) -> Tensor:
        empty = values.new_full((face_index.numel(), *values.shape[1:]), -1.0)
        return empty.index_copy(0, slots, values).view(*face_index.shape, *values.shape[1:])

    depth, distance = spread((weights * z).sum(0)), spread(_signed_distance_px2(dx, dy, on_screen))
    mesh_size = (vertices_px.shape[0], vertices_px.shape[1])
    return Fragments(face_index, spread(weights.T), depth, distance, slots, corners, weights.T, mesh_size)


@full_precision
def interpolate(fragments: Fragments, attributes: Tensor) -> Tensor:
    """Vertex attributes (M,V,C) at the filled slots -> (n,C), differentiable in both; see `Fragments.slots`."""
    check_float("interpolate", "attributes", attributes, *fragments.mesh_size, "C")
    return blend_corners(fragments.corners, fragments.weights, attributes)


def find_faces(
    vertices_px: Tensor,
    faces: Tensor,
    image_index: Tensor,
    num_images: int,
    height: int,
    width: int,
    faces_per_pixel: int,
    blur_px: float,
    backend: Backend | None,
) -> Tensor:
    """`Fragments.face_index` alone; arguments and errors as of `rasterize`."""
    check_meshes("rasterize", vertices_px, faces, image_index, num_images, height, width, blur_px)
    if faces_per_pixel < 1:
        raise ValueError(f"rasterize: expected faces_per_pixel >= 1, got {faces_per_pixel}")
    if chosen_backend(backend, vertices_px) == "pytorch3d":
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


def filled_slots(face_index: Tensor, faces: Tensor, num_vertices: int) -> tuple[Tensor, Tensor]:
    """`Fragments.slots` and `Fragments.corners`."""
    flat = face_index.reshape(-1)
    slots = (flat >= 0).nonzero(as_tuple=True)[0]
    chosen = flat.index_select(0, slots)
    mesh = chosen // max(faces.shape[1], 1)
    return slots, faces.reshape(-1, 3).index_select(0, chosen) + (mesh * num_vertices)[:, None]


def weigh_corners(
    vertices_px: Tensor, slots: Tensor, corners: Tensor, height: int, width: int, faces_per_pixel: int, *, clip: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of every filled slot: perspective-correct barycentrics and depths of its face's corners, the way from each corner
    to the pixel (x, y), and screen barycentrics; each (3,n), one row a corner."""
    x, y, z = vertices_px.reshape(-1, 3).index_select(0, corners.T.reshape(-1)).view(3, -1, 3).unbind(-1)
    pixel = slots // faces_per_pixel
    dx, dy = (pixel % width).to(x.dtype) + 0.5 - x, (pixel // width % height).to(x.dtype) + 0.5 - y
    edge_x, edge_y = _edges(dx, dy)
    cross = dx * edge_y - dy * edge_x  # row k: doubled area of the pixel with edge k -> k + 1
    on_screen = cross.roll(-1, 0) / (edge_x[0] * edge_y[2] - edge_y[0] * edge_x[2])
    weights = on_screen * z.roll(-1, 0) * z.roll(1, 0)
    weights = weights / weights.sum(0).clamp(min=EPSILON)
    if clip:
        weights = weights.clamp(min=0.0)
        weights = weights / weights.sum(0).clamp(min=1e-5)
    return weights, z, dx, dy, on_screen


def _edges(dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Edge k -> k + 1 of every face, from the ways between its corners and a pixel."""
    return dx - dx.roll(-1, 0), dy - dy.roll(-1, 0)


def _signed_distance_px2(dx: Tensor, dy: Tensor, on_screen: Tensor) -> Tensor:
    """Squared distance (n,) to the outline, negative inside; arguments as `weigh_corners` gives them."""
    edge_x, edge_y = _edges(dx, dy)
    length2 = (edge_x * edge_x + edge_y * edge_y).clamp(min=EPSILON)
    along = ((dx * edge_x + dy * edge_y) / length2).clamp(0.0, 1.0)
    distance = ((dx - along * edge_x) ** 2 + (dy - along * edge_y) ** 2).min(0).values
    return torch.where((on_screen > 0).all(0), -distance, distance)


def blend_corners(corners: Tensor, weights: Tensor, attributes: Tensor) -> Tensor:
    """Attributes (M,V,C) of the corners (n,3), weighted by (n,3) -> (n,C)."""
    at_corners = attributes.reshape(-1, attributes.shape[-1]).index_select(0, corners.reshape(-1))
    return (weights[..., None].to(at_corners.dtype) * at_corners.view(*corners.shape, attributes.shape[-1])).sum(1)
