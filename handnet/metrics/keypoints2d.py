"""2D keypoint errors per hand, in pixels, and the hand size that makes them comparable between hands.

The size of a hand is the longer side of the box around its labelled keypoints.
"""

from __future__ import annotations

import numpy as np

from handnet.metrics.checks import as_points, require_finite


def hand_sizes_px(keypoints_px: np.ndarray, labelled: np.ndarray | None = None) -> np.ndarray:
    """(N,) longer side of the box around the labelled ones of (N, P, 2) keypoints; `labelled` is (N, P) bool, default all.

    Raises ValueError for a hand with no labelled keypoint or whose labelled keypoints all coincide.
    """
    keypoints_px, labelled = _labelled("keypoints_px", keypoints_px, labelled)
    low = np.where(labelled[..., None], keypoints_px, np.inf).min(axis=1)
    high = np.where(labelled[..., None], keypoints_px, -np.inf).max(axis=1)
    sizes = (high - low).max(axis=1)
    if not (sizes > 0).all():
        raise ValueError(f"keypoints_px: expected hands of a size > 0, got a point in sample {int(np.argmin(sizes > 0))}")
    return sizes


def hand_errors_px(predicted_px: np.ndarray, target_px: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """(N,) mean distance per hand between (N, P, 2) keypoints over the counted ones; NaN for a hand with none.

    Targets that are not counted may be NaN; predictions may not.
    """
    predicted_px = as_points("predicted_px", predicted_px, num_dims=2)
    target_px = np.asarray(target_px, dtype=np.float64)
    if target_px.shape != predicted_px.shape:
        raise ValueError(f"predicted_px and target_px: expected one shape, got {predicted_px.shape} and {target_px.shape}")
    if counted is None:
        counted = np.ones(target_px.shape[:2], dtype=bool)
    counted = np.asarray(counted, dtype=bool)
    if counted.shape != target_px.shape[:2]:
        raise ValueError(f"counted: expected shape {target_px.shape[:2]}, got {counted.shape}")
    require_finite("target_px", np.where(counted[..., None], target_px, 0.0))
    distances = np.where(counted, np.linalg.norm(np.where(counted[..., None], predicted_px - target_px, 0.0), axis=2), 0.0)
    num_counted = counted.sum(axis=1)
    return np.where(num_counted > 0, distances.sum(axis=1) / np.maximum(num_counted, 1), np.nan)


def _labelled(name: str, keypoints_px: np.ndarray, labelled: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    keypoints_px = np.asarray(keypoints_px, dtype=np.float64)
    if labelled is None:
        labelled = np.ones(keypoints_px.shape[:-1], dtype=bool)
    labelled = np.asarray(labelled, dtype=bool)
    if labelled.shape != keypoints_px.shape[:-1]:
        raise ValueError(f"labelled: expected shape {keypoints_px.shape[:-1]}, got {labelled.shape}")
    keypoints_px = as_points(name, np.where(labelled[..., None], keypoints_px, 0.0), num_dims=2)
    empty = ~labelled.any(axis=1)
    if empty.any():
        raise ValueError(f"{name}: expected at least one labelled keypoint a hand, got none in sample {int(np.argmax(empty))}")
    return keypoints_px, labelled
