"""What a machine's environment gives: devices, batches, nodes, where checkpoints lie. Without torch, so that it is known at once."""

from __future__ import annotations

import os
from pathlib import Path

CHECKPOINTS_VARIABLE = "HANDNET_CHECKPOINTS"


def whole_number(name: str, value: str, low: int) -> int:
    """An environment variable's value as a number; ValueError naming it."""
    if not value.isdecimal() or int(value) < low:
        raise ValueError(f"{name}: expected a whole number from {low} on, got {value!r}")
    return int(value)


def checkpoint_root() -> Path:
    """The folder of all runs' checkpoints; another one than the default outlives the folder that a run works in."""
    return Path(os.environ.get(CHECKPOINTS_VARIABLE) or "checkpoints")
