"""What the losses share: norms with a finite gradient, means over what is labelled."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def smooth_norm(vector: Float[Tensor, "*batch D"], eps: float = 1e-6) -> Float[Tensor, "*batch"]:
    """L2 norm over the last axis with a finite gradient at zero."""
    return (vector.square().sum(-1) + eps * eps).sqrt() - eps


def weighted_mean(values: Float[Tensor, "*batch"], weight: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Sum of weight x value over the sum of the weights, at least 1: 0 where nothing is labelled."""
    return (values * weight).sum() / weight.sum().clamp(min=1)
