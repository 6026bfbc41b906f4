"""Runs a predictor over the samples of a folder of shards and says of every image which prediction is which labelled hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from handnet.centers import CenterDefinition
from handnet.hand.layer import HandLayer
from pipelines.config import EvaluationConfig
from pipelines.datasets.sample import MASK_IGNORE, HandLabel, HandSample
from pipelines.evaluation.frames import Frame, frames_of
from pipelines.evaluation.ground_truth import GroundTruth
from pipelines.evaluation.labels import is_measurable
from pipelines.evaluation.matching import ImageMatch, match_given, match_keypoints, match_masks
from pipelines.evaluation.predicted import PredictedHands, PredictorLike, gather
from pipelines.evaluation.silhouettes import Overlap, overlap
from pipelines.evaluation.true_sides import answered, questions
from pipelines.progress import Progress
from pipelines.shards import ShardReader

# AP follows the curve below the score threshold too, down to here
LOWEST_SCORE = 0.05
READ_AHEAD = 2  # batches that are read while one is predicted
WITH_TRUE_SIDES = ("two-hands", "interhand")  # protocols that also ask for the hand under its true type
WITH_MASKS = ("masks", "interhand")  # protocols that look at the mask of an image

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class EvaluatedImage:
    """One image: the hands that can be measured, what was predicted, which is which, and the predictor's own records (`raw`).

    number: its place in the data. size_px: height, width. overlap: of silhouettes and masks, where the protocol asks for it.
    true_side_m: (D, 21, 3) joints of the matched hands under their true type, NaN elsewhere, or None. unlabelled: there are
    hands without a label.
    """

    key: str
    number: int
    size_px: tuple[int, int]
    hands: tuple[HandLabel, ...]
    predicted: PredictedHands
    match: ImageMatch
    raw: list[Any]
    overlap: Overlap | None = None
    true_side_m: NDArray[np.float32] | None = None
    unlabelled: bool = False

    def chosen(self, kept: NDArray[np.bool_]) -> tuple[PredictedHands, list[Any]]:
        """Predictions and records of those for which `kept` (D,) is true."""
        return self.predicted.chosen(kept), [hand for hand, is_kept in zip(self.raw, kept.tolist(), strict=True) if is_kept]


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A sample without its pixels, and the frames it is shown in."""

    key: str
    number: int
    size_px: tuple[int, int]
    hands: tuple[HandLabel, ...]
    mask: NDArray[np.uint8] | None
    frames: list[Frame]


def evaluate_images(
    reader: ShardReader,
    predictor: PredictorLike,
    config: EvaluationConfig,
    input_px: int,
    definition: CenterDefinition,
    layer: HandLayer | None = None,
    truth: GroundTruth | None = None,
    box_scale: float | None = None,
) -> Iterator[EvaluatedImage]:
    """Every sample in order, up to config.max_samples; config.batch_size frames are predicted at a time.

    layer: the hand model whose silhouettes protocol "masks" draws. truth: labels that the shards don't have.
    ValueError names a sample without the mask it needs.
    """
    num = min(len(reader), config.max_samples or len(reader))

    def waiting() -> Iterator[list[_Waiting]]:
        batch: list[_Waiting] = []
        for number in range(num):
            sample = reader.read(number, labels_3d=True, mask=config.protocol in WITH_MASKS)
            if truth is None:
                hands = shown_hands = measurable_hands(sample, config)
            else:
                hands, shown_hands = (truth.label(sample, number),), (truth.shown(sample),)
            frames = frames_of(
                sample, shown_hands, input_px, model=config.model, centers=config.centers, definition=definition, box_scale=box_scale
            )
            size_px = sample.height_px, sample.width_px
            batch.append(_Waiting(key=sample.key, number=number, size_px=size_px, hands=hands, mask=sample.mask, frames=frames))
            if sum(len(image.frames) for image in batch) >= config.batch_size or number == num - 1:
                yield batch
                batch = []

    with Progress(f"evaluate {config.data}", num, "images") as progress:
        for batch in ahead(waiting(), READ_AHEAD):
            yield from _evaluate(predictor, config, batch, layer)
            progress.advance(len(batch))


def shown(predicted: PredictedHands, config: EvaluationConfig) -> NDArray[np.bool_]:
    """(D,) predictions that count as detections: those scored at least the threshold, all of them at given centres."""
    return predicted.score >= (0.0 if config.centers == "true" else config.score_threshold)


def measurable_hands(sample: HandSample, config: EvaluationConfig) -> tuple[HandLabel, ...]:
    """The labelled hands that the protocol can measure. ValueError for a sample without the mask that it needs."""
    if config.protocol != "masks":
        return tuple(hand for hand in sample.hands if is_measurable(hand))
    if sample.mask is None:
        raise ValueError(f"data/{config.data}: {sample.key}: expected a mask, which protocol 'masks' measures against, got none")
    # all of them: the mask numbers hands by their place
    return sample.hands


def ahead(items: Iterable[Item], num: int) -> Iterator[Item]:
    """The same items, of which a thread prepares the next `num` while one is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Any]] = deque(pool.submit(next, iterator, end) for _ in range(num))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item


def _evaluate(
    predictor: PredictorLike, config: EvaluationConfig, batch: list[_Waiting], layer: HandLayer | None
) -> Iterator[EvaluatedImage]:
    frames = [frame for image in batch for frame in image.frames]
    predictions = _predict(predictor, frames, config, None)
    images = []
    for image in batch:
        own, predictions = predictions[: len(image.frames)], predictions[len(image.frames) :]
        images.append(_matched(image, own, config, layer))
    if config.protocol in WITH_TRUE_SIDES:
        yield from _with_true_sides(predictor, config, batch, images)
    else:
        yield from images


def _predict(
    predictor: PredictorLike, frames: list[Frame], config: EvaluationConfig, sides: list[NDArray[np.int64]] | None
) -> list[list[Any]]:
    """The hands of each frame. sides: of the hands at each frame's given centres; None: as predicted."""
    predictions: list[list[Any]] = []
    for start in range(0, len(frames), config.batch_size):
        part = slice(start, start + config.batch_size)
        centers = [frame.centers_px for frame in frames[part] if frame.centers_px is not None]
        predictions += predictor.predict(
            np.stack([frame.image for frame in frames[part]]),
            np.stack([frame.K for frame in frames[part]]),
            centers or None,
            score_threshold=min(config.score_threshold, LOWEST_SCORE),
            **({} if sides is None else {"sides": sides[part]}),
        )
    return predictions


def _matched(image: _Waiting, predictions: list[list[Any]], config: EvaluationConfig, layer: HandLayer | None) -> EvaluatedImage:
    predicted = gather(image.frames, predictions)
    for name in ("score", "center_px", "keypoints_px", "keypoints_m", "vertices_m"):
        if not np.isfinite(getattr(predicted, name)).all():
            raise ValueError(f"{image.key}: {name}: expected finite predictions, got NaN or infinite ones; has the training diverged?")
    if config.centers == "true" and len(image.hands) != len(predicted):
        raise ValueError(f"{image.key}: expected one prediction for each of {len(image.hands)} given centres, got {len(predicted)}")
    silhouettes = None
    if config.protocol == "masks" and image.mask is not None and layer is not None:
        silhouettes = overlap(predicted, image.mask, len(image.hands), config.score_threshold, layer)
    if config.centers == "true":
        match = match_given(len(predicted))
    elif silhouettes is not None:
        match = match_masks(silhouettes.ious, predicted.score, config.min_similarity)
    else:
        match = match_keypoints(predicted.keypoints_px, predicted.score, image.hands, config.min_similarity)
    return EvaluatedImage(
        key=image.key,
        number=image.number,
        size_px=image.size_px,
        hands=image.hands,
        predicted=predicted,
        match=match,
        raw=[hand for part in predictions for hand in part],
        overlap=silhouettes,
        unlabelled=image.mask is not None and bool((image.mask == MASK_IGNORE).any()),
    )


def _with_true_sides(
    predictor: PredictorLike, config: EvaluationConfig, batch: list[_Waiting], images: list[EvaluatedImage]
) -> Iterator[EvaluatedImage]:
    asked = [
        questions(waiting.frames, image.raw, image.predicted, image.hands, image.match.above(shown(image.predicted, config)))
        for waiting, image in zip(batch, images, strict=True)
    ]
    flat = [question for of_image in asked for question in of_image]
    answers = iter(_predict(predictor, [question.frame for question in flat], config, [question.sides for question in flat]))
    for image, of_image in zip(images, asked, strict=True):
        yield replace(image, true_side_m=answered(image.predicted, [(question, next(answers)) for question in of_image]))
