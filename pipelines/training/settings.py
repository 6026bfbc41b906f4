"""Numbers that a machine's environment gives: devices, batches, nodes. Without torch, so that they are known at once."""

from __future__ import annotations


def whole_number(name: str, value: str, low: int) -> int:
    """An environment variable's value as a number; ValueError naming it."""
    if not value.isdecimal() or int(value) < low:
        raise ValueError(f"{name}: expected a whole number from {low} on, got {value!r}")
    return int(value)
