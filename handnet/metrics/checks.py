"""Input checks shared by all metrics: shapes and finiteness, told in one line that names the array.

A metric of a NaN is a NaN that a mean hides or spreads, so every metric refuses it instead.
"""

from __future__ import annotations

import numpy as np


def as_points(name: str, points: np.ndarray, num_dims: int = 3) -> np.ndarray:
    """(N, P, num_dims) float64 copy-if-needed of `points`. Raises ValueError for another shape, for NaN and for infinity."""
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != num_dims or array.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (samples, points, {num_dims}) with at least one point, got {array.shape}")
    require_finite(name, array)
    return array


def as_pair(predicted: np.ndarray, target: np.ndarray, num_dims: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays checked by `as_points`, and of the same shape, or ValueError."""
    predicted, target = as_points("predicted", predicted, num_dims), as_points("target", target, num_dims)
    if predicted.shape != target.shape:
        raise ValueError(f"predicted and target: expected one shape, got {predicted.shape} and {target.shape}")
    return predicted, target


def require_finite(name: str, array: np.ndarray) -> None:
    """Raise ValueError naming the first sample that holds NaN or infinity."""
    finite = np.isfinite(array)
    if not finite.all():
        first = int(np.argwhere(~finite)[0][0])
        raise ValueError(f"{name}: expected finite numbers, got {int((~finite).sum())} NaN or infinite ones, the first in sample {first}")


def require_point(name: str, index: int, num_points: int) -> None:
    """Raise ValueError unless `index` is a valid, non-negative point index."""
    if not 0 <= index < num_points:
        raise ValueError(f"{name}: expected a point index in [0, {num_points}), got {index}")
