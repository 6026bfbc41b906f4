"""Collects evaluated images one by one, writes their rows to the table of hands, and turns the table into the figures.

Ours and the mean hand's are measured on the very same hands: those our detections found, or all of them where their
centres are given. Images are measured some at a time, so memory grows by a few numbers a detection only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.centers import CenterDefinition
from handnet.metrics import AUC_THRESHOLDS_M, bootstrap_ratio
from handnet.skeleton import WRIST
from pipelines.config import EvaluationConfig
from pipelines.evaluation.baseline import Placement, placed_keypoints, posed
from pipelines.evaluation.curves import PckCounter
from pipelines.evaluation.figures import hand_type_right, intervals, table_means
from pipelines.evaluation.interhand import FoundHands, InterhandFigures
from pipelines.evaluation.matching import ImageMatch, MatchCollector, match_keypoints
from pipelines.evaluation.mean_hand import MeanHand
from pipelines.evaluation.measures import THRESHOLDS_2D, Measured, measure, targets_of
from pipelines.evaluation.measures_3d import MM, is_known, spread
from pipelines.evaluation.protocols import headline, headline_intervals
from pipelines.evaluation.rows import RowPlaces, put_identity, row_places
from pipelines.evaluation.runner import EvaluatedImage, shown
from pipelines.evaluation.strata import stratify
from pipelines.evaluation.summary import Figures, detection_figures, finite_figures
from pipelines.evaluation.table import MEAN_HAND, MEAN_HAND_FIGURES, HandTable, Rows
from pipelines.evaluation.viewpoint import OPTICAL_AXIS, rotate, rotation_between, viewing_rays

Array = NDArray[np.float64]
CHUNK = 512  # rows that are measured at a time
WHO = ("ours", "mean_hand")


@dataclass(frozen=True, kw_only=True)
class Results:
    """metrics: groups "ours", "mean_hand", "headline", "count" of figures, "ours_ci95" and "headline_ci95" of intervals.

    strata: as of `stratify`. pck, pck_vertices, pck_2d: thresholds and the shares of correct points of ours and of the mean hand.
    """

    metrics: dict[str, dict[str, Any]]
    strata: dict[str, list[dict[str, Any]]]
    pck: dict[str, Array]
    pck_vertices: dict[str, Array]
    pck_2d: dict[str, Array]


class Evaluator:
    """Add the images one after another, call `finish`, and after the table is closed ask for the results."""

    def __init__(
        self, mean_hand: MeanHand, config: EvaluationConfig, *, input_px: int, definition: CenterDefinition, table: HandTable
    ) -> None:
        self.mean_hand, self.config, self.input_px, self.definition, self.table = mean_hand, config, input_px, definition, table
        self.given = config.centers == "true"
        self.placement: Placement = "crop" if self.given and config.model == "crop" else "detection"
        self.waiting: list[EvaluatedImage] = []
        self.num_waiting = self.num_images = self.num_hands = 0
        self.matches = {who: MatchCollector() for who in WHO}
        self.pck = {who: PckCounter(AUC_THRESHOLDS_M) for who in WHO}
        self.pck_vertices = {who: PckCounter(AUC_THRESHOLDS_M) for who in WHO}
        self.pck_2d = {who: PckCounter(THRESHOLDS_2D) for who in WHO}
        self.interhand = InterhandFigures()
        self.overlaps: list[tuple[int, int]] = []  # pixels in both masks and in either, image by image

    def add(self, image: EvaluatedImage) -> None:
        """One image. It is measured, and its rows written, when there are enough of them."""
        self.num_images += 1
        self.num_hands += len(image.hands)
        self.matches["ours"].add(image.match, image.predicted.score)
        if not self.given and self.config.protocol != "masks":
            place = placed_keypoints(self.mean_hand, image.predicted, self.placement)
            mean = match_keypoints(place, image.predicted.score, image.hands, self.config.min_similarity)
            self.matches["mean_hand"].add(mean, image.predicted.score)
        if image.overlap is not None:
            self.overlaps.append((image.overlap.num_both, image.overlap.num_either))
        if self.config.protocol == "interhand" and not image.unlabelled:
            # at given centres a hand is known to be there, so only its side can be wrong
            scores = np.ones(len(image.predicted)) if self.given else image.predicted.score
            self.interhand.add_image(image.predicted.side.tolist(), scores.tolist(), [hand.side for hand in image.hands])
        self.waiting.append(image)
        self.num_waiting += len(image.hands) + len(image.predicted)
        if self.num_waiting >= CHUNK:
            self.finish()

    def finish(self) -> None:
        """Measure and write what is still waiting."""
        images, self.waiting, self.num_waiting = self.waiting, [], 0
        if not images:
            return
        places, matches, first = [], [], 0
        for image in images:
            kept = shown(image.predicted, self.config)
            match = image.match.above(kept)
            places.append(row_places(first, match, kept, image.predicted.score))
            matches.append(match)
            first += len(places[-1].hands) + len(places[-1].extra)
        rows = Rows(first)
        for image, place in zip(images, places, strict=True):
            kept = shown(image.predicted, self.config)
            put_identity(rows, place, image.number, image.key, image.hands, image.size_px, image.predicted, kept, self.definition)
        if self.config.protocol == "masks":
            self._put_overlaps(rows, images, places, matches)
        elif any(len(place.found) for place in places):
            self._put_measures(rows, images, places)
        self.table.add(rows)

    def _put_overlaps(self, rows: Rows, images: list[EvaluatedImage], places: list[RowPlaces], matches: list[ImageMatch]) -> None:
        for image, place, match in zip(images, places, matches, strict=True):
            if image.overlap is not None:
                found = np.flatnonzero(match.detection_of_hand >= 0)
                rows.put("mask_iou", place.found, image.overlap.ious[place.detections, found])

    def _put_measures(self, rows: Rows, images: list[EvaluatedImage], places: list[RowPlaces]) -> None:
        found = np.concatenate([place.found for place in places])
        hands = [image.hands[row - place.hands[0]] for image, place in zip(images, places, strict=True) for row in place.found]

        def of(name: str) -> NDArray:
            return np.concatenate([getattr(i.predicted, name)[p.detections] for i, p in zip(images, places, strict=True)])

        targets = targets_of(hands)
        K, label_K, centers, side = of("K"), np.array([hand.K for hand in hands]), of("center_px"), of("side")
        # 3D labels live in the camera of their own photograph: turn what was predicted along another ray
        label_ray = viewing_rays(label_K, centers)
        turn = rotation_between(viewing_rays(K, centers), label_ray)
        keypoints_m = rotate(of("keypoints_m"), turn)
        same_camera = np.isclose(K, label_K, rtol=1e-4, atol=1e-2).all(axis=(1, 2))
        keypoints_px = of("keypoints_px")
        ours = measure(keypoints_px, keypoints_m, rotate(of("vertices_m"), turn), targets, same_camera)
        turn_mean = rotation_between(np.broadcast_to(OPTICAL_AXIS, label_ray.shape), label_ray)
        joints, vertices = (rotate(points, turn_mean) for points in posed(self.mean_hand, side, self.placement))
        mean_px = np.concatenate(
            [
                placed_keypoints(self.mean_hand, image.predicted.chosen(place.detections), self.placement)
                for image, place in zip(images, places, strict=True)
            ]
        )
        mean = measure(mean_px, joints, vertices, targets)
        self._put_columns(rows, found, ours, mean, targets.labelled)
        rows.put("error_2d_input_px", found, ours.columns["error_2d_px"] * self.input_px / of("frame_px"))
        if images[0].true_side_m is not None:
            second = np.concatenate([i.true_side_m[p.detections] for i, p in zip(images, places, strict=True) if i.true_side_m is not None])
            rows.put("epe_true_side_mm", found, _epe_mm(rotate(second, turn), targets.keypoints_m))
        if self.config.protocol == "interhand":
            of_image = [(i.number, len(i.hands)) for i, p in zip(images, places, strict=True) for _ in p.found]
            number, num_hands = np.array(of_image, np.int64).T
            self.interhand.add_found(
                FoundHands(
                    image=number,
                    side=np.array([hand.side for hand in hands]),
                    num_hands=num_hands,
                    keypoints_m=keypoints_m,
                    target_m=targets.keypoints_m,
                    shared=same_camera,
                )
            )

    def _put_columns(self, rows: Rows, found: NDArray[np.int64], ours: Measured, mean: Measured, labelled: NDArray[np.bool_]) -> None:
        for who, measured in (("ours", ours), ("mean_hand", mean)):
            self.pck[who].add(measured.aligned_joints_m)
            self.pck_vertices[who].add(measured.aligned_vertices_m)
            self.pck_2d[who].add(measured.relative_2d, labelled)
        for name, values in ours.columns.items():
            rows.put(name, found, values)
        for name in MEAN_HAND_FIGURES:
            rows.put(f"{MEAN_HAND}{name}", found, mean.columns[name])

    def _extra(self) -> tuple[Figures, dict[str, list[float]]]:
        """What no column of the table holds, and its intervals."""
        if self.config.protocol == "interhand":
            return self.interhand.figures(), self.interhand.intervals()
        both, either = np.array(self.overlaps, np.float64).reshape(-1, 2).T
        if not either.any():
            return {}, {}
        return {"foreground_iou": float(both.sum() / either.sum())}, {"foreground_iou": bootstrap_ratio(both, either).tolist()}

    def results(self, table: Mapping[str, NDArray]) -> Results:
        """Figures of the written table's columns. ValueError when no image had a measurable hand."""
        if not self.num_hands:
            raise ValueError("evaluation: expected at least one labelled hand, got none")
        matches = None if self.given else self.matches["ours"].joined()
        metrics: dict[str, Figures] = table_means(table)
        if matches is not None:
            for who, collected in self.matches.items():
                if collected.parts:
                    metrics[who] |= detection_figures(collected.joined(), self.config.score_threshold)
        right = hand_type_right(table)
        if (~np.isnan(right)).any():
            metrics["ours"]["hand_type_accuracy"] = float(np.nanmean(right))
        metrics = {who: finite_figures(figures) for who, figures in metrics.items()}
        extra, extra_ci95 = self._extra()
        ours_ci95 = intervals(table, matches, self.num_images)
        labelled, found = table["labelled"], table["found"]
        count = {
            "images": self.num_images,
            "hands": self.num_hands,
            "detections": int((found | ~labelled).sum()),
            "measured_hands": int(found.sum()),
            "measured_hands_3d": int((~np.isnan(table["pa_mpjpe_mm"])).sum()),
            "training_hands_of_mean_hand": self.mean_hand.num_hands,
        }
        return Results(
            metrics={
                **metrics,
                "count": {name: float(value) for name, value in count.items()},
                "headline": headline(self.config.protocol, metrics["ours"], table, extra),
                "ours_ci95": ours_ci95,
                "headline_ci95": headline_intervals(self.config.protocol, ours_ci95, table, extra_ci95),
            },
            strata=stratify(table),
            pck={"threshold_mm": AUC_THRESHOLDS_M * MM} | {who: counter.curve() for who, counter in self.pck.items()},
            pck_vertices={"threshold_mm": AUC_THRESHOLDS_M * MM} | {who: counter.curve() for who, counter in self.pck_vertices.items()},
            pck_2d={"threshold_fraction": THRESHOLDS_2D} | {who: counter.curve() for who, counter in self.pck_2d.items()},
        )


def _epe_mm(keypoints_m: Array, target_m: NDArray[np.floating]) -> Array:
    known = is_known(target_m)
    offsets = keypoints_m[known] - keypoints_m[known, WRIST][:, None] - (target_m[known] - target_m[known, WRIST][:, None])
    return spread(np.linalg.norm(offsets, axis=2).mean(axis=1) * MM, known)
