"""How well labels agree: 2D with projected 3D, and both with what the owners publish in pixels and with the mask.

Sums that grow sample by sample; errors in pixels, of visible keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.checking import Published
from pipelines.datasets.sample import HandLabel, HandSample

NEAR_PX = 3.0  # a keypoint this far outside of a mask or box is still taken for inside


@dataclass
class Errors:
    """Distances: how many, their mean and the largest."""

    count: int = 0
    total_px: float = 0.0
    max_px: float = 0.0

    def add(self, distances_px: NDArray) -> None:
        if len(distances_px):
            self.count += len(distances_px)
            self.total_px += float(distances_px.sum())
            self.max_px = max(self.max_px, float(distances_px.max()))

    @property
    def mean_px(self) -> float:
        return self.total_px / self.count if self.count else float("nan")


@dataclass
class Share:
    """How many of the points lie where they should."""

    count: int = 0
    inside: int = 0

    def add(self, inside: NDArray[np.bool_]) -> None:
        self.count += len(inside)
        self.inside += int(inside.sum())

    @property
    def fraction(self) -> float:
        return self.inside / self.count if self.count else float("nan")


@dataclass
class Evidence:
    """What the samples looked at say about one split."""

    projection: Errors = field(default_factory=Errors)  # labelled 2D against projected 3D labels
    published: Errors = field(default_factory=Errors)  # published 2D against projected 3D labels, or labelled 2D where there is none
    in_box: Share = field(default_factory=Share)  # keypoints in the published box
    on_mask: Share = field(default_factory=Share)  # keypoints on the published mask

    def add(self, sample: HandSample, published: Sequence[Published]) -> None:
        """Compare one sample's hands with what is published about them, in the same order."""
        for number, hand in enumerate(sample.hands):
            projected = None if hand.keypoints_m is None else _project(hand)
            if projected is not None:
                self.projection.add(_distances(projected, hand.keypoints_px, hand.visible))
            if number < len(published):
                self._compare(hand, projected, published[number])
            if sample.mask is not None and sample.mask_source == "published":
                self.on_mask.add(_on_mask(sample.mask == number + 1, hand.keypoints_px[hand.visible]))

    def _compare(self, hand: HandLabel, projected: NDArray | None, published: Published) -> None:
        if published.keypoints_px is not None:
            known = np.isfinite(published.keypoints_px).all(1) & hand.visible
            self.published.add(_distances(hand.keypoints_px if projected is None else projected, published.keypoints_px, known))
        if published.box_px is not None:
            points, box = hand.keypoints_px[hand.visible], np.asarray(published.box_px)
            self.in_box.add(np.all((points >= box[:2] - NEAR_PX) & (points <= box[2:] + NEAR_PX), axis=1))


def _project(hand: HandLabel) -> NDArray[np.float64]:
    """(21,2) pixels of keypoints_m under the hand's camera; NaN behind it."""
    assert hand.keypoints_m is not None
    points = hand.keypoints_m.astype(np.float64) @ hand.K.T
    depths = np.where(points[:, 2:] > 0, points[:, 2:], np.nan)
    return np.asarray(points[:, :2] / depths)


def _distances(a: NDArray, b: NDArray, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    distances = np.linalg.norm(np.asarray(a, np.float64) - b, axis=1)[chosen]
    return np.where(np.isfinite(distances), distances, np.inf)


def _on_mask(mask: NDArray[np.bool_], points_px: NDArray) -> NDArray[np.bool_]:
    """Whether each point (N,2) lies within NEAR_PX of the mask."""
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    height, width = mask.shape
    columns = np.clip(np.floor(points_px[:, 0]), 0, width - 1).astype(int)
    rows = np.clip(np.floor(points_px[:, 1]), 0, height - 1).astype(int)
    return np.asarray(distance[rows, columns] <= NEAR_PX)
