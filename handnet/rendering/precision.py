"""Rendering computes in float32 or better whatever autocast says: pixels need more than the 8 bits of bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` with autocast off and its half-precision tensor arguments as float32."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        devices = {value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
        with torch.autocast("cuda" if "cuda" in devices else "cpu", enabled=False):
            return function(*[_lifted(value) for value in args], **{name: _lifted(value) for name, value in kwargs.items()})

    return run


def _lifted(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value
