"""Puts the mean hand where a prediction is, so that both are measured on the very same hands.

In crops around true centres it says the same of every hand, at its usual size and of its usual side; in whole images it
takes place, size and side from our detections.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.mean_hand import MeanHand
from pipelines.evaluation.predicted import PredictedHands

Array = NDArray[np.float64]
Placement = Literal["crop", "detection"]


def placed_keypoints(mean_hand: MeanHand, predicted: PredictedHands, placement: Placement) -> Array:
    """(D, 21, 2) image pixels of the mean hand in place of each prediction."""
    placed = np.zeros((len(predicted), 21, 2))
    sizes = np.ptp(predicted.keypoints_px, axis=1).max(axis=1, initial=0.0)
    for i, (side, center) in enumerate(zip(_sides(mean_hand, predicted.side, placement), predicted.center_px, strict=True)):
        if placement == "crop":
            placed[i] = mean_hand.keypoints_in_crop(side, center, float(predicted.frame_px[i]))
        else:
            placed[i] = mean_hand.keypoints_of_size(side, center, float(sizes[i]))
    return placed


def posed(mean_hand: MeanHand, side: NDArray[np.int64], placement: Placement) -> tuple[Array, Array]:
    """Joints (D, 21, 3) and vertices (D, 778, 3) of the mean hand for predictions of these sides, metres, joint 9 at the origin."""
    sides = _sides(mean_hand, side, placement)
    joints = np.array([mean_hand.joints(s) for s in sides]).reshape(-1, 21, 3)
    return joints, np.array([mean_hand.vertices(s) for s in sides]).reshape(-1, 778, 3)


def _sides(mean_hand: MeanHand, predicted: NDArray[np.int64], placement: Placement) -> list[int]:
    return [mean_hand.usual_side] * len(predicted) if placement == "crop" else predicted.tolist()
