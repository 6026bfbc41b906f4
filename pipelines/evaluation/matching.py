"""Which predicted hand of an image is which labelled one, image by image: by keypoints, by masks, or as their centres were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import Matches, greedy_matches, match_detections
from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.labels import stack_keypoints

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImageMatch:
    """hand_of_detection (D,), -1 for none, and detection_of_hand (H,), -1 for none, of one image."""

    hand_of_detection: Indices
    detection_of_hand: Indices

    def above(self, kept: NDArray[np.bool_]) -> ImageMatch:
        """The match without the detections that are not `kept` (D,); detections keep their numbers."""
        of_hand = self.detection_of_hand
        return ImageMatch(
            hand_of_detection=np.where(kept, self.hand_of_detection, -1),
            detection_of_hand=np.where((of_hand >= 0) & np.append(kept, False)[of_hand], of_hand, -1),
        )


def match_given(num: int) -> ImageMatch:
    """Hand i is prediction i."""
    return ImageMatch(hand_of_detection=np.arange(num), detection_of_hand=np.arange(num))


def match_keypoints(keypoints_px: Array, score: Array, hands: Sequence[HandLabel], min_similarity: float) -> ImageMatch:
    """As `handnet.metrics.match_detections`: by descending score, the most similar in keypoints."""
    target, labelled = stack_keypoints(hands)
    found = match_detections([keypoints_px], [score], [target], [labelled], min_similarity=min_similarity)
    return ImageMatch(hand_of_detection=found.hand_of_detection, detection_of_hand=found.detection_of_hand)


def match_masks(ious: Array, score: Array, min_similarity: float) -> ImageMatch:
    """By descending score, the largest overlap (D, H) with a hand that is still free, if its IoU is at least the threshold."""
    of_detection, of_hand = greedy_matches(ious, score, min_similarity)
    return ImageMatch(hand_of_detection=of_detection, detection_of_hand=of_hand)


class MatchCollector:
    """The matches of all images as one, for precision, recall and AP: a few numbers a detection."""

    def __init__(self) -> None:
        self.parts: list[tuple[Indices, Indices, Array]] = []

    def add(self, match: ImageMatch, score: Array) -> None:
        """One image."""
        self.parts.append((match.hand_of_detection, match.detection_of_hand, score))

    def joined(self) -> Matches:
        """Detections and hands numbered image after image."""
        num_detections = np.array([len(d) for d, _, _ in self.parts], np.int64)
        num_hands = np.array([len(h) for _, h, _ in self.parts], np.int64)
        image_of_detection, image_of_hand = (np.repeat(np.arange(len(self.parts)), num) for num in (num_detections, num_hands))
        of_detection, of_hand, scores = (
            np.concatenate([np.zeros(0, dtype), *(part[i] for part in self.parts)]).astype(dtype)
            for i, dtype in enumerate((np.int64, np.int64, np.float64))
        )
        first_hand, first_detection = np.cumsum(num_hands) - num_hands, np.cumsum(num_detections) - num_detections
        return Matches(
            np.where(of_detection >= 0, of_detection + first_hand[image_of_detection], -1),
            np.where(of_hand >= 0, of_hand + first_detection[image_of_hand], -1),
            scores,
            image_of_detection,
            image_of_hand,
        )
