"""Validation while training: averaged weights on held-out images, hands found by the network itself, with overlays to look at."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handnet.network.handnet import HandNet
from handnet.predict import HandPrediction, ModelDescription, Predictor
from pipelines.config import StageConfig
from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.drawing import draw_skeleton, grid, upscale
from pipelines.evaluation.frames import Frame, crop_frame, frames_of
from pipelines.evaluation.labels import is_measurable
from pipelines.evaluation.matching import MatchCollector, match_given, match_keypoints
from pipelines.evaluation.measures import measure, targets_of
from pipelines.evaluation.predicted import PredictedHands, gather
from pipelines.evaluation.summary import detection_figures, finite_figures, mean_figures
from pipelines.shards import ShardReader
from pipelines.training.trainer import Validation

SCORE_THRESHOLD, LOWEST_SCORE = 0.3, 0.05
MIN_SIMILARITY = 0.1  # a detection less similar than this to every hand has found none
MISSED_ERROR = 0.5  # a missed hand counts as this share of its size off
BATCH_SIZE, NUM_DRAWN, DRAWN_PX = 8, 8, 256
SHOWN = ("error_2d_px", "error_2d_fraction", "pa_mpjpe_mm", "precision", "recall", "ap", "hand_type_accuracy")


class Validator:
    """Measures weights on the first samples of a folder of shards, and draws what they predict into `picture`, replaced every time.

    Where the stage does not train a centre map, the true centres are given.
    """

    def __init__(self, network: HandNet, description: ModelDescription, config: StageConfig, reader: ShardReader, picture: Path):
        self.network, self.description, self.config, self.reader, self.picture = network, description, config, reader, picture
        self.given = config.loss.center == 0
        self.centers: Literal["true", "predicted"] = "true" if self.given else "predicted"
        self.predictor: Predictor | None = None

    def __call__(self, weights: dict[str, Tensor], step: int) -> Validation:
        if self.predictor is None:
            device = next(self.network.parameters()).device
            self.predictor = Predictor(copy.deepcopy(self.network), self.description, device)
        self.predictor.network.load_state_dict(weights)
        hands: list[tuple[HandLabel, ...]] = []
        predicted: list[PredictedHands] = []
        pictures: list[NDArray[np.uint8]] = []
        num = min(len(self.reader), self.config.validate_samples)
        for start in range(0, num, BATCH_SIZE):
            samples = [self.reader.read(i, labels_3d=True) for i in range(start, min(start + BATCH_SIZE, num))]
            shown = [pair for sample in samples for pair in self._frames(sample)]
            if not shown:
                continue
            frames, labels = [frame for frame, _ in shown], [own for _, own in shown]
            found: list[list[HandPrediction]] = self.predictor.predict(
                np.stack([frame.image for frame in frames]),
                np.stack([frame.K for frame in frames]),
                [frame.centers_px for frame in frames if frame.centers_px is not None] if self.given else None,
                score_threshold=LOWEST_SCORE,
            )
            hands += labels
            predicted += [gather([frame], [own]) for frame, own in zip(frames, found, strict=True)]
            num_before = len(pictures)
            pictures += [frame.image for frame in frames[: NUM_DRAWN - num_before]]
            for image, own in zip(range(num_before, len(pictures)), found, strict=False):
                pictures[image] = self._drawn(pictures[image], own)
        if not predicted:
            raise ValueError(f"{self.reader.folder}: expected labelled hands to validate on, got none in {num} samples")
        self._write(pictures)
        figures = self._figures(hands, predicted)
        missed = 1 - figures.get("recall", 0.0)
        score = (1 - missed) * figures.get("error_2d_fraction", 0.0) + missed * MISSED_ERROR
        return Validation(figures=figures, score=score, picture=self.picture)

    def _frames(self, sample: HandSample) -> list[tuple[Frame, tuple[HandLabel, ...]]]:
        """What is shown of an image, each with its labelled hands: crops of their own where training cuts hands out by their boxes."""
        config, hands = self.config, tuple(hand for hand in sample.hands if is_measurable(hand))
        if config.box_scale is not None:
            return [(crop_frame(sample, hand, config.input_px, config.center, config.box_scale), (hand,)) for hand in hands]
        frames = frames_of(sample, hands, config.input_px, model="multi", centers=self.centers, definition=config.center)
        return [(frames[0], hands)]

    def _figures(self, hands: list[tuple[HandLabel, ...]], predicted: list[PredictedHands]) -> dict[str, float]:
        collected = MatchCollector()
        for image, own in zip(predicted, hands, strict=True):
            match = match_given(len(own)) if self.given else match_keypoints(image.keypoints_px, image.score, own, MIN_SIMILARITY)
            collected.add(match, image.score)
        matches = collected.joined()
        threshold = 0.0 if self.given else SCORE_THRESHOLD
        kept = [image.chosen(image.score >= threshold) for image in predicted]
        detections, found = matches.above(threshold).pairs
        labels = [hand for own in hands for hand in own]
        matched = [labels[i] for i in found]

        def of(name: str) -> NDArray:
            return np.concatenate([getattr(image, name) for image in kept])[detections]

        targets = targets_of(matched)
        targets = replace(targets, vertices_m=np.full_like(targets.vertices_m, np.nan))  # meshes take long to measure
        measured = measure(of("keypoints_px"), of("keypoints_m"), of("vertices_m"), targets)
        figures = mean_figures(measured) | detection_figures(matches, threshold)
        if matched:
            figures["hand_type_accuracy"] = float((of("side") == np.array([hand.side for hand in matched])).mean())
        return finite_figures({name: figures[name] for name in SHOWN if name in figures})

    def _drawn(self, image: NDArray[np.uint8], hands: list[HandPrediction]) -> NDArray[np.uint8]:
        large, factor = upscale(image, DRAWN_PX)
        for hand in hands:
            if self.given or hand.score >= SCORE_THRESHOLD:
                large = draw_skeleton(large, hand.keypoints_px * factor, side=hand.side)
        return large

    def _write(self, pictures: list[NDArray[np.uint8]]) -> None:
        self.picture.parent.mkdir(parents=True, exist_ok=True)
        partial = self.picture.with_name(f"partial-{self.picture.name}")
        cv2.imwrite(str(partial), cv2.cvtColor(grid(pictures, columns=4), cv2.COLOR_RGB2BGR))
        partial.replace(self.picture)
