"""One hand for every sample of a folder of shards, in their order, which is the order the server expects.

A sample in which no hand is found is filled with the mean hand, so that the package stays complete, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.centers import CenterDefinition
from handnet.hand.layer import HandLayer
from pipelines.config import SubmissionConfig
from pipelines.datasets.sample import HandSample
from pipelines.evaluation.frames import Frame, crop_frame, middle_frame
from pipelines.evaluation.mean_hand import posed_mean_hand
from pipelines.evaluation.predicted import PredictorLike
from pipelines.progress import Progress
from pipelines.shards import ShardReader

RIGHT = 1
LOWEST_SCORE = 0.05  # the server wants a hand in every image, so a doubtful one is better than none
FALLBACK_DEPTH_M = 0.7
# the right hand from its rest pose to fingers up, back of the hand to the camera
_UPRIGHT = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """joints_m (N, 21, 3) std21 and vertices_m (N, 778, 3), metres, camera frame; keys of the samples; keys of those filled in."""

    joints_m: NDArray[np.float32]
    vertices_m: NDArray[np.float32]
    keys: list[str]
    missing: list[str]


def predict_all(
    reader: ShardReader, predictor: PredictorLike, config: SubmissionConfig, input_px: int, definition: CenterDefinition
) -> Predictions:
    """Predict every sample. ValueError for an empty folder."""
    num = len(reader)
    if num == 0:
        raise ValueError(f"{reader.folder}: expected at least one sample, got none")
    joints, vertices = fallback_hand()
    joints_m, vertices_m = np.tile(joints, (num, 1, 1)), np.tile(vertices, (num, 1, 1))
    keys, missing = [], []
    with Progress(f"predict {config.data}", num, "images") as progress:
        for start in range(0, num, config.batch_size):
            indices = range(start, min(start + config.batch_size, num))
            samples = [reader.read(index, labels_3d=False) for index in indices]
            predictions = _predict(predictor, [frame_of(sample, config, input_px, definition) for sample in samples])
            for index, sample, hands in zip(indices, samples, predictions, strict=True):
                keys.append(sample.key)
                hand = best_hand(hands)
                if hand is None:
                    missing.append(sample.key)
                else:
                    joints_m[index], vertices_m[index] = hand.keypoints_m, hand.vertices_m
            progress.advance(len(samples))
    return Predictions(joints_m=joints_m, vertices_m=vertices_m, keys=keys, missing=missing)


def frame_of(sample: HandSample, config: SubmissionConfig, input_px: int, definition: CenterDefinition) -> Frame:
    """What the network is shown: the crop model the hand at its true centre (the image's middle if none is labelled), else all."""
    if config.model == "multi":
        return middle_frame(sample, input_px, center_given=False)
    if sample.hands:
        return crop_frame(sample, sample.hands[0], input_px, definition)
    return middle_frame(sample, input_px, center_given=True)


def _predict(predictor: PredictorLike, frames: list[Frame]) -> list[list[Any]]:
    centers = [frame.centers_px for frame in frames if frame.centers_px is not None]
    return predictor.predict(
        np.stack([frame.image for frame in frames]),
        np.stack([frame.K for frame in frames]),
        centers or None,
        score_threshold=LOWEST_SCORE,
    )


def best_hand(hands: list[Any]) -> Any | None:
    """The best-scored right hand (the servers' hands are right ones), else the best-scored one, else None."""
    return max(hands, key=lambda hand: (hand.side == RIGHT, hand.score), default=None)


def fallback_hand() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(21, 3) joints and (778, 3) vertices of the mean right hand, upright, 0.7 m in front of the camera."""
    joints, vertices = posed_mean_hand(HandLayer())
    position = np.array([0.0, 0.0, FALLBACK_DEPTH_M])
    return (joints @ _UPRIGHT.T + position).astype(np.float32), (vertices @ _UPRIGHT.T + position).astype(np.float32)
