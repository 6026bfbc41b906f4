"""Training and evaluation batches from shards. A training batch is a pure function of (seed, step), so a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from handnet.batch import HandBatch
from handnet.centers import CenterDefinition
from handnet.skeleton import ROOT
from pipelines.augment import PLAIN_TONE, View, apply_tone, fixed_view, random_tone, random_view, warp_image, warp_mask, warp_vectors
from pipelines.config import StageConfig
from pipelines.datasets.sample import MASK_IGNORE, HandLabel, HandSample, transform_box, transform_points
from pipelines.shards import ShardReader, schema

Item = TypeVar("Item")
DATA_ROOT = Path("data")
# The heads are trained on windows that are wrong by up to this factor, since at inference the window is predicted.
WINDOW_JITTER = 1.2


class TrainingBatches(Dataset[HandBatch]):
    """Item `step` is the batch of that step for one rank of `world_size`."""

    def __init__(self, config: StageConfig, seed: int, *, whole_image: bool, rank: int = 0, world_size: int = 1):
        self.reader = ShardReader(DATA_ROOT / config.data)
        self.config = config
        self.seed = seed
        self.whole_image = whole_image
        if config.batch_size % world_size:
            raise ValueError(f"batch_size: expected a multiple of {world_size} processes, got {config.batch_size}")
        if not len(self.reader):
            raise ValueError(f"{self.reader.folder}: expected at least one sample, got none")
        self.rank, self.world_size = rank, world_size
        self._order: tuple[int, NDArray[np.int64]] | None = None  # of the epoch read last

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> HandBatch:
        return collate([self._sample(*place) for place in self._places(step)])

    def in_parts(self, step: int, size: int) -> list[HandBatch]:
        """The same batch in parts of `size` images, the last one smaller where it must be."""
        places = self._places(step)
        return [collate([self._sample(*place) for place in places[i : i + size]]) for i in range(0, len(places), size)]

    def _places(self, step: int) -> list[tuple[int, bool]]:
        """This rank's images: places in the sequence of all, dealt out one by one, those with a mask first; and whose mask is read.

        The terms that draw hands look at a batch's first images with a mask, so these are spread over the ranks; the masks of
        others would be decoded for nothing.
        """
        if step >= self.config.steps:
            raise IndexError(step)
        batch = range(step * self.config.batch_size, (step + 1) * self.config.batch_size)
        in_order = sorted(batch, key=lambda position: not self.reader.has_member(self._index(position), schema.MASK))
        loss = self.config.loss
        num_drawn = loss.render_images if loss.photometric or loss.silhouette else 0
        return [(position, place < num_drawn) for place, position in enumerate(in_order)][self.rank :: self.world_size]

    def _index(self, position: int) -> int:
        """Which sample stands at a place of the sequence: every epoch has its own order."""
        epoch, place = divmod(position, len(self.reader))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.reader))
        return int(self._order[1][place])

    def _sample(self, position: int, mask: bool) -> Example:
        rng = np.random.default_rng([self.seed, 1, position])
        full = self.config.supervision == "3d"
        sample = self.reader.read(self._index(position), labels_3d=full, mask=mask)
        center = view_center(sample, self.config.center, self.whole_image)
        view = random_view(sample, self.config.input_px, center, self.config.augment, rng)
        return make_example(sample, view, self.config.input_px, color=self.config.augment.color, rng=rng)


class Example:
    """One warped sample: arrays of its hands that are still inside the input. tone (3,256): what becomes of its colours, 0..1."""

    def __init__(
        self, key: str, image: NDArray[np.uint8], tone: NDArray[np.float32], mask: NDArray[np.uint8] | None, K: NDArray[np.float64]
    ):
        self.key, self.image, self.tone, self.mask, self.K = key, image, tone, mask, K
        self.side: list[int] = []
        self.keypoints_px: list[NDArray[np.float32]] = []
        self.visible: list[NDArray[np.float32]] = []
        self.box_px: list[NDArray[np.float32]] = []
        self.jitter: list[float] = []
        self.keypoints_m: list[NDArray[np.float32] | None] = []
        self.vertices_m: list[NDArray[np.float32] | None] = []


def view_center(sample: HandSample, definition: CenterDefinition, whole_image: bool) -> NDArray[np.float64]:
    """The source point that goes to the middle of the input: the image's middle, or the (first) hand's centre for crops."""
    if whole_image or not sample.hands:
        return np.array([sample.image.shape[1] / 2, sample.image.shape[0] / 2])
    return label_center(sample.hands[0], definition)


def label_center(hand: HandLabel, definition: CenterDefinition = "keypoints") -> NDArray[np.float64]:
    """(2,) centre of a labelled hand in its image's pixels: `hand_centers` of one hand, without the time that tensors take."""
    if definition == "root":
        return hand.keypoints_px[ROOT].astype(np.float64)
    points = hand.keypoints_px[hand.visible] if hand.visible.any() else hand.keypoints_px
    center = points.mean(0) if definition == "keypoints" else (points.min(0) + points.max(0)) / 2
    return center.astype(np.float64)


def make_example(sample: HandSample, view: View, input_px: int, *, color: float = 0.0, rng: np.random.Generator | None = None) -> Example:
    """Image and labels under a view. A hand whose centre leaves the input is no longer a positive: its pixels are to be ignored."""
    image = warp_image(sample.image, view.affine, input_px)
    tone = PLAIN_TONE if rng is None else random_tone(color, rng)
    mask = None if sample.mask is None else warp_mask(sample.mask, view.affine, input_px)
    example = Example(sample.key, image, tone, mask, view.K)
    mask_value = np.full(256, MASK_IGNORE, np.uint8)  # of a hand's pixels in the sample -> in the example
    mask_value[0] = 0
    for i, hand in enumerate(sample.hands):
        keypoints = transform_points(view.affine, hand.keypoints_px)
        inside = ((keypoints >= 0) & (keypoints < input_px)).all(-1)
        visible = (hand.visible & inside).astype(np.float32)
        center = keypoints[visible > 0].mean(0) if visible.any() else keypoints.mean(0)
        if ((center < 0) | (center >= input_px)).any():
            continue
        example.side.append(1 - hand.side if view.flip else hand.side)
        mask_value[i + 1] = len(example.side)
        example.keypoints_px.append(keypoints)
        example.visible.append(visible)
        example.box_px.append(transform_box(view.affine, hand.box_px).clip(0, input_px))
        example.jitter.append(float(WINDOW_JITTER ** rng.uniform(-1, 1)) if rng is not None else 1.0)
        example.keypoints_m.append(None if hand.keypoints_m is None else warp_vectors(hand.keypoints_m, view))
        example.vertices_m.append(None if hand.vertices_m is None else warp_vectors(hand.vertices_m, view))
    if mask is not None and len(example.side) < len(sample.hands):
        example.mask = mask_value[mask]
    return example


def collate(examples: list[Example]) -> HandBatch:
    """Examples to one batch with flat hands; what some images or hands have no label of is marked as not available, and is zero.

    Images with a mask come first: the terms that draw hands look at the first few images only.
    """
    examples = sorted(examples, key=lambda e: e.mask is None)
    counts = tuple(len(e.side) for e in examples)

    def flat(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        rows = [row for e in examples for row in getattr(e, name)]
        return torch.from_numpy(np.stack(rows).astype(np.float32)) if rows else torch.zeros(0, *shape)

    def flat_3d(name: str, shape: tuple[int, ...]) -> tuple[torch.Tensor | None, torch.Tensor]:
        rows = [row for e in examples for row in getattr(e, name)]
        there = torch.tensor([row is not None for row in rows], dtype=torch.bool)
        if not there.any():
            return None, there
        return torch.from_numpy(np.stack([np.zeros(shape, np.float32) if row is None else row for row in rows])), there

    image = torch.empty(len(examples), *examples[0].image.shape)
    for example, pixels in zip(examples, image.numpy(), strict=True):
        apply_tone(example.image, example.tone, pixels)
    image = image.permute(0, 3, 1, 2)  # channels last in memory
    masks = [e.mask for e in examples]
    keypoints_m, has_keypoints_m = flat_3d("keypoints_m", (21, 3))
    vertices_m, has_vertices_m = flat_3d("vertices_m", (778, 3))
    return HandBatch(
        image=image,
        K=torch.from_numpy(np.stack([e.K for e in examples]).astype(np.float32)),
        mask=_stack_masks(masks, image.shape[-2:]),
        has_mask=torch.tensor([mask is not None for mask in masks], dtype=torch.bool),
        counts=counts,
        image_index=torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(counts)),
        side=torch.tensor([s for e in examples for s in e.side], dtype=torch.long),
        keypoints_px=flat("keypoints_px", (21, 2)),
        visible=flat("visible", (21,)),
        box_px=flat("box_px", (4,)),
        window_jitter=torch.tensor([j for e in examples for j in e.jitter], dtype=torch.float32),
        keypoints_m=keypoints_m,
        has_keypoints_m=has_keypoints_m,
        vertices_m=vertices_m,
        has_vertices_m=has_vertices_m,
        keys=tuple(e.key for e in examples),
    )


def _stack_masks(masks: list[NDArray[np.uint8] | None], size: tuple[int, ...]) -> torch.Tensor | None:
    if all(mask is None for mask in masks):
        return None
    return torch.from_numpy(np.stack([np.zeros(size, np.uint8) if mask is None else mask for mask in masks]))


class FromStep(torch.utils.data.Sampler[int]):
    """Steps from `first` to `last`, in order: what is left of a resumed run."""

    def __init__(self, first: int, last: int):
        self.steps = range(first, last)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def training_loader(batches: Dataset[Item], first_step: int, num_steps: int, num_workers: int) -> DataLoader[Item]:
    """Batches of the remaining steps; workers only move the work elsewhere, they change no byte."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=FromStep(first_step, num_steps),
        num_workers=num_workers,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def crop_sample(
    sample: HandSample, input_px: int, definition: CenterDefinition = "keypoints"
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """The crop an evaluation sees: the hand's true centre in the middle, the source's whole scale. Returns image, K and the affine."""
    view = fixed_view(sample, input_px, view_center(sample, definition, whole_image=False))
    return warp_image(sample.image, view.affine, input_px), view.K, view.affine
