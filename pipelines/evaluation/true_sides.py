"""A second look at hands whose type was predicted wrong, under the true type: what protocols with a given hand type measure.

Where the prediction was right the first look is the answer already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.frames import Frame
from pipelines.evaluation.matching import ImageMatch
from pipelines.evaluation.predicted import PredictedHands


@dataclass(frozen=True, kw_only=True)
class Question:
    """A frame to be shown again with the centres and the true sides of some of an image's detections."""

    detections: NDArray[np.int64]
    frame: Frame
    sides: NDArray[np.int64]


def questions(
    frames: Sequence[Frame], raw: Sequence[Any], predicted: PredictedHands, hands: Sequence[HandLabel], match: ImageMatch
) -> list[Question]:
    """What to ask about one image. raw: the predictor's records, in pixels of their frames; as many as frames, or all in one frame."""
    sides = np.array([hand.side for hand in hands], np.int64)
    matched = np.flatnonzero(match.hand_of_detection >= 0)
    wrong = matched[predicted.side[matched] != sides[match.hand_of_detection[matched]]]
    groups = [wrong] if len(frames) == 1 else [np.array([detection]) for detection in wrong]
    return [
        Question(
            detections=group,
            frame=_at(frames[0] if len(frames) == 1 else frames[int(group[0])], [raw[detection] for detection in group]),
            sides=sides[match.hand_of_detection[group]],
        )
        for group in groups
        if len(group)
    ]


def _at(frame: Frame, hands: Sequence[Any]) -> Frame:
    return replace(frame, centers_px=np.array([hand.center_px for hand in hands], np.float64))


def answered(predicted: PredictedHands, asked: Sequence[tuple[Question, Sequence[Any]]]) -> NDArray[np.float32]:
    """(D, 21, 3) joints of every detection: as first predicted, but for those asked about."""
    joints = predicted.keypoints_m.copy()
    for question, hands in asked:
        for detection, hand in zip(question.detections, hands, strict=True):
            joints[detection] = hand.keypoints_m
    return joints
