"""Splits that their owners did not make: a random share of the training frames, held out for validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def held_out(num_frames: int, val_fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(train, val): ascending indices of `num_frames` frames, a random `val_fraction` of them in val."""
    order = np.random.default_rng(seed).permutation(num_frames)
    num_val = round(val_fraction * num_frames)
    return np.sort(order[num_val:]), np.sort(order[:num_val])
