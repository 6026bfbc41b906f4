"""What the filled slots of a raster hold: barycentrics, depth, distance and blended vertex attributes, with their gradients.

Compiled passes on the CPU; the same in torch's own operations for other devices and for PyTorch3D's route.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from handnet.rendering import kernels
from handnet.rendering.kernels import CLIP_EPSILON, EPSILON


class Measured(NamedTuple):
    """The n filled slots of face_index (B,H,W,K)."""

    slots: Tensor  # (n,) into the flattened B*H*W*K
    corners: Tensor  # (n,3) into the flattened M*V vertices
    weights: Tensor  # (n,3) perspective-correct barycentrics
    depth_m: Tensor  # (n,)
    signed_distance_px2: Tensor  # (n,), or (0,) if it was not asked for


def measure(vertices_px: Tensor, faces: Tensor, face_index: Tensor, *, clip: bool, with_distance: bool, compiled: bool) -> Measured:
    """vertices_px (M,V,3), faces (M,F,3), face_index (B,H,W,K) into M*F; differentiable in vertices_px.

    clip: barycentrics clipped to the face. compiled: by the CPU's kernels (differentiable once), else by torch's operations.
    """
    flat = face_index.reshape(-1)
    slots = (flat >= 0).nonzero(as_tuple=True)[0]
    _, height, width, num_slots = face_index.shape
    if compiled:
        return Measured(slots, *_Measure.apply(vertices_px, faces, flat, slots, height, width, num_slots, clip, with_distance))
    chosen = flat.index_select(0, slots)
    mesh = chosen // max(faces.shape[1], 1)
    corners = faces.reshape(-1, 3).index_select(0, chosen) + (mesh * vertices_px.shape[1])[:, None]
    return Measured(slots, corners, *_measure_plainly(vertices_px, slots, corners, height, width, num_slots, clip, with_distance))


def blend_corners(corners: Tensor, weights: Tensor, attributes: Tensor, *, compiled: bool) -> Tensor:
    """Attributes (M,V,C) of the corners (n,3), weighted by (n,3) -> (n,C), differentiable in both."""
    weights = weights.to(attributes.dtype)
    if compiled:
        blended: Tensor = _Blend.apply(corners, weights, attributes)
        return blended
    at_corners = attributes.reshape(-1, attributes.shape[-1]).index_select(0, corners.reshape(-1))
    return (weights[..., None] * at_corners.view(*corners.shape, attributes.shape[-1])).sum(1)


class _Measure(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vertices_px: Tensor,
        faces: Tensor,
        face_index: Tensor,
        slots: Tensor,
        height: int,
        width: int,
        num_slots: int,
        clip: bool,
        with_distance: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        num = len(slots)
        corners, weights = torch.empty(num, 3, dtype=torch.int64), torch.empty(num, 3, dtype=torch.float64)
        depth, distance = weights.new_empty(num), weights.new_empty(num if with_distance else 0)
        kernels.measure(
            vertices_px.detach().double().contiguous().numpy(),
            faces.contiguous().numpy(),
            face_index.numpy(),
            slots.numpy(),
            height,
            width,
            num_slots,
            clip,
            corners.numpy(),
            weights.numpy(),
            depth.numpy(),
            distance.numpy(),
        )
        ctx.save_for_backward(vertices_px, corners, slots)
        ctx.mark_non_differentiable(corners)
        ctx.size = (height, width, num_slots, clip)
        return corners, weights.to(vertices_px.dtype), depth.to(vertices_px.dtype), distance.to(vertices_px.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, g_weights: Tensor, g_depth: Tensor, g_distance: Tensor) -> tuple[Tensor | None, ...]:
        vertices_px, corners, slots = ctx.saved_tensors
        vertices = vertices_px.detach().double().reshape(-1, 3)
        gradient = torch.zeros_like(vertices)
        g_weights, g_depth, g_distance = (g.double().contiguous() for g in (g_weights, g_depth, g_distance))
        height, width, num_slots, clip = ctx.size
        kernels.measure_backward(
            vertices.numpy(),
            corners.numpy(),
            slots.numpy(),
            height,
            width,
            num_slots,
            clip,
            g_weights.numpy(),
            g_depth.numpy(),
            g_distance.numpy(),
            gradient.numpy(),
        )
        return gradient.view_as(vertices_px).to(vertices_px.dtype), *[None] * 8


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, corners: Tensor, weights: Tensor, attributes: Tensor) -> Tensor:
        blended = attributes.new_empty(len(corners), attributes.shape[-1])
        flat = attributes.detach().reshape(-1, attributes.shape[-1])
        kernels.blend(flat.numpy(), corners.numpy(), weights.detach().contiguous().numpy(), blended.numpy())
        ctx.save_for_backward(corners, weights, attributes)
        return blended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, Tensor]:
        corners, weights, attributes = ctx.saved_tensors
        flat = attributes.detach().reshape(-1, attributes.shape[-1])
        g_attributes, g_weights = torch.zeros_like(flat), torch.empty_like(weights, memory_format=torch.contiguous_format)
        given = weights.detach().contiguous().numpy()
        kernels.blend_backward(flat.numpy(), corners.numpy(), given, upstream.contiguous().numpy(), g_attributes.numpy(), g_weights.numpy())
        return None, g_weights, g_attributes.view_as(attributes)


def _measure_plainly(
    vertices_px: Tensor, slots: Tensor, corners: Tensor, height: int, width: int, num_slots: int, clip: bool, with_distance: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Barycentrics (n,3), depth (n,) and signed squared distance (n,); inside, rows of three stand for the corners."""
    x, y, z = vertices_px.reshape(-1, 3).index_select(0, corners.T.reshape(-1)).view(3, -1, 3).unbind(-1)
    pixel = slots // num_slots
    dx, dy = (pixel % width).to(x.dtype) + 0.5 - x, (pixel // width % height).to(x.dtype) + 0.5 - y
    edge_x, edge_y = dx - dx.roll(-1, 0), dy - dy.roll(-1, 0)  # from corner k to k + 1
    cross = dx * edge_y - dy * edge_x  # doubled area of the pixel with edge k
    on_screen = cross.roll(-1, 0) / (edge_x[0] * edge_y[2] - edge_y[0] * edge_x[2])
    weights = on_screen * z.roll(-1, 0) * z.roll(1, 0)
    weights = weights / weights.sum(0).clamp(min=EPSILON)
    if clip:
        weights = weights.clamp(min=0.0)
        weights = weights / weights.sum(0).clamp(min=CLIP_EPSILON)
    depth = (weights * z).sum(0)
    if not with_distance:
        return weights.T, depth, depth.new_zeros(0)
    along = ((dx * edge_x + dy * edge_y) / (edge_x * edge_x + edge_y * edge_y).clamp(min=EPSILON)).clamp(0.0, 1.0)
    distance = ((dx - along * edge_x) ** 2 + (dy - along * edge_y) ** 2).min(0).values
    return weights.T, depth, torch.where((on_screen > 0).all(0), -distance, distance)
