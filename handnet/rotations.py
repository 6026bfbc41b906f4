"""Rotations in torch: axis-angle, matrix and the continuous 6D form, batched over leading axes.

Matrices act on column vectors (x' = R x), angles are radians; everything is differentiable, at the identity too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from handnet.differentiation import needs_plain_operations


def _expect_last(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    # while an ONNX trace is made, lengths are tensors, and comparing them only gives warnings
    if not torch.jit.is_tracing() and value.shape[-len(shape) :] != shape:
        raise ValueError(f"{name}: expected shape (..., {', '.join(map(str, shape))}), got {tuple(value.shape)}")


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula: (..., 3) rotation vectors in radians -> (..., 3, 3) matrices.

    Differentiable any number of times. Raises ValueError if the last axis is not 3.
    """
    _expect_last("axis_angle", axis_angle, (3,))
    return rodrigues(axis_angle).matrix if needs_plain_operations() else _Rodrigues.apply(axis_angle)


class Turns(NamedTuple):
    """Rotation vectors of angles t, their matrices, and what a derivative of them is made of."""

    v: Tensor  # (..., 3)
    matrix: Tensor  # (..., 3, 3)
    squared: Tensor  # (..., 1) t^2
    sine: Tensor  # (..., 1) sin t / t
    versine: Tensor  # (..., 1) (1 - cos t) / t^2


def rodrigues(v: Tensor) -> Turns:
    """`axis_angle_to_matrix` in plain operations, with its intermediate results."""
    # The smallest angle stands for zero: below it the formulas are exact to rounding, and unlike 0 it can be divided by,
    # so that values and gradients need no branch at the identity.
    squared = (v * v).sum(-1, keepdim=True) + torch.finfo(v.dtype).eps ** 2
    angle = squared.sqrt()
    half = (0.5 * angle).sin() / angle
    sine, versine = angle.sin() / angle, 2 * half * half
    # R = cos t I + (sin t / t) [v] + ((1 - cos t) / t^2) v v^T
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    cross = torch.linalg.cross(eye.expand(*v.shape, 3), v[..., None, :], dim=-1)
    outer = (versine * v)[..., :, None] * v[..., None, :]
    matrix = outer.addcmul(sine[..., None], cross).addcmul(angle.cos()[..., None], eye)
    return Turns(v, matrix, squared, sine, versine)


def rodrigues_gradient(turns: Turns, grad: Tensor) -> Tensor:
    """Gradient (..., 3) of the rotation vectors from that of their matrices (..., 3, 3), by hand: a few operations."""
    v, matrix, squared, sine, versine = turns
    # dR = [J dv] R with the left Jacobian J = (sin t / t) I + ((1 - cos t) / t^2) [v] + ((1 - sin t / t) / t^2) v v^T
    turn = torch.linalg.cross(matrix, grad, dim=-2).sum(-1)
    along = (1 - sine) / squared * (v * turn).sum(-1, keepdim=True)
    return torch.addcmul(sine * turn, versine, torch.linalg.cross(turn, v, dim=-1)).addcmul_(along, v)


class _Rodrigues(torch.autograd.Function):
    """`rodrigues` with `rodrigues_gradient`; second derivatives come from the plain operations."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        turns = rodrigues(v)
        ctx.save_for_backward(*turns)
        return turns.matrix

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        turns = Turns(*ctx.saved_tensors)
        if torch.is_grad_enabled():  # the derivative shall be differentiable itself
            return torch.autograd.grad(rodrigues(turns.v).matrix, turns.v, grad, create_graph=True)[0]
        return rodrigues_gradient(turns, grad)


def matrix_to_quaternion(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """(..., 3, 3) rotation matrices -> (..., 4) unit quaternions (w, x, y, z) with w >= 0.

    Stable everywhere: of the four textbook formulas the one with the largest divisor is used.
    """
    _expect_last("matrix", matrix, (3, 3))
    m = matrix.flatten(-2).unbind(-1)
    xx, yy, zz = m[0], m[4], m[8]
    # rows of 4 q q^T, one for each component that can be divided by
    ww4, xx4, yy4, zz4 = 1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz
    wx4, wy4, wz4 = m[7] - m[5], m[2] - m[6], m[3] - m[1]
    xy4, xz4, yz4 = m[1] + m[3], m[2] + m[6], m[5] + m[7]
    rows = torch.stack(
        [
            torch.stack([ww4, wx4, wy4, wz4], -1),
            torch.stack([wx4, xx4, xy4, xz4], -1),
            torch.stack([wy4, xy4, yy4, yz4], -1),
            torch.stack([wz4, xz4, yz4, zz4], -1),
        ],
        -2,
    )
    best = torch.stack([ww4, xx4, yy4, zz4], -1).argmax(-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    quaternion = torch.nn.functional.normalize(rows.gather(-2, index).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_to_axis_angle(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """(..., 3, 3) rotation matrices -> (..., 3) rotation vectors with angles in [0, pi].

    Stable near the identity and near half turns (at exactly pi the sign of the axis is arbitrary).
    """
    quaternion = matrix_to_quaternion(matrix)
    w, xyz = quaternion[..., 0], quaternion[..., 1:]
    squared_sine = (xyz * xyz).sum(-1)
    small = squared_sine < 1e-4
    sine = torch.where(small, torch.ones_like(squared_sine), squared_sine).sqrt()
    # angle / sin(angle / 2) = 2 asin(s) / s near the identity
    s = squared_sine
    series = 2 * (1 + s * (1 / 6 + s * (3 / 40 + s * (15 / 336 + s * (105 / 3456)))))
    factor = torch.where(small, series, 2 * torch.atan2(sine, w) / sine)
    return xyz * factor[..., None]


def rotation_6d_to_matrix(rotation_6d: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Two 3-vectors (..., 6), the first two rows before Gram-Schmidt -> (..., 3, 3) rotation matrices.

    The continuous form for networks (Zhou et al. 2019), row convention as in PyTorch3D. Zero or parallel
    vectors have no rotation; they give a finite matrix, not NaN.
    """
    _expect_last("rotation_6d", rotation_6d, (6,))
    first, second = rotation_6d[..., :3], rotation_6d[..., 3:]
    x = torch.nn.functional.normalize(first, dim=-1, eps=1e-8)
    y = torch.nn.functional.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1, eps=1e-8)
    return torch.stack([x, y, torch.linalg.cross(x, y, dim=-1)], -2)


def matrix_to_rotation_6d(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """(..., 3, 3) rotation matrices -> (..., 6), the first two rows; inverse of `rotation_6d_to_matrix`."""
    _expect_last("matrix", matrix, (3, 3))
    return matrix[..., :2, :].flatten(-2)
