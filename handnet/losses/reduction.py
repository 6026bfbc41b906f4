"""What the losses share: full precision whatever autocast says, norms with a finite gradient, means over what is labelled."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from jaxtyping import Float
from torch import Tensor

from handnet.network.sampling import at_least_float32

P = ParamSpec("P")


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The loss with autocast off and its half precision arguments as float32: sums over maps and pixels need the digits."""

    def raised(value: Any) -> Any:
        return at_least_float32(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    @wraps(loss)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return in_full_precision


def smooth_norm(vector: Float[Tensor, "*batch D"], eps: float = 1e-6) -> Float[Tensor, "*batch"]:
    """L2 norm over the last axis with a finite gradient at zero."""
    return (vector.square().sum(-1) + eps * eps).sqrt() - eps


def weighted_mean(values: Float[Tensor, "*batch"], weight: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Sum of weight x value over the sum of the weights, at least 1: 0 where nothing is labelled."""
    return (values * weight).sum() / weight.sum().clamp(min=1)
