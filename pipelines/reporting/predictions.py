"""Runs a trained model over a few held-out images and makes the table of pictures that shows what it found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.predict import Predictor
from pipelines.config import EvaluationConfig
from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.drawing import Image
from pipelines.evaluation.frames import center_definition, frames_of
from pipelines.evaluation.labels import is_measurable
from pipelines.evaluation.predicted import PredictedHands, gather
from pipelines.progress import Progress
from pipelines.reporting.overlays import MeshPainter, plain, predicted_beside_labels, predicted_centers, predicted_skeletons
from pipelines.reporting.pictures import Cell, PictureTable, Row, evenly_spaced, joined, plural
from pipelines.shards import ShardReader

COLUMNS = ("input", "predicted mask", "predicted keypoints", "predicted mesh", "textured render")
NUM_RANKS = 3  # best, median, worst

Hands = dict[str, NDArray]  # columns of the evaluation's table of labelled hands


def shows_single_hands(config: EvaluationConfig) -> bool:
    """Whether an evaluation shows the model one hand at a time, at its true centre."""
    return config.model == "crop" and config.centers == "true"


class PredictionTable:
    """Makes the rows of one evaluation."""

    def __init__(self, name: str, config: EvaluationConfig, reader: ShardReader, predictor: Predictor) -> None:
        self.name, self.config, self.reader, self.predictor = name, config, reader, predictor
        self.painter = MeshPainter(predictor.layer)

    def of_hands(self, hands: Hands, num: int, progress: Progress) -> PictureTable:
        """Single hands by rank of their 2D error: the best, those around the median, the worst; `num` in all."""
        index_of = {self.reader.key(i): i for i in range(len(self.reader))}
        rows = []
        for rank, row in ranked(hands["error_2d_fraction"], num):
            key = str(hands["key"][row])
            if key not in index_of:
                table = f"results/{self.name}/samples.parquet"
                raise ValueError(f"{table}: expected samples of data/{self.config.data}, got {key}; evaluate again")
            sample = self._read(index_of[key])
            error, baseline = float(hands["error_2d_fraction"][row]), float(hands["mean_hand_error_2d_fraction"][row])
            shown = replace(sample, hands=(sample.hands[int(hands["hand"][row])],), mask=None, mask_source=None)
            rows.append(self._row(shown, joined([f"{rank}: {key}, 2D error {error:.1%} of hand size", mean_hand_text(baseline)])))
            progress.advance()
        return self._table(rows, "single hands: the best, median and worst by 2D error")

    def of_images(self, hands: Hands, num: int, progress: Progress) -> PictureTable:
        """Whole images evenly spaced through the set."""
        total = min(len(self.reader), self.config.max_samples or len(self.reader))
        rows = []
        for index in evenly_spaced(total, num):
            sample = self._read(index)
            rows.append(self._row(sample, f"{sample.key}: {image_caption(hands, sample.key)}"))
            progress.advance()
        return self._table(rows, "whole images with every hand that was found")

    def _read(self, index: int) -> HandSample:
        """A sample with the hands that the evaluation counts."""
        sample = self.reader.read(index, labels_3d=True, vertices=False)
        return replace(sample, hands=tuple(hand for hand in sample.hands if is_measurable(hand)), mask=None, mask_source=None)

    def _table(self, rows: list[Row], what: str) -> PictureTable:
        columns = COLUMNS[: max((len(row.cells) for row in rows), default=len(COLUMNS))]
        return PictureTable(
            name=f"predictions-{self.name}",
            alt=f"Predictions of models/{self.config.model} on data/{self.config.data}, {what}. Columns: {', '.join(columns)}.",
            columns=columns,
            rows=tuple(rows),
        )

    def _row(self, sample: HandSample, caption: str) -> Row:
        predicted, raw = self._predict(sample, sample.hands)
        if not shows_single_hands(self.config):
            caption = joined([caption, plural(len(predicted), "detection")])
        image, count = sample.image, plural(len(predicted), "hand")
        pictures = [
            (plain(sample), f"Image {sample.key}"),
            (self.painter.masks(image, predicted), f"Image {sample.key}, predicted masks of {count}"),
            self._keypoints(sample, predicted, count),
            (self.painter.shaded(image, predicted), f"Image {sample.key}, predicted meshes of {count} over the image"),
        ]
        if self.predictor.network.config.texture:
            albedo = np.array([hand.albedo for hand in raw], np.float32).reshape(-1, 778, 3)
            light = np.array([hand.light for hand in raw], np.float32).reshape(-1, 27)
            textured = self.painter.textured(image, predicted, albedo, light)
            pictures.append((textured, f"Image {sample.key}, {count} rendered in predicted colours and light"))
        return Row(caption=caption, cells=tuple(Cell(image=picture, alt=alt) for picture, alt in pictures))

    def _keypoints(self, sample: HandSample, predicted: PredictedHands, count: str) -> tuple[Image, str]:
        alt = f"Image {sample.key}, predicted keypoints of {count}"
        if shows_single_hands(self.config):
            return predicted_beside_labels(sample.image, predicted, sample.hands), f"{alt} and the labelled ones in white"
        if self.config.centers == "true":
            return predicted_skeletons(sample.image, predicted), alt
        return predicted_centers(sample.image, predicted), f"{alt} and their predicted centres"

    def _predict(self, sample: HandSample, hands: tuple[HandLabel, ...]) -> tuple[PredictedHands, list[Any]]:
        config, description = self.config, self.predictor.description
        definition = center_definition(description.provenance)
        frames = frames_of(sample, hands, description.input_px, model=config.model, centers=config.centers, definition=definition)
        raw = []
        for frame in frames:
            centers = None if frame.centers_px is None else [frame.centers_px]
            raw += self.predictor.predict(frame.image[None], frame.K[None], centers, score_threshold=config.score_threshold)
        return gather(frames, raw), [hand for found in raw for hand in found]


def ranked(errors: NDArray[np.floating], num: int) -> list[tuple[str, int]]:
    """(rank, row) of the hands to show, best first: `num` // 3 each of the best, around the median, and the worst. NaN is left out."""
    rows = np.flatnonzero(np.isfinite(errors))
    order = rows[np.argsort(errors[rows], kind="stable")].tolist()
    each = min(max(1, num // NUM_RANKS), len(order) // NUM_RANKS)
    if each == 0:
        return [(f"rank {i + 1}", row) for i, row in enumerate(order)]
    middle = (len(order) - each) // 2
    parts = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    return [(rank, row) for rank, part in parts.items() for row in part]


def image_caption(hands: Hands, key: str) -> str:
    """What the evaluation says of one image."""
    rows = np.flatnonzero(hands["key"] == key)
    found = hands["found"][rows].astype(bool)
    errors = hands["error_2d_fraction"][rows][found]
    errors = errors[np.isfinite(errors)]
    if not len(rows):
        return "no labelled hand"
    quality = f"2D error {errors.mean():.1%} of hand size" if len(errors) else ""
    return joined([f"{int(found.sum())} of {plural(len(rows), 'labelled hand')} found", quality])


def mean_hand_text(error: float) -> str:
    """The baseline's error on the same hand, if it has one."""
    return f"mean hand {error:.1%}" if np.isfinite(error) else ""
