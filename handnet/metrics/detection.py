"""Detection quality: detections matched to true hands by their keypoints, then precision, recall, AP, hand type.

A detection matches a true hand when their keypoint similarity reaches a threshold, as in COCO's AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handnet.metrics.checks import require_finite
from handnet.metrics.similarity import SIGMAS, keypoint_similarity


@dataclass(frozen=True)
class Matches:
    """Which detection found which hand, over all images; detections and hands are numbered image after image.

    hand_of_detection (D,) index of the hand a detection found, or -1; detection_of_hand (H,) the other way round;
    scores (D,) of the detections; hands (H,) and detections (D,) image indices.
    """

    hand_of_detection: np.ndarray
    detection_of_hand: np.ndarray
    scores: np.ndarray
    image_of_detection: np.ndarray
    image_of_hand: np.ndarray

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the matched detections and of their hands, in the order of the hands."""
        hands = np.flatnonzero(self.detection_of_hand >= 0)
        return self.detection_of_hand[hands], hands

    def above(self, score_threshold: float) -> Matches:
        """The matches without detections scored below the threshold.

        Same as matching only those that score at least it: a greedy match never depends on lower scores.
        """
        kept = self.scores >= score_threshold
        number = np.cumsum(kept) - 1
        found = self.detection_of_hand >= 0
        survives = np.zeros(len(self.detection_of_hand), dtype=bool)
        survives[found] = kept[self.detection_of_hand[found]]
        detection_of_hand = np.full(len(self.detection_of_hand), -1)
        detection_of_hand[survives] = number[self.detection_of_hand[survives]]
        return Matches(
            self.hand_of_detection[kept], detection_of_hand, self.scores[kept], self.image_of_detection[kept], self.image_of_hand
        )


def match_detections(
    predicted_px: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    target_px: Sequence[np.ndarray],
    labelled: Sequence[np.ndarray],
    *,
    min_similarity: float,
    sigmas: Float[np.ndarray, " p"] = SIGMAS,
) -> Matches:
    """Match greedily by descending score: each detection takes the most similar true hand of its image that is still free.

    One entry an image: predicted_px (D_i, P, 2), scores (D_i,), target_px (H_i, P, 2), labelled (H_i, P) bool.
    `keypoint_similarity` (with these sigmas) must be at least `min_similarity`. Equal scores keep their order. Raises
    ValueError for lists of different length, NaN in a prediction or a score, a hand without labels.
    """
    counts = {len(predicted_px), len(scores), len(target_px), len(labelled)}
    if len(counts) != 1:
        raise ValueError(f"expected one entry an image in every list, got {sorted(counts)} entries")
    all_scores, hand_of_detection, detection_of_hand = [], [], []
    first_detection = first_hand = 0
    for predicted, score, target, known in zip(predicted_px, scores, target_px, labelled, strict=True):
        score = np.asarray(score, dtype=np.float64)
        if score.shape != (len(predicted),):
            raise ValueError(f"scores: expected one a detection ({len(predicted)}), got shape {score.shape}")
        require_finite("scores", score)
        of_detection, of_hand = greedy_matches(keypoint_similarity(predicted, target, known, sigmas), score, min_similarity)
        hand_of_detection.append(np.where(of_detection >= 0, of_detection + first_hand, -1))
        detection_of_hand.append(np.where(of_hand >= 0, of_hand + first_detection, -1))
        all_scores.append(score)
        first_detection += len(predicted)
        first_hand += len(target)
    return Matches(
        _joined(hand_of_detection, np.int64),
        _joined(detection_of_hand, np.int64),
        _joined(all_scores, np.float64),
        np.repeat(np.arange(len(scores)), [len(s) for s in scores]),
        np.repeat(np.arange(len(target_px)), [len(t) for t in target_px]),
    )


def greedy_matches(similarity: np.ndarray, scores: np.ndarray, min_similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """By descending score (D,), each detection takes the free hand it is most similar to (D, H), if that is at least the threshold.

    Returns the hand of each detection and the detection of each hand, -1 for none. ValueError unless 0 < threshold <= 1.
    """
    if not 0 < min_similarity <= 1:
        raise ValueError(f"min_similarity: expected a similarity in (0, 1], got {min_similarity}")
    of_detection = np.full(similarity.shape[0], -1)
    of_hand = np.full(similarity.shape[1], -1)
    free = similarity.copy()
    if similarity.size:
        for detection in np.argsort(-scores, kind="stable"):
            hand = int(np.argmax(free[detection]))
            if free[detection, hand] >= min_similarity:
                of_detection[detection], of_hand[hand] = hand, detection
                free[:, hand] = -1.0
    return of_detection, of_hand


def precision_recall(matches: Matches) -> tuple[float, float]:
    """Shares of the detections that found a hand and of the hands that were found; with none to count, NaN."""
    found = int((matches.hand_of_detection >= 0).sum())
    num_detections, num_hands = len(matches.hand_of_detection), len(matches.detection_of_hand)
    return found / num_detections if num_detections else float("nan"), found / num_hands if num_hands else float("nan")


def average_precision(matches: Matches) -> float:
    """Area under the precision-recall curve, precision made monotone (all-point interpolation); NaN without a true hand."""
    num_hands = len(matches.detection_of_hand)
    if num_hands == 0:
        return float("nan")
    order = np.argsort(-matches.scores, kind="stable")
    found = (matches.hand_of_detection >= 0)[order]
    precision = np.cumsum(found) / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[found].sum() / num_hands)


def hand_type_accuracy(predicted_sides: np.ndarray, target_sides: np.ndarray) -> float:
    """Share of hands whose side (0 left, 1 right) is right; NaN without any."""
    predicted_sides, target_sides = np.asarray(predicted_sides), np.asarray(target_sides)
    if predicted_sides.shape != target_sides.shape:
        raise ValueError(f"predicted_sides and target_sides: expected one shape, got {predicted_sides.shape} and {target_sides.shape}")
    return float((predicted_sides == target_sides).mean()) if predicted_sides.size else float("nan")


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)
