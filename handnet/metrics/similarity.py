"""Keypoint similarity of hands (COCO's OKS): 1 for the same keypoints, falling with distance by how surely people place each one.

The constants are COCO-WholeBody's, of its hands; the scale is the hand's size, so that a hand seen edge-on has one too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from handnet.metrics.checks import as_points
from handnet.metrics.keypoints2d import hand_sizes_px

# spread of people's clicks as a share of the object's scale: wrist, then thumb to little finger from base to tip (std21)
SIGMAS: Final = np.array(
    [0.029]
    + [0.022, 0.035, 0.037, 0.047]
    + [0.026, 0.025, 0.024, 0.035]
    + [0.018, 0.024, 0.022, 0.026]
    + [0.017, 0.021, 0.021, 0.032]
    + [0.020, 0.019, 0.022, 0.031]
)
SIGMAS.setflags(write=False)


def keypoint_similarity(
    predicted_px: Float[np.ndarray, "d p 2"],
    target_px: Float[np.ndarray, "h p 2"],
    labelled: Bool[np.ndarray, "h p"],
    sigmas: Float[np.ndarray, " p"] = SIGMAS,
) -> Float[np.ndarray, "d h"]:
    """Mean over each hand's labelled keypoints of exp(-d^2 / (2 s^2 k^2)), d the distance, s the hand's size, k = 2 sigma.

    COCO takes the square root of the object's area for s; a hand has no area here, so it is `hand_sizes_px`. Raises
    ValueError for wrong shapes, NaN, and a hand without labelled keypoints or of no size.
    """
    if len(predicted_px) == 0 or len(target_px) == 0:
        return np.zeros((len(predicted_px), len(target_px)))
    predicted, target, known, sizes = _checked(predicted_px, target_px, labelled, sigmas)
    return _similarity(predicted[:, None], target[None], known, sizes, sigmas)


def hand_similarities(
    predicted_px: Float[np.ndarray, "n p 2"],
    target_px: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    sigmas: Float[np.ndarray, " p"] = SIGMAS,
) -> Float[np.ndarray, " n"]:
    """`keypoint_similarity` of each prediction with the hand at its own place in the list."""
    if len(predicted_px) != len(target_px):
        raise ValueError(f"expected as many predictions as hands, got {len(predicted_px)} and {len(target_px)}")
    if len(predicted_px) == 0:
        return np.zeros(0)
    predicted, target, known, sizes = _checked(predicted_px, target_px, labelled, sigmas)
    return _similarity(predicted, target, known, sizes, sigmas)


def _checked(
    predicted_px: np.ndarray, target_px: np.ndarray, labelled: np.ndarray, sigmas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    predicted = as_points("predicted_px", predicted_px, num_dims=2)
    sizes = hand_sizes_px(target_px, labelled)
    known = np.asarray(labelled, bool)
    target = np.where(known[..., None], np.asarray(target_px, np.float64), 0.0)
    if predicted.shape[1] != target.shape[1] or len(sigmas) != target.shape[1]:
        raise ValueError(
            f"expected as many keypoints as the {len(sigmas)} sigmas, got {predicted.shape[1]} predicted, {target.shape[1]} true"
        )
    return predicted, target, known, sizes


def _similarity(predicted: np.ndarray, target: np.ndarray, known: np.ndarray, sizes: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    squared = ((predicted - target) ** 2).sum(axis=-1)
    near = np.exp(-squared / (8 * (sizes[:, None] * np.asarray(sigmas, np.float64)) ** 2))
    similarity: np.ndarray = np.where(known, near, 0.0).sum(axis=-1) / known.sum(axis=1)
    return similarity
