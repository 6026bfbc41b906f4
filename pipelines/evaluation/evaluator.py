"""Collects predictions image by image and turns them into the figures of an evaluation, ours and the mean hand's.

In crops the mean hand says the same of every hand, at its usual size and of its usual side; in whole images it takes
place, size and side from our detections. Both are measured on the very same hands: those our detections found, or all
of them where their centres are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import (
    AUC_THRESHOLDS_M,
    Matches,
    hand_type_accuracy,
    match_detections,
)
from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.labels import hand_size_px, stack_keypoints
from pipelines.evaluation.mean_hand import MeanHand
from pipelines.evaluation.measures import THRESHOLDS_2D, Measured, Targets, measure, targets_of
from pipelines.evaluation.predicted import PredictedHands
from pipelines.evaluation.summary import Figures, detection_figures, finite_figures, mean_figures, pck_columns
from pipelines.evaluation.viewpoint import OPTICAL_AXIS, rotate, rotation_between, viewing_rays

Array = NDArray[np.float64]
OURS, MEAN_HAND = "ours", "mean_hand"


@dataclass(frozen=True, kw_only=True)
class Results:
    """metrics: {"ours": {...}, "mean_hand": {...}, "count": {...}}; hands: columns of the per-hand table; curves by name.

    curves: "pck" and "pck_2d", each with thresholds and the shares of ours and of the mean hand.
    """

    metrics: dict[str, Figures]
    hands: dict[str, NDArray]
    pck: dict[str, Array]
    pck_2d: dict[str, Array]


@dataclass(kw_only=True)
class _Collected:
    """Everything seen so far, image by image; the 3D of detections below the score threshold is not kept."""

    keys: list[str] = field(default_factory=list)
    hands: list[tuple[HandLabel, ...]] = field(default_factory=list)
    side: list[NDArray[np.int64]] = field(default_factory=list)
    score: list[Array] = field(default_factory=list)
    keypoints_px: list[Array] = field(default_factory=list)
    mean_px: list[Array] = field(default_factory=list)
    center_px: list[Array] = field(default_factory=list)
    K: list[Array] = field(default_factory=list)
    keypoints_m: list[NDArray[np.float32]] = field(default_factory=list)
    vertices_m: list[NDArray[np.float32]] = field(default_factory=list)


class Evaluator:
    """Add the images one after another, then ask for the results.

    placement of the mean hand, "crop": at its usual size and side in the crop, "detection": as our predicted hand.
    centers_given: prediction i of an image is of its hand i (true centres) and nothing is matched.
    """

    def __init__(
        self,
        mean_hand: MeanHand,
        *,
        placement: Literal["crop", "detection"],
        centers_given: bool,
        score_threshold: float,
        match_threshold: float,
    ) -> None:
        self.mean_hand = mean_hand
        self.placement = placement
        self.centers_given = centers_given
        self.score_threshold = 0.0 if centers_given else score_threshold
        self.match_threshold = match_threshold
        self.seen = _Collected()

    def add(self, key: str, hands: Sequence[HandLabel], predicted: PredictedHands) -> None:
        """One image: its measurable labelled hands and what was predicted. ValueError if given centres and predictions differ in number."""
        if self.centers_given and len(hands) != len(predicted):
            raise ValueError(f"{key}: expected one prediction for each of {len(hands)} given centres, got {len(predicted)}")
        seen, kept = self.seen, predicted.score >= self.score_threshold
        seen.keys.append(key)
        seen.hands.append(tuple(hands))
        seen.side.append(predicted.side)
        seen.score.append(predicted.score)
        seen.keypoints_px.append(predicted.keypoints_px)
        seen.mean_px.append(self._place_mean_hand(predicted))
        seen.center_px.append(predicted.center_px[kept])
        seen.K.append(predicted.K[kept])
        seen.keypoints_m.append(predicted.keypoints_m[kept])
        seen.vertices_m.append(predicted.vertices_m[kept])

    def _place_mean_hand(self, predicted: PredictedHands) -> Array:
        placed = np.zeros((len(predicted), 21, 2))
        if self.placement == "detection" and len(predicted):
            sizes = np.ptp(predicted.keypoints_px, axis=1).max(axis=1)
        for i, (side, center) in enumerate(zip(self._mean_hand_sides(predicted.side), predicted.center_px, strict=True)):
            if self.placement == "crop":
                placed[i] = self.mean_hand.keypoints_in_crop(side, center, float(predicted.frame_px[i]))
            else:
                placed[i] = self.mean_hand.keypoints_of_size(side, center, float(sizes[i]))
        return placed

    def _mean_hand_sides(self, predicted: NDArray[np.int64]) -> list[int]:
        return [self.mean_hand.usual_side] * len(predicted) if self.placement == "crop" else predicted.tolist()

    def results(self) -> Results:
        """Figures over everything added. ValueError when no image had a measurable hand."""
        hands = [hand for image in self.seen.hands for hand in image]
        if not hands:
            raise ValueError("evaluation: expected at least one labelled hand, got none")
        all_matches = {OURS: self._match(self.seen.keypoints_px)}
        if not self.centers_given:
            all_matches[MEAN_HAND] = self._match(self.seen.mean_px)
        matches = all_matches[OURS].above(self.score_threshold)
        detections, found = matches.pairs
        targets = targets_of([hands[i] for i in found])
        measured = self._measure(detections, [hands[i] for i in found], targets)
        metrics = {who: mean_figures(columns) for who, columns in measured.items()}
        for who, all_of in all_matches.items():
            if not self.centers_given:
                metrics[who] |= detection_figures(all_of, self.score_threshold)
        sides = self._kept(self.seen.side, np.int64)[detections]
        metrics[OURS]["hand_type_accuracy"] = hand_type_accuracy(sides, np.array([hands[i].side for i in found]))
        count = {
            "images": len(self.seen.keys),
            "hands": len(hands),
            "detections": len(matches.hand_of_detection),
            "measured_hands": len(found),
            "measured_hands_3d": int((~np.isnan(targets.keypoints_m).any(axis=(1, 2))).sum()),
            "training_hands_of_mean_hand": self.mean_hand.num_hands,
        }
        return Results(
            metrics={
                **{who: finite_figures(figures) for who, figures in metrics.items()},
                "count": {k: float(v) for k, v in count.items()},
            },
            hands=self._table(hands, matches, measured, sides),
            pck=pck_columns("threshold_mm", AUC_THRESHOLDS_M, 1000.0, {who: (m.aligned_joints_m, None) for who, m in measured.items()}),
            pck_2d=pck_columns(
                "threshold_fraction", THRESHOLDS_2D, 1.0, {who: (m.relative_2d, targets.labelled) for who, m in measured.items()}
            ),
        )

    def _match(self, keypoints_px: list[Array]) -> Matches:
        if self.centers_given:
            image = np.repeat(np.arange(len(self.seen.hands)), [len(hands) for hands in self.seen.hands])
            number = np.arange(len(image))
            return Matches(number, number, self._kept(self.seen.score, np.float64), image, image)
        stacked = [stack_keypoints(hands) for hands in self.seen.hands]
        return match_detections(
            keypoints_px, self.seen.score, [k for k, _ in stacked], [known for _, known in stacked], match_threshold=self.match_threshold
        )

    def _kept(self, parts: list[NDArray], dtype: type) -> NDArray:
        """The parts of all images as one array, without detections below the score threshold."""
        kept = [part[score >= self.score_threshold] for part, score in zip(parts, self.seen.score, strict=True)]
        return np.concatenate(kept).astype(dtype)

    def _measure(self, detections: NDArray[np.int64], hands: list[HandLabel], targets: Targets) -> dict[str, Measured]:
        center_px = np.concatenate(self.seen.center_px)[detections]
        side = self._kept(self.seen.side, np.int64)[detections]
        # 3D labels live in the camera of their own photograph: turn what was predicted along another ray
        ray = viewing_rays(np.concatenate(self.seen.K)[detections], center_px)
        label_ray = viewing_rays(np.array([hand.K for hand in hands]).reshape(-1, 3, 3), center_px)
        turn = rotation_between(ray, label_ray)
        turn_mean = rotation_between(np.broadcast_to(OPTICAL_AXIS, label_ray.shape), label_ray)
        mean = self.mean_hand
        mean_sides = self._mean_hand_sides(side)
        mean_joints = np.array([mean.joints(s) for s in mean_sides]).reshape(-1, 21, 3)
        mean_vertices = np.array([mean.vertices(s) for s in mean_sides]).reshape(-1, 778, 3)
        return {
            OURS: measure(
                self._kept(self.seen.keypoints_px, np.float64)[detections],
                rotate(np.concatenate(self.seen.keypoints_m)[detections], turn),
                rotate(np.concatenate(self.seen.vertices_m)[detections], turn),
                targets,
            ),
            MEAN_HAND: measure(
                self._kept(self.seen.mean_px, np.float64)[detections],
                rotate(mean_joints, turn_mean),
                rotate(mean_vertices, turn_mean),
                targets,
            ),
        }

    def _table(
        self, hands: list[HandLabel], matches: Matches, measured: dict[str, Measured], sides: NDArray[np.int64]
    ) -> dict[str, NDArray]:
        detections, found = matches.pairs
        num_hands = np.array([len(image) for image in self.seen.hands])

        def spread(values: NDArray, missing: float) -> NDArray:
            column = np.full(len(hands), missing, dtype=values.dtype if values.dtype.kind == "i" else np.float64)
            column[found] = values
            return column

        table: dict[str, NDArray] = {
            "key": np.repeat(np.array(self.seen.keys), num_hands),
            "hand": np.concatenate([np.arange(n) for n in num_hands]),
            "num_hands": np.repeat(num_hands, num_hands),
            "side": np.array([hand.side for hand in hands]),
            "size_px": np.array([hand_size_px(hand) for hand in hands]),
            "visible": np.array([hand.visible.mean() for hand in hands]),
            "found": matches.detection_of_hand >= 0,
            "score": spread(matches.scores[detections], np.nan),
            "predicted_side": spread(sides, -1),
        }
        for who, prefix in ((OURS, ""), (MEAN_HAND, "mean_hand_")):
            table |= {f"{prefix}{name}": spread(values, np.nan) for name, values in measured[who].columns.items()}
        return table
