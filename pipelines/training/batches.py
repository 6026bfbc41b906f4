"""Training batches: what a step sees is a pure function of (seed, step), so a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from handnet.batch import HandBatch
from pipelines.augment import NUM_DRAWS, box_zoom, random_tones, random_views, whole_zoom
from pipelines.config import StageConfig
from pipelines.loading import Source, label_centers, make_batch
from pipelines.shards import schema
from pipelines.training.sequence import Draw, ImageSequence

WINDOW_DRAWS = 32  # different ones in an image


class TrainingBatches(Dataset[HandBatch]):
    """Item `step` is the batch of that step for one rank of `world_size`.

    Raises ValueError for a batch size or streams that the processes cannot share, and ShardError for data that cannot be read.
    """

    def __init__(self, config: StageConfig, seed: int, *, whole_image: bool, rank: int = 0, world_size: int = 1):
        self.config = config
        self.seed = seed
        self.whole_image = whole_image
        if config.batch_size % world_size:
            raise ValueError(f"batch_size: expected a multiple of {world_size} processes, got {config.batch_size}")
        self.sequence = ImageSequence(config.data, config.remote, seed, world_size)
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> HandBatch:
        return self._batch(step, self._places(step))

    def in_parts(self, step: int, size: int) -> list[HandBatch]:
        """The same batch in parts of `size` images, the last one smaller where it must be."""
        places = self._places(step)
        return [self._batch(step, places[i : i + size]) for i in range(0, len(places), size)]

    def _places(self, step: int) -> list[tuple[int, Draw, bool]]:
        """This rank's images: places in the sequence, dealt out one by one, those with a mask first; and whose mask is read.

        The terms that draw hands look at a batch's first images with a mask, so these are spread over the ranks; the masks of
        others would be decoded for nothing. Where shards are streamed, each rank looks at its own images only.
        """
        if step >= self.config.steps:
            raise IndexError(step)
        num_own = self.world_size if self.sequence.streamed else 1
        batch = range(step * self.config.batch_size, (step + 1) * self.config.batch_size)
        draws = [(position, self.sequence.draw(position)) for position in batch[self.rank if num_own > 1 else 0 :: num_own]]
        in_order = sorted(draws, key=lambda item: not (item[1].mask and item[1].reader.has_member(item[1].index, schema.MASK)))
        if num_own == 1:
            in_order = in_order[self.rank :: self.world_size]
        loss = self.config.loss
        num_drawn = loss.render_images if loss.photometric or loss.silhouette else 0
        own_drawn = len(range(self.rank, num_drawn, self.world_size))
        return [(position, draw, place < own_drawn) for place, (position, draw) in enumerate(in_order)]

    def _batch(self, step: int, places: Sequence[tuple[int, Draw, bool]]) -> HandBatch:
        """Some of a step's images, each with its own row of the step's random numbers."""
        full = self.config.supervision == "3d"
        wanted = [(draw, full and draw.labels_3d, mask and draw.mask) for _, draw, mask in places]
        sources = [Source.read(draw.reader, draw.index, labels_3d=labels_3d, mask=mask) for draw, labels_3d, mask in wanted]
        if len(self.sequence.parts) > 1:
            sources = [replace(source, key=f"{place[1].part}/{source.key}") for source, place in zip(sources, places, strict=True)]
        numbers = np.random.default_rng([self.seed, 1, step]).random((self.config.batch_size, NUM_DRAWS + WINDOW_DRAWS))
        numbers = numbers[[position - step * self.config.batch_size for position, _, _ in places]]
        config, draws = self.config, numbers[:, :NUM_DRAWS]
        try:
            size = np.array([source.size_px for source in sources], np.float64)
            K = np.array([source.K for source in sources], np.float64)
            centers, zoom = self._aims(sources, size, draws[:, NUM_DRAWS - 1])
            views = random_views(K, size, centers, zoom, config.input_px, config.augment, draws)
            return make_batch(sources, views, config.input_px, random_tones(config.augment.color, draws), numbers[:, NUM_DRAWS:])
        except schema.DECODE_ERRORS:
            for draw, labels_3d, mask in wanted:  # takes longer, and says what is wrong with which sample
                draw.reader.read(draw.index, labels_3d=labels_3d, mask=mask)
            raise

    def _aims(
        self, sources: Sequence[Source], size_px: NDArray[np.float64], draws: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The source points (B,2) that go to the middle of the input, and input pixels to a source's (B,), before any augmentation.

        Whole images: the middle, all of it. Crops: one hand's centre, and the whole scale or that of its box. draws (B,): which hand;
        where the scale is the whole image's, the first.
        """
        config = self.config
        centers, zoom = size_px[:, ::-1] / 2, whole_zoom(size_px, config.input_px)
        rows = [i for i, source in enumerate(sources) if source.side and not self.whole_image]
        if rows:
            drawn = draws if config.box_scale is not None else np.zeros(len(draws))
            hands = [(sources[i], int(drawn[i] * len(sources[i].side))) for i in rows]
            keypoints = np.stack([source.keypoints[hand] for source, hand in hands])
            centers[rows] = label_centers(keypoints[..., :2], keypoints[..., 2] > 0.5, config.center)
            if config.box_scale is not None:
                boxes = np.array([source.box_px[hand] for source, hand in hands], np.float32)
                zoom[rows] = box_zoom(boxes, config.box_scale, config.input_px)
        return centers, zoom
