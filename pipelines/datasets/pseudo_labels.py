"""Hands of a photo from a detector of 2D keypoints, with a confidence for each keypoint.

A photo is looked at twice, as it is and mirrored. Where both looks agree the detector is right: over rendered hands the error of
keypoints is three times as large where the looks differ by a tenth of the hand as where they differ by a hundredth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS

AGREEMENT = 0.06  # share of the hand's size by which two looks differ where the confidence is 0.6
SAME_HAND = 0.5  # share of the hand's size within which two detections are the same hand
SEEN_ONCE = 0.5  # factor on the score of a hand that only one look found


@dataclass(frozen=True)
class Detection:
    """A hand found in an image: right_probability 0..1, keypoints_px (21,2) in std21, continuous pixels."""

    right_probability: float
    keypoints_px: NDArray[np.float64]


@dataclass(frozen=True)
class PseudoHand:
    """A labelled hand: side 0 left, 1 right; score 0..1 of hand and side; keypoints_px (21,2), confidence (21,) 0..1."""

    side: int
    score: float
    keypoints_px: NDArray[np.float64]
    confidence: NDArray[np.float64]


class Detector(Protocol):
    """Finds hands. `version` changes when its answers may."""

    version: str

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """The hands of an (H,W,3) RGB image that is not mirrored."""
        ...

    def __enter__(self) -> Detector: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def open_detector(name: str, max_hands: int) -> Detector:
    """The detector called `name`. DataError, which says how to install it, where it is not there."""
    from pipelines.datasets.mediapipe_process import MediapipeProcess

    detectors: dict[str, Callable[[int], Detector]] = {"mediapipe": MediapipeProcess}
    if name not in detectors:
        raise ValueError(f"labeller: expected one of {sorted(detectors)}, got {name!r}")
    return detectors[name](max_hands)


def label_photo(detector: Detector, image: NDArray[np.uint8]) -> list[PseudoHand]:
    """Hands that one or both looks at an (H,W,3) RGB image find, in the order of their scores."""
    width = image.shape[1]
    first = detector.detect(image)
    second = [_mirrored(found, width) for found in detector.detect(np.ascontiguousarray(image[:, ::-1]))]
    hands = []
    for one in first:
        other = min(second, key=lambda found: _difference(one, found).mean(), default=None)
        if other is not None and _difference(one, other).mean() < SAME_HAND:
            second.remove(other)
            hands.append(_seen_twice(one, other))
        else:
            hands.append(_seen_once(one))
    hands += [_seen_once(found) for found in second]
    return sorted(hands, key=lambda hand: -hand.score)


def _mirrored(found: Detection, width: int) -> Detection:
    return Detection(1 - found.right_probability, found.keypoints_px * (-1, 1) + (width, 0))


def _difference(one: Detection, other: Detection) -> NDArray[np.float64]:
    """(21,) distances as shares of the hand's size."""
    size = max(float(np.ptp(one.keypoints_px, axis=0).max()), 1.0)
    difference: NDArray[np.float64] = np.linalg.norm(one.keypoints_px - other.keypoints_px, axis=1) / size
    return difference


def _seen_twice(one: Detection, other: Detection) -> PseudoHand:
    right = (one.right_probability + other.right_probability) / 2
    confidence = np.exp(-0.5 * (_difference(one, other) / AGREEMENT) ** 2)
    return PseudoHand(int(right >= 0.5), max(right, 1 - right), (one.keypoints_px + other.keypoints_px) / 2, confidence)


def _seen_once(found: Detection) -> PseudoHand:
    right = found.right_probability
    return PseudoHand(int(right >= 0.5), SEEN_ONCE * max(right, 1 - right), found.keypoints_px, np.full(NUM_KEYPOINTS, SEEN_ONCE))
