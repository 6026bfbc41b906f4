"""Float32 or better whatever autocast says: pixels, sums and geometry need more than the 8 bits of bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def at_least_float32(value: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with autocast off and its half precision tensor arguments as float32."""

    def raised(value: Any) -> Any:
        return at_least_float32(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    @wraps(function)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return in_full_precision
