"""Anatomical joint angles of a pose and how far they exceed what a hand can do, in torch.

Angles are measured in each joint's own frame: R = R_abduction(d) R_flexion(l) R_twist(u), see frames.py.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from handnet.hand.dofs import limits_table_deg
from handnet.hand.files import load_hand
from handnet.hand.pose_sampler import sample_poses
from handnet.rotations import axis_angle_to_matrix

__all__ = ["LIMITS", "joint_angles", "limit_excess", "sample_poses"]

# (15, 3, 2): joints 1..15; flexion, abduction, twist; lowest, highest; radians.
LIMITS: Final[Tensor] = torch.tensor(np.radians(limits_table_deg()), dtype=torch.float64)
# At 90 degrees of flexion abduction and twist turn about the same line. Within about this cosine of it the turn is
# counted as abduction, which fingers have and twist they hardly have, and gradients stay below its inverse.
_LOCK = 0.05


def joint_angles(pose: Tensor, side: Int[Tensor, " n"], joint_axes: Float[Tensor, "16 3 3"] | None = None) -> Float[Tensor, "n 15 3"]:
    """Flexion, abduction and twist of joints 1..15 in radians; + flexes, abducts towards the thumb (thumb: away from the palm).

    pose: (N, 45) axis-angle, or (N, 15, 3, 3) matrices, of the hand on `side` (N,), 0 left, 1 right.
    joint_axes: (16, 3, 3) frames of the right hand; None takes the free hand's.
    Flexion up to +-180 degrees, also past a right angle; finite values and gradients for every rotation.
    """
    if pose.ndim == 2 and pose.shape[1] == 45:
        rotations = axis_angle_to_matrix(pose.unflatten(1, (15, 3)))
    elif pose.ndim == 4 and pose.shape[1:] == (15, 3, 3):
        rotations = pose
    else:
        raise ValueError(f"pose: expected shape (N, 45) or (N, 15, 3, 3), got {tuple(pose.shape)}")
    if side.shape != pose.shape[:1]:
        raise ValueError(f"side: expected shape ({len(pose)},), got {tuple(side.shape)}")
    if joint_axes is None:
        joint_axes = torch.from_numpy(load_hand().joint_axes[1].copy())
    axes = joint_axes[1:].to(pose)
    # A left hand's rotation is mirrored to the right: S R S with S = diag(-1, 1, 1).
    sign = torch.where(side == 1, 1.0, -1.0).to(pose)
    one = torch.ones_like(sign)
    mirror = torch.stack([sign, one, one], 1)
    mirrored = mirror[:, None, :, None] * rotations * mirror[:, None, None, :]
    return _flexion_abduction_twist(axes @ mirrored @ axes.mT)


def limit_excess(
    pose: Tensor, side: Int[Tensor, " n"], joint_axes: Float[Tensor, "16 3 3"] | None = None, limits: Float[Tensor, "15 3 2"] | None = None
) -> Float[Tensor, "n 15 3"]:
    """How far each angle of `joint_angles` lies outside its limits, in radians, 0 inside; limits: default LIMITS."""
    angles = joint_angles(pose, side, joint_axes)
    bounds = (LIMITS if limits is None else limits).to(angles)
    return (bounds[..., 0] - angles).relu() + (angles - bounds[..., 1]).relu()


def _flexion_abduction_twist(m: Float[Tensor, "n 15 3 3"]) -> Float[Tensor, "n 15 3"]:
    """Angles f, a, t of M = R_y(a) R_x(f) R_z(t), M in the frame (l, d, u)."""
    # Two triples give the same M, (f, a, t) and (pi - f, a + pi, t + pi); the one with less abduction and twist is meant.
    branch = torch.where(m[..., 1, 1] + m[..., 2, 2] >= 0, 1.0, -1.0).to(m)
    # M's second row starts with cos(f) (sin t, cos t), which vanishes at the lock; there twist goes to zero.
    squared_cosine = m[..., 1, 0] ** 2 + m[..., 1, 1] ** 2
    lock = _LOCK * torch.exp(-squared_cosine / _LOCK**2)
    twist = _safe_atan2(branch * m[..., 1, 0], branch * m[..., 1, 1] + lock)
    cosine, sine = twist.cos(), twist.sin()
    # With the twist taken off, M R_z(-t) = R_y(a) R_x(f).
    first = m[..., :, 0] * cosine[..., None] - m[..., :, 1] * sine[..., None]
    second = m[..., 1, 0] * sine + m[..., 1, 1] * cosine
    flexion = _safe_atan2(-m[..., 1, 2], second)
    abduction = _safe_atan2(-first[..., 2], first[..., 0])
    return torch.stack([flexion, abduction, twist], -1)


def _safe_atan2(y: Tensor, x: Tensor) -> Tensor:
    """atan2 with the value and the gradient 0 at (0, 0), where torch's gradient is NaN."""
    zero = (x * x + y * y) < torch.finfo(x.dtype).eps ** 2
    return torch.where(zero, torch.zeros_like(x), torch.atan2(y, torch.where(zero, torch.ones_like(x), x)))
