"""Runs a trained model over a few held-out images and makes the table of pictures that shows what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.predict import Predictor
from pipelines.config import EvaluationConfig
from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.drawing import Image
from pipelines.evaluation.frames import center_definition, crop_scale, frames_of
from pipelines.evaluation.labels import is_measurable
from pipelines.evaluation.predicted import PredictedHands, gather
from pipelines.progress import Progress
from pipelines.reporting.inputs import HANDS
from pipelines.reporting.meshes import MeshScene
from pipelines.reporting.overlays import MeshPainter, plain, predicted_beside_labels, predicted_centers, predicted_skeletons
from pipelines.reporting.pictures import Cell, PictureTable, Row, evenly_spaced, joined, plural
from pipelines.shards import ShardReader

INPUT, MASK, KEYPOINTS, LABEL, MESH, TEXTURE, TURNED = (
    "input",
    "predicted mask",
    "predicted keypoints",
    "labelled mesh",
    "predicted mesh",
    "textured render",
    "turned by 90°",
)
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
        self.places = {reader.key(i): i for i in range(len(reader))}

    @property
    def centers(self) -> str:
        """Where the hands' centres come from, for people."""
        return "true centres given" if self.config.centers == "true" else "predicted centres (white discs with a cross)"

    def of_hands(self, hands: Hands, num: int, progress: Progress) -> PictureTable:
        """Single hands by rank of their 2D error: the best, those around the median, the worst; `num` in all."""
        chosen = []
        for rank, row in ranked(hands["error_2d_fraction"], num):
            key = str(hands["key"][row])
            sample = self._read(self._index_of(key), vertices=True)
            error, baseline = float(hands["error_2d_fraction"][row]), float(hands["mean_hand_error_2d_fraction"][row])
            aligned = float(hands["pa_mpjpe_mm"][row])
            subject = key if (hands["key"] == key).sum() == 1 else f"{key}, hand {int(hands['hand'][row]) + 1}"
            name = f"{rank}: {subject}"
            words = [
                f"{name}, 2D error {error:.1%} of hand size",
                f"PA-MPJPE {aligned:.1f} mm" if np.isfinite(aligned) else "",
                mean_hand_text(baseline),
            ]
            chosen.append((replace(sample, hands=(sample.hands[int(hands["hand"][row])],)), subject, name, joined(words)))
        with_labels = all(hand.vertices_m is not None for sample, *_ in chosen for hand in sample.hands)
        rows = []
        for sample, subject, name, caption in chosen:
            rows.append(self._row(sample, subject, name, caption, labelled_mesh=with_labels))
            progress.advance()
        what = "single hands: the best, median and worst by 2D error"
        note = "Each hand at its true centre: the best, the median and the worst by 2D error. White bones are the labels."
        return self._table(rows, f"predictions-{self.name}", what, note, labelled_mesh=with_labels)

    def of_images(self, hands: Hands, num: int, progress: Progress) -> PictureTable:
        """Whole images evenly spaced through the set."""
        total = min(len(self.reader), self.config.max_samples or len(self.reader))
        keys = [self.reader.key(index) for index in evenly_spaced(total, num)]
        rows = self._images(hands, [(key, "") for key in keys], progress)
        note = f"Evenly spaced through the set, not picked; {self.centers}."
        return self._table(rows, f"predictions-{self.name}", "whole images with every hand that was found", note)

    def of_ranked_images(self, hands: Hands, num: int, progress: Progress) -> PictureTable:
        """The best, median and worst whole images by the mean 2D error of the hands that were found in them; `num` in all."""
        keys, errors = image_errors(hands)
        rows = self._images(hands, [(keys[row], f"{rank}: ") for rank, row in ranked(errors, num)], progress)
        note = f"The best, the median and the worst images by the mean 2D error of the hands found in them; {self.centers}."
        return self._table(
            rows, f"cases-{self.name}", "whole images: the best, median and worst by the mean 2D error of the hands found", note
        )

    def _images(self, hands: Hands, chosen: list[tuple[str, str]], progress: Progress) -> list[Row]:
        rows = []
        for key, rank in chosen:
            name = f"{rank}{key}"
            rows.append(self._row(self._read(self._index_of(key)), key, name, f"{name}: {image_caption(hands, key)}"))
            progress.advance()
        return rows

    def single_hands(self, index: int) -> list[HandSample]:
        """A sample once for each of its hands, that hand alone."""
        sample = self._read(index)
        return [replace(sample, hands=(hand,)) for hand in sample.hands]

    def _index_of(self, key: str) -> int:
        if key not in self.places:
            table = f"results/{self.name}/{HANDS}"
            raise ValueError(f"{table}: expected samples of data/{self.config.data}, got {key}; evaluate again")
        return self.places[key]

    def _read(self, index: int, *, vertices: bool = False) -> HandSample:
        """A sample with the hands that the evaluation counts."""
        sample = self.reader.read(index, labels_3d=True, vertices=vertices)
        return replace(sample, hands=tuple(hand for hand in sample.hands if is_measurable(hand)), mask=None, mask_source=None)

    def _table(self, rows: list[Row], name: str, what: str, note: str, *, labelled_mesh: bool = False) -> PictureTable:
        columns = self._columns(labelled_mesh)
        return PictureTable(
            name=name,
            alt=f"Predictions of models/{self.config.model} on data/{self.config.data}, {what}. Columns: {', '.join(columns)}.",
            columns=columns,
            rows=tuple(rows),
            note=note,
        )

    def _columns(self, labelled_mesh: bool) -> tuple[str, ...]:
        missing = {LABEL: not labelled_mesh, TEXTURE: not self.predictor.network.config.texture}
        return tuple(name for name in (INPUT, MASK, KEYPOINTS, LABEL, MESH, TEXTURE, TURNED) if not missing.get(name))

    def _row(self, sample: HandSample, subject: str, name: str, caption: str, *, labelled_mesh: bool = False) -> Row:
        predicted, raw = self.predict(sample)
        if not shows_single_hands(self.config):
            caption = joined([caption, plural(len(predicted), "detection")])
        image, count, painter = sample.image, plural(len(predicted), "hand"), self.painter
        colors = None
        if self.predictor.network.config.texture:
            albedo = np.array([hand.albedo for hand in raw], np.float32).reshape(-1, 778, 3)
            light = np.array([hand.light for hand in raw], np.float32).reshape(-1, 27)
            colors = painter.lit_colors(predicted, albedo, light)
        pictures = {
            INPUT: (plain(sample), ""),
            MASK: (painter.masks(image, predicted), f", predicted masks of {count}"),
            KEYPOINTS: self._keypoints(sample, predicted, count),
            MESH: (painter.shaded(image, predicted), f", predicted meshes of {count} over the image"),
            TURNED: (painter.turned(image, predicted, colors), f", the meshes of {count}, each turned by 90 degrees"),
        }
        if labelled_mesh:
            pictures[LABEL] = (painter.shaded(image, labelled_meshes(sample.hands)), ", labelled mesh over the image")
        if colors is not None:
            pictures[TEXTURE] = (painter.colored(image, predicted, colors), f", {count} rendered in predicted colours and light")
        shown = [pictures[name] for name in self._columns(labelled_mesh)]
        size = (image.shape[1], image.shape[0])
        return Row(
            name=name,
            subject=subject,
            caption=caption,
            cells=tuple(Cell(image=picture, alt=f"Image {sample.key}{alt}") for picture, alt in shown),
            meshes=MeshScene(caption=caption, size_px=size, hands=predicted, colors=colors),
        )

    def _keypoints(self, sample: HandSample, predicted: PredictedHands, count: str) -> tuple[Image, str]:
        alt = f", predicted keypoints of {count}"
        if shows_single_hands(self.config):
            return predicted_beside_labels(sample.image, predicted, sample.hands), f"{alt} and the labelled ones in white"
        if self.config.centers == "true":
            return predicted_skeletons(sample.image, predicted), alt
        return predicted_centers(sample.image, predicted), f"{alt} and their predicted centres"

    def predict(self, sample: HandSample) -> tuple[PredictedHands, list[Any]]:
        """The hands found in a sample, or those at its labelled centres where the evaluation gives them; as arrays and as records."""
        config, description = self.config, self.predictor.description
        definition, box_scale = center_definition(description.provenance), crop_scale(description.provenance)
        size, model = description.input_px, config.model
        frames = frames_of(sample, sample.hands, size, model=model, centers=config.centers, definition=definition, box_scale=box_scale)
        raw = []
        for frame in frames:
            centers = None if frame.centers_px is None else [frame.centers_px]
            raw += self.predictor.predict(frame.image[None], frame.K[None], centers, score_threshold=config.score_threshold)
        return gather(frames, raw), [hand for found in raw for hand in found]


def num_ranked(num: int) -> int:
    """How many `ranked` shows of many when `num` are asked for: as many of each rank, one at least."""
    return max(1, num // NUM_RANKS) * NUM_RANKS


def ranked(errors: NDArray[np.floating], num: int) -> list[tuple[str, int]]:
    """(rank, row) of the hands to show, best first: a third each of the best, around the median, and the worst. NaN is left out."""
    rows = np.flatnonzero(np.isfinite(errors))
    order = rows[np.argsort(errors[rows], kind="stable")].tolist()
    each = min(num_ranked(num) // NUM_RANKS, len(order) // NUM_RANKS)
    if each == 0:
        return [(f"rank {i + 1}", row) for i, row in enumerate(order)]
    middle = (len(order) - each) // 2
    parts = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    return [(rank, row) for rank, part in parts.items() for row in part]


def image_errors(hands: Hands) -> tuple[list[str], NDArray[np.float64]]:
    """The images with labelled hands, and the mean 2D error of the hands found in each; NaN where none was."""
    keys, image = np.unique(hands["key"], return_inverse=True)
    errors = hands["error_2d_fraction"]
    measured = np.isfinite(errors)
    sums = np.bincount(image[measured], errors[measured], len(keys))
    counts = np.bincount(image[measured], minlength=len(keys))
    means = np.full(len(keys), np.nan)
    means[counts > 0] = sums[counts > 0] / counts[counts > 0]
    return [str(key) for key in keys], means


def labelled_meshes(hands: Sequence[HandLabel]) -> PredictedHands:
    """Labels with vertices in the form of predictions, to be drawn in the same way."""
    vertices = np.array([hand.vertices_m for hand in hands], np.float32).reshape(-1, 778, 3)
    num = len(hands)
    return PredictedHands(
        side=np.array([hand.side for hand in hands], np.int64),
        score=np.ones(num),
        center_px=np.zeros((num, 2)),
        keypoints_px=np.array([hand.keypoints_px for hand in hands], np.float64).reshape(-1, 21, 2),
        keypoints_m=np.array([hand.keypoints_m for hand in hands], np.float32).reshape(-1, 21, 3),
        vertices_m=vertices,
        K=np.array([hand.K for hand in hands], np.float64).reshape(-1, 3, 3),
        frame_px=np.zeros(num),
    )


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
