"""Reads the training labels that the mean hand is fitted to: 2D only."""

from __future__ import annotations

import numpy as np

from handnet.centers import CenterDefinition
from pipelines.evaluation.labels import is_measurable, labelled_keypoints
from pipelines.evaluation.mean_hand import TrainingHands
from pipelines.loading import crop_view, label_center
from pipelines.progress import Progress
from pipelines.shards import ShardReader

MAX_TRAINING_IMAGES = 10_000  # more would change the mean hand by nothing that shows


def read_training_hands(
    reader: ShardReader, input_px: int, definition: CenterDefinition, box_scale: float | None = None
) -> TrainingHands:
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
                    zoom = float(crop_view(sample, hand, input_px, definition, box_scale).affine[0, 0])
                    rows.append((hand.keypoints_px, labelled_keypoints(hand), hand.side, center, input_px / zoom))
            progress.advance()
    if not rows:
        raise ValueError(f"{reader.folder}: expected labelled hands to fit the mean hand to, got none")
    keypoints, labelled, side, center_px, crop_px = (np.array(column) for column in zip(*rows, strict=True))
    return TrainingHands(
        keypoints_px=keypoints.astype(np.float64), labelled=labelled, side=side, center_px=center_px, crop_px=crop_px.astype(np.float64)
    )
