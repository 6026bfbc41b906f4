"""One scene: a pure function of (configuration, seed, index) and of the source's samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.composition import backgrounds
from pipelines.composition.kernels import mean_color
from pipelines.composition.layout import pack_squares
from pipelines.composition.paste import Canvas
from pipelines.composition.patch import cut_hand, whole_image
from pipelines.config import SceneSetConfig
from pipelines.datasets.sample import DataError, HandLabel, HandSample
from pipelines.shards import ShardReader
from pipelines.shards.manifest import Counts, add_counts

MAX_GAIN = 1.4  # colours are matched lightly: never by more than this factor, up or down
LIGHT_STEP = 8  # every so many pixels are looked at for an image's mean colour
PLACES = 8  # cells along each side of the canvas in which hands' centres are counted
MAX_DRAWS = 20  # samples to look at for one with a hand


class SceneComposer:
    """Composes the scenes of one set from single-hand samples. Opens nothing but the source's shards and backgrounds."""

    def __init__(self, config: SceneSetConfig, source: str | Path) -> None:
        """`source`: folder of shards. DataError if it cannot be used, or belongs to another split than the set's."""
        self.config = config
        self.reader = ShardReader(source)
        manifest = self.reader.manifest
        if (manifest.dataset, manifest.split) != (config.source, config.split):
            expected = f"dataset {config.source!r}, split {config.split!r}"
            raise DataError(f"{source}/manifest.json: expected {expected}, got {manifest.dataset!r}, {manifest.split!r}")
        if manifest.num_hands == 0:
            raise DataError(f"{source}: no hand in any of its {manifest.num_samples} samples")
        self.background_files = backgrounds.list_images(config.backgrounds_dir) if config.backgrounds_dir else []
        self._counts: tuple[int, Counts] = (-1, {})

    def sample(self, index: int) -> HandSample:
        """Scene `index`: image, camera (focal_px, centre of the canvas), labels of the hands that can be seen, and mask."""
        config = self.config
        rng = np.random.default_rng((config.seed, index))
        wanted = 0 if rng.random() < config.empty_fraction else int(rng.integers(config.min_hands, config.max_hands + 1))
        canvas, first_layer, light = self._start(rng, with_hand=wanted > 0)
        more = wanted - len(canvas.hands)
        hands = []
        for square in pack_squares(config.canvas_px, config.hand_px, rng, more, config.overlap) if more > 0 else []:
            source = self._draw_source(rng)
            hand = int(rng.integers(len(source.hands)))
            hands.append((source, hand, square, bool(rng.random() < config.flip_fraction)))
        # all are decoded, then all cut out, then all pasted: work that is repeated finds its code in the processor's caches
        patches = [
            cut_hand(source, hand, square, flip=flip, feather_px=config.feather_px, gain=self._gain(source, light))
            for source, hand, square, flip in hands
        ]
        for patch in patches:
            canvas.paste(patch)
        labels, mask = canvas.finish(config.min_visible)
        self._counts = (index, self._count(canvas, first_layer, labels))
        center = config.canvas_px / 2
        K = np.array([[config.focal_px, 0.0, center], [0.0, config.focal_px, center], [0.0, 0.0, 1.0]])
        return HandSample(key=f"{index:08d}", image=canvas.image, K=K, hands=labels, mask=mask)

    def counts(self, index: int) -> Counts:
        """Histograms of scene `index` beside those of its labels; see `_count`."""
        if self._counts[0] != index:
            self.sample(index)
        return self._counts[1]

    def _start(self, rng: np.random.Generator, *, with_hand: bool) -> tuple[Canvas, str, Sequence[float]]:
        """A canvas with its first layer, a whole source image with its hand or a background alone; its kind and its mean colour."""
        config = self.config
        if with_hand and rng.random() < config.whole_first_fraction:
            source = self._draw_source(rng)
            flip = bool(rng.random() < config.flip_fraction)
            canvas = Canvas.of_image(whole_image(source, config.canvas_px, float(rng.random()), flip=flip))
            return canvas, "whole images", mean_color(source.image, LIGHT_STEP)
        background, kind = self._background(rng)
        return Canvas(background), kind, mean_color(background, LIGHT_STEP)

    def _background(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
        """A picture without a hand, and its kind."""
        side, weights = self.config.canvas_px, self.config.backgrounds
        choice = float(rng.random()) * (weights.sources + weights.folder + weights.generated)
        if choice < weights.sources:
            strip = backgrounds.from_source(self._draw_source(rng, labels_3d=False), side, rng)
            if strip is not None:
                return strip, "strips of sources"
        if self.background_files and (choice < weights.sources + weights.folder or weights.generated == 0):
            file = self.background_files[int(rng.integers(len(self.background_files)))]
            return backgrounds.from_file(file, side, rng), "images of the folder"
        return backgrounds.generate(side, rng), "generated pictures"

    def _draw_source(self, rng: np.random.Generator, *, labels_3d: bool = True) -> HandSample:
        for _ in range(MAX_DRAWS):
            index = int(rng.integers(len(self.reader)))
            sample = self.reader.read(index, labels_3d=labels_3d)
            if sample.mask is None:
                raise DataError(f"{self.reader.folder}: sample {sample.key} has no mask; composition cuts hands out by their masks")
            if sample.hands:
                return sample
        raise DataError(f"{self.reader.folder}: no hand in {MAX_DRAWS} samples drawn; expected a set of images that show hands")

    def _gain(self, source: HandSample, light: Sequence[float]) -> NDArray[np.float64]:
        """(3,) factor that moves a source's mean colour towards the scene's; color_match is how far, 0 not at all, 1 fully."""
        strength = self.config.color_match
        ratios = [max(wanted, 1.0) / max(own, 1.0) for wanted, own in zip(light, mean_color(source.image, LIGHT_STEP), strict=True)]
        return np.array([min(max(ratio**strength, 1 / MAX_GAIN), MAX_GAIN) for ratio in ratios])

    def _count(self, canvas: Canvas, first_layer: str, labels: Sequence[HandLabel]) -> Counts:
        """Histograms of one scene: hands pasted and dropped, their visible shares, where labelled ones are, the first layer's kind."""
        counts: Counts = {"background": {first_layer: 1}}
        pasted = len(canvas.hands)
        add_counts(counts, {"hands_pasted": {str(pasted): 1}, "hands_dropped": {str(pasted - len(labels)): 1}})
        for share in canvas.visible_shares():
            add_counts(counts, {"visible_percent": {str(int(share * 10) * 10): 1}})
        for label in labels:
            x0, y0, x1, y1 = label.box_px.tolist()
            row, column = (min(max(int(v / 2 / self.config.canvas_px * PLACES), 0), PLACES - 1) for v in (y0 + y1, x0 + x1))
            add_counts(counts, {"center_cell": {f"{row},{column}": 1}})
        return counts
