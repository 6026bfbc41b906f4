"""Distances between predicted and true points, and their means (MPJPE, MPVPE, MRRPE).

Results are in the unit of the input.
"""

from __future__ import annotations

import numpy as np

from handnet.metrics.checks import as_pair, require_finite


def point_errors(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, P) Euclidean distances between (N, P, D) points, D = 2 or 3."""
    num_dims = np.asarray(predicted).shape[-1] if np.ndim(predicted) else 0
    predicted, target = as_pair(predicted, target, num_dims if num_dims in (2, 3) else 3)
    return np.linalg.norm(predicted - target, axis=2)


def mpjpe(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean per-joint position error of (N, J, 3) joints. Raises ValueError when there is no sample."""
    return _mean(point_errors(predicted, target))


def mpvpe(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean per-vertex position error of (N, V, 3) vertices. Raises ValueError when there is no sample."""
    return _mean(point_errors(predicted, target))


def camera_space_errors(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) mean distance of each hand's (N, P, 3) points in the camera frame, with nothing aligned: place and size count too."""
    errors: np.ndarray = point_errors(predicted, target).mean(axis=1)
    return errors


def mrrpe(left: np.ndarray, right: np.ndarray, target_left: np.ndarray, target_right: np.ndarray) -> float:
    """Mean relative-root position error: of the offset left root - right root, each root (N, 3)."""
    roots = [np.asarray(root, dtype=np.float64) for root in (left, right, target_left, target_right)]
    for name, root in zip(("left", "right", "target_left", "target_right"), roots, strict=True):
        if root.ndim != 2 or root.shape != (len(roots[0]), 3):
            raise ValueError(f"{name}: expected shape ({len(roots[0])}, 3), got {root.shape}")
        require_finite(name, root)
    offset = (roots[0] - roots[1]) - (roots[2] - roots[3])
    return _mean(np.linalg.norm(offset, axis=1))


def _mean(errors: np.ndarray) -> float:
    if errors.size == 0:
        raise ValueError("expected at least one sample, got none")
    return float(errors.mean())
