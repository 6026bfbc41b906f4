"""Predictions of one image as arrays, in the image's own pixels: the interface between a network and its evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.sample import affine_matrix
from pipelines.evaluation.frames import Frame

Array = NDArray[np.float64]


class PredictorLike(Protocol):
    """What evaluation needs of a predictor: `handnet.predict.Predictor` or a stand-in for it."""

    def predict(
        self,
        images: NDArray[np.uint8],
        K: NDArray[np.floating] | None = None,
        centers_px: Sequence[NDArray[np.floating]] | None = None,
        *,
        sides: Sequence[NDArray[np.integer]] | None = None,
        score_threshold: float = 0.3,
    ) -> list[list[Any]]: ...


@dataclass(frozen=True, kw_only=True)
class PredictedHands:
    """D hands predicted in one image.

    side (D,) 0 left, 1 right; score (D,); center_px (D, 2), keypoints_px (D, 21, 2) in image pixels; keypoints_m
    (D, 21, 3), vertices_m (D, 778, 3) in the camera frame; K (D, 3, 3) the camera, in image pixels, they project with;
    frame_px (D,) side in image pixels of the frame the hand was predicted in.
    """

    side: NDArray[np.int64]
    score: Array
    center_px: Array
    keypoints_px: Array
    keypoints_m: NDArray[np.float32]
    vertices_m: NDArray[np.float32]
    K: Array
    frame_px: Array

    def __len__(self) -> int:
        return len(self.side)

    def chosen(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> PredictedHands:
        """The hands for which `kept` (D,) is true, or those of the given indices."""
        return PredictedHands(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})


def gather(frames: Sequence[Frame], predictions: Sequence[Sequence[Any]]) -> PredictedHands:
    """The hands predicted in the frames of one image, frame after frame, brought back to the image's pixels."""
    rows: dict[str, list[Any]] = {field.name: [] for field in fields(PredictedHands)}
    for frame, hands in zip(frames, predictions, strict=True):
        back = np.linalg.inv(affine_matrix(frame.affine))
        for hand in hands:
            rows["side"].append(hand.side)
            rows["score"].append(hand.score)
            rows["center_px"].append(_moved(back, hand.center_px))
            rows["keypoints_px"].append(_moved(back, hand.keypoints_px))
            rows["keypoints_m"].append(hand.keypoints_m)
            rows["vertices_m"].append(hand.vertices_m)
            rows["K"].append(back @ np.asarray(frame.K, np.float64))
            rows["frame_px"].append(frame.side_in_image_px)
    return PredictedHands(
        side=np.array(rows["side"], np.int64),
        score=np.array(rows["score"], np.float64),
        center_px=np.array(rows["center_px"], np.float64).reshape(-1, 2),
        keypoints_px=np.array(rows["keypoints_px"], np.float64).reshape(-1, 21, 2),
        keypoints_m=np.array(rows["keypoints_m"], np.float32).reshape(-1, 21, 3),
        vertices_m=np.array(rows["vertices_m"], np.float32).reshape(-1, 778, 3),
        K=np.array(rows["K"], np.float64).reshape(-1, 3, 3),
        frame_px=np.array(rows["frame_px"], np.float64),
    )


def _moved(matrix: NDArray[np.floating], points_px: NDArray[np.floating]) -> Array:
    return np.asarray(points_px, np.float64) @ matrix[:2, :2].T + matrix[:2, 2]
