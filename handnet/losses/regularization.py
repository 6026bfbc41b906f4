"""Pose and shape regularisation, Eq. 10: a hinge on anatomical angles and a pull of the shape towards the mean."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from handnet.hand.pose_limits import limit_excess


def pose_limit_loss(pose: Float[Tensor, "M 45"], side: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """Mean excess (radians) of flexion, abduction and twist over their limits, measured in each joint's anatomical frame."""
    excess = limit_excess(pose, side)
    return excess.sum() / max(excess.numel(), 1)


def shape_prior_loss(betas: Float[Tensor, "M 10"]) -> Float[Tensor, ""]:
    """Mean squared shape coefficient."""
    return betas.square().sum() / max(betas.numel(), 1)
