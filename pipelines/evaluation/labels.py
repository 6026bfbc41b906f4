"""What evaluation takes from a labelled hand: which keypoints count as labelled, and one layout of arrays for many hands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import hand_sizes_px
from pipelines.datasets.sample import HandLabel

Array = NDArray[np.float64]


def labelled_keypoints(hand: HandLabel) -> NDArray[np.bool_]:
    """(21,) keypoints whose 2D position is known.

    The visible ones; all of them where the hand has a 3D label, whose projection the 2D one then is.
    """
    return np.ones_like(hand.visible) if hand.keypoints_m is not None else hand.visible


def stack_keypoints(hands: Sequence[HandLabel]) -> tuple[Array, NDArray[np.bool_]]:
    """(H, 21, 2) keypoints in pixels and (H, 21) which of them are labelled; works for no hands too."""
    keypoints = np.array([hand.keypoints_px for hand in hands], dtype=np.float64).reshape(-1, 21, 2)
    labelled = np.array([labelled_keypoints(hand) for hand in hands], dtype=bool).reshape(-1, 21)
    return keypoints, labelled


def is_measurable(hand: HandLabel) -> bool:
    """Whether a hand has labelled keypoints that span a size: without, there is nothing to measure against."""
    labelled = labelled_keypoints(hand)
    return bool(labelled.any()) and bool(np.ptp(hand.keypoints_px[labelled], axis=0).max() > 0)


def hand_size_px(hand: HandLabel) -> float:
    """Longer side of the box around the labelled keypoints."""
    return float(hand_sizes_px(hand.keypoints_px[None], labelled_keypoints(hand)[None])[0])
