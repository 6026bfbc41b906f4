"""Rendered silhouettes of predicted hands beside instance masks: how far each detection overlaps with each labelled hand.

Detections hide one another as in the picture; those that score too low to be shown are drawn each on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from handnet.hand.layer import HandLayer
from handnet.rendering import project_px, rasterize
from pipelines.datasets.sample import MASK_IGNORE
from pipelines.evaluation.predicted import PredictedHands

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """ious (D, H) of detections and hands; pixels of any shown detection and of any hand: in both, in either."""

    ious: Array
    num_both: int
    num_either: int


def overlap(predicted: PredictedHands, mask: NDArray[np.uint8], num_hands: int, score_threshold: float, layer: HandLayer) -> Overlap:
    """Compare predictions with a mask (H, W) in which value i + 1 is hand i < num_hands; ignored pixels count nowhere."""
    counted = mask != MASK_IGNORE
    shown = predicted.score >= score_threshold
    ious = np.zeros((len(predicted), num_hands))
    areas = np.bincount(mask[counted], minlength=num_hands + 1)
    front = _instances(predicted.chosen(shown), mask.shape, layer)
    for row, number in zip(np.flatnonzero(shown), range(int(shown.sum())), strict=True):
        ious[row] = _ious((front == number) & counted, mask, areas)
    for row in np.flatnonzero(~shown):
        alone = _instances(predicted.chosen(np.arange(len(predicted)) == row), mask.shape, layer)
        ious[row] = _ious((alone == 0) & counted, mask, areas)
    drawn, hands = (front >= 0) & counted, (mask > 0) & (mask <= num_hands) & counted
    return Overlap(ious=ious, num_both=int((drawn & hands).sum()), num_either=int((drawn | hands).sum()))


def _ious(silhouette: NDArray[np.bool_], mask: NDArray[np.uint8], areas: NDArray[np.int64]) -> Array:
    both = np.bincount(mask[silhouette], minlength=len(areas))[1 : len(areas)]
    either = areas[1:] + int(silhouette.sum()) - both
    return np.asarray(both / np.maximum(either, 1))


def _instances(hands: PredictedHands, shape: tuple[int, ...], layer: HandLayer) -> NDArray[np.int64]:
    """(H, W) which of the hands is in front at a pixel, -1 where none is."""
    height, width = shape
    if not len(hands):
        return np.full((height, width), -1)
    projected = project_px(torch.from_numpy(hands.vertices_m), torch.from_numpy(hands.K.astype(np.float32)))
    faces = torch.stack([layer.faces(side) for side in hands.side.tolist()])
    fragments = rasterize(projected, faces, torch.zeros(len(hands), dtype=torch.int64), 1, height, width)
    face = fragments.face_index[0, ..., 0].numpy()
    return np.where(face >= 0, face // faces.shape[1], -1)
