"""Runs a predictor over the samples of a folder of shards, and reads the training labels the mean hand is fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from handnet.centers import CenterDefinition
from pipelines.augment import fixed_view
from pipelines.config import EvaluationConfig
from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.frames import Frame, frames_of
from pipelines.evaluation.labels import is_measurable, labelled_keypoints
from pipelines.evaluation.mean_hand import TrainingHands
from pipelines.evaluation.predicted import PredictedHands, PredictorLike, gather
from pipelines.loading import label_center
from pipelines.progress import Progress
from pipelines.shards import ShardReader

# AP follows the curve below the score threshold too, down to here
LOWEST_SCORE = 0.05
MAX_TRAINING_IMAGES = 10_000  # more would change the mean hand by nothing that shows


@dataclass(frozen=True, kw_only=True)
class EvaluatedImage:
    """One image with the hands that can be measured, what was predicted, and the predictor's own records of the same hands."""

    key: str
    hands: tuple[HandLabel, ...]
    predicted: PredictedHands
    raw: list[Any]

    def above(self, score_threshold: float) -> EvaluatedImage:
        """The same image without predictions scored below the threshold."""
        kept = self.predicted.score >= score_threshold
        raw = [hand for hand, is_kept in zip(self.raw, kept.tolist(), strict=True) if is_kept]
        return EvaluatedImage(key=self.key, hands=self.hands, predicted=self.predicted.chosen(kept), raw=raw)


def evaluate_images(
    reader: ShardReader, predictor: PredictorLike, config: EvaluationConfig, input_px: int, definition: CenterDefinition
) -> Iterator[EvaluatedImage]:
    """Every sample in order, up to config.max_samples; config.batch_size frames are predicted at a time."""
    num = min(len(reader), config.max_samples or len(reader))
    waiting: list[tuple[str, tuple[HandLabel, ...], list[Frame]]] = []
    with Progress(f"predict {config.data}", num, "images") as progress:
        for index in range(num):
            sample = reader.read(index, labels_3d=True)
            hands = tuple(hand for hand in sample.hands if is_measurable(hand))
            frames = frames_of(sample, hands, input_px, model=config.model, centers=config.centers, definition=definition)
            waiting.append((sample.key, hands, frames))
            if sum(len(frames) for _, _, frames in waiting) >= config.batch_size or index == num - 1:
                yield from _predict(predictor, config, waiting)
                progress.advance(len(waiting))
                waiting = []


def _predict(
    predictor: PredictorLike, config: EvaluationConfig, waiting: list[tuple[str, tuple[HandLabel, ...], list[Frame]]]
) -> Iterator[EvaluatedImage]:
    frames = [frame for _, _, of_image in waiting for frame in of_image]
    predictions: list[list[Any]] = []
    for start in range(0, len(frames), config.batch_size):
        batch = frames[start : start + config.batch_size]
        centers = [frame.centers_px for frame in batch if frame.centers_px is not None]
        predictions += predictor.predict(
            np.stack([frame.image for frame in batch]),
            np.stack([frame.K for frame in batch]),
            centers if len(centers) == len(batch) else None,
            score_threshold=min(config.score_threshold, LOWEST_SCORE),
        )
    first = 0
    for key, hands, of_image in waiting:
        own = predictions[first : first + len(of_image)]
        first += len(of_image)
        yield EvaluatedImage(key=key, hands=hands, predicted=gather(of_image, own), raw=[hand for part in own for hand in part])


def read_training_hands(reader: ShardReader, input_px: int, definition: CenterDefinition) -> TrainingHands:
    """2D labels of the hands in a folder of shards, of evenly spaced images where there are more than 10,000.

    3D members are opened only to know that all 21 keypoints are labelled.
    """
    rows: list[tuple[np.ndarray, np.ndarray, int, np.ndarray, float]] = []
    indices = range(0, len(reader), max(1, -(-len(reader) // MAX_TRAINING_IMAGES)))
    with Progress(f"mean hand of {reader.folder}", len(indices), "images") as progress:
        for index in indices:
            sample = reader.read(index, labels_3d=True, image=False, vertices=False)
            for hand in sample.hands:
                if is_measurable(hand):
                    center = label_center(hand, definition)
                    zoom = float(fixed_view(sample, input_px, center).affine[0, 0])
                    rows.append((hand.keypoints_px, labelled_keypoints(hand), hand.side, center, input_px / zoom))
            progress.advance()
    if not rows:
        raise ValueError(f"{reader.folder}: expected labelled hands to fit the mean hand to, got none")
    keypoints, labelled, side, center_px, crop_px = (np.array(column) for column in zip(*rows, strict=True))
    return TrainingHands(
        keypoints_px=keypoints.astype(np.float64), labelled=labelled, side=side, center_px=center_px, crop_px=crop_px.astype(np.float64)
    )
