"""Pose and shape regularisation, Eq. 10: a hinge on joint angles outside their limits and a pull of the shape towards the mean."""

from __future__ import annotations

import math
from typing import Final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from handnet.hand.pose_limits import limit_excess
from handnet.losses.weights import PoseLimits
from handnet.precision import full_precision

# Limits of the paper's released code in degrees: roll, azimuth, pitch of a right hand's joint, on the raw axis-angle x, y and z.
_KNUCKLE = ((-5.0, 5.0), (-10.0, 10.0), (-10.0, 100.0))
_FINGER = ((-5.0, 5.0), (-5.0, 5.0), (-10.0, 100.0))
_LITTLE_KNUCKLE = ((-20.0, 5.0), (-10.0, 20.0), (-10.0, 100.0))
_THUMB = (
    ((0.0, 90.0), (-22.5, 33.75), (-22.5, 22.5)),
    ((-5.0, 5.0), (-5.0, 5.0), (-22.5, 22.5)),
    ((-5.0, 5.0), (-5.0, 5.0), (-20.0, 100.0)),
)
RELEASED_LIMITS_DEG: Final = (  # MANO's joints 1..15: index, middle, little, ring, thumb
    *(_KNUCKLE, _FINGER, _FINGER),
    *(_KNUCKLE, _FINGER, _FINGER),
    *(_LITTLE_KNUCKLE, _FINGER, _FINGER),
    *(_KNUCKLE, _FINGER, _FINGER),
    *_THUMB,
)


@full_precision
def pose_limit_loss(
    pose: Float[Tensor, "M 45"],
    side: Int[Tensor, " M"],
    joint_axes: Float[Tensor, "16 3 3"] | None = None,
    limits: PoseLimits = "anatomical",
) -> Float[Tensor, ""]:
    """Mean excess (radians) of joint angles over their limits; 0 for no hands.

    pose: absolute axis-angle of the hand's own side. "anatomical" measures flexion, abduction and twist in each joint's frame
    (joint_axes: of the right hand, None for the free hand's); "released" takes the axis-angle numbers themselves, as the paper's
    released code does.
    """
    if limits == "anatomical":
        excess = limit_excess(pose, side, joint_axes)
    elif limits == "released":
        excess = _released_excess(pose, side)
    else:
        raise ValueError(f"pose limits: expected one of {list(get_args(PoseLimits))}, got {limits!r}")
    return excess.sum() / max(excess.numel(), 1)


@full_precision
def shape_prior_loss(betas: Float[Tensor, "M 10"]) -> Float[Tensor, ""]:
    """Mean squared shape coefficient; 0 for no hands."""
    return betas.square().sum() / max(betas.numel(), 1)


def _released_excess(pose: Tensor, side: Tensor) -> Tensor:
    sign = (2 * side - 1).to(pose.dtype)
    # a left hand's azimuth and pitch are those of its mirror image, negated
    turn = torch.stack([torch.ones_like(sign), sign, sign], -1)
    angles = pose.unflatten(1, (15, 3)) * turn[:, None]
    low, high = (pose.new_tensor(RELEASED_LIMITS_DEG) * (math.pi / 180)).unbind(-1)
    return (low - angles).relu() + (angles - high).relu()
