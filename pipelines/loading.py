"""Labelled images under their views as batches: read, decode, warp and label, a batch at once. Pixels stay 8-bit until on the device."""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from handnet.batch import HandBatch
from handnet.centers import CenterDefinition
from handnet.skeleton import ROOT
from pipelines.augment import PLAIN_TONE, View, Views, box_zoom, fixed_view, warp_image, warp_into, warp_mask, warp_vectors
from pipelines.datasets.sample import MASK_IGNORE, NUM_KEYPOINTS, NUM_VERTICES, SIDES, HandLabel, HandSample
from pipelines.shards import ShardReader, schema

Item = TypeVar("Item")
DATA_ROOT = Path("data")
# The heads are trained on windows that are wrong by up to this factor, since at inference the window is predicted.
WINDOW_JITTER = 1.2
# what is read of a sample beside its image: with or without its 3D labels, with or without its mask
_MEMBERS = {
    (labels_3d, mask): (schema.META, schema.KEYPOINTS, *(schema.KEYPOINTS_3D, schema.VERTICES) * labels_3d, *(schema.MASK,) * mask)
    for labels_3d in (False, True)
    for mask in (False, True)
}
_scratch = threading.local()
_free: deque[NDArray[np.uint8]] = deque(maxlen=8)  # memory of batches' images


@dataclass(kw_only=True, eq=False, slots=True)  # a frozen one takes three times as long to make
class Source:
    """One image and its N hands as arrays, before it is shown: what a batch is made of, without a HandSample's checks.

    image: what reads the JPEG, or (H,W,3) uint8. size_px: H, W. keypoints (N,21,3): x, y in pixels, and above 0.5 where visible. Other
    labels as HandSample's; a hand without one has rows of NaN in keypoints_m (N,21,3) or vertices_m (N,778,3), which are None where
    no hand has them. K (3,3) and box_px (N,4) are nested lists where they were read: those of a batch become one array.
    """

    key: str
    image: Callable[[], bytes] | NDArray[np.uint8]
    size_px: tuple[int, int]
    K: NDArray[np.float64] | list[list[float]]
    side: list[int]
    keypoints: NDArray[np.float32]
    box_px: NDArray[np.float32] | list[list[float]]
    keypoints_m: NDArray[np.float32] | None
    vertices_m: NDArray[np.float32] | None
    mask: NDArray[np.uint8] | None

    @staticmethod
    def of(sample: HandSample) -> Source:
        """A sample's."""
        hands = sample.hands
        keypoints = [np.concatenate([hand.keypoints_px, hand.visible[:, None]], 1) for hand in hands]
        return Source(
            key=sample.key,
            image=sample.image,
            size_px=(sample.height_px, sample.width_px),
            K=sample.K,
            side=[hand.side for hand in hands],
            keypoints=np.array(keypoints, np.float32).reshape(-1, NUM_KEYPOINTS, 3),
            box_px=np.array([hand.box_px for hand in hands], np.float32).reshape(-1, 4),
            keypoints_m=_rows([hand.keypoints_m for hand in hands], NUM_KEYPOINTS),
            vertices_m=_rows([hand.vertices_m for hand in hands], NUM_VERTICES),
            mask=sample.mask,
        )

    @staticmethod
    def read(reader: ShardReader, index: int, *, labels_3d: bool, mask: bool) -> Source:
        """Sample `index` of a folder of shards; without labels_3d and mask these members stay unread. ShardError as reader.read's."""
        # the image is read right before it is decoded: the bytes of a whole batch would leave the processor's cache in between
        key, members, image = reader.read_present(index, _MEMBERS[labels_3d, mask], schema.IMAGE)
        try:
            meta = schema.decode_meta(members[schema.META])
            hands = meta["hands"]
            return Source(
                key=key,
                image=image,
                size_px=(int(meta["height"]), int(meta["width"])),
                K=meta["K"],
                side=[SIDES.index(hand["side"]) for hand in hands],
                keypoints=schema.decode_array(members[schema.KEYPOINTS]),
                box_px=[hand["box"] for hand in hands],
                keypoints_m=schema.decode_array(members[schema.KEYPOINTS_3D]) if schema.KEYPOINTS_3D in members else None,
                vertices_m=schema.decode_array(members[schema.VERTICES]) if schema.VERTICES in members else None,
                mask=schema.decode_mask(members[schema.MASK]) if schema.MASK in members else None,
            )
        except schema.DECODE_ERRORS:
            reader.read(index, labels_3d=labels_3d, mask=mask)  # takes longer, and says what is wrong with which member
            raise

    def pixels(self) -> NDArray[np.uint8]:
        """(H,W,4), the fourth channel meaningless; good until this thread's next call. ValueError for another size than size_px."""
        height, width = self.size_px
        room = getattr(_scratch, "pixels", None)
        if room is None or room.size < height * width * 4:
            # libjpeg-turbo writes rows that begin at a multiple of 32 bytes past the cache, from where the warp would fetch them again
            room = np.empty(height * width * 4 + 36, np.uint8)
            room = _scratch.pixels = room[(4 - room.ctypes.data) % 32 :]
        pixels: NDArray[np.uint8] = room[: height * width * 4].reshape(height, width, 4)
        if isinstance(self.image, np.ndarray):
            cv2.cvtColor(self.image, cv2.COLOR_RGB2RGBA, dst=pixels)
        else:
            schema.decode_image_into(self.image(), pixels)
        return pixels


def _rows(values: Sequence[NDArray[np.float32] | None], num_points: int) -> NDArray[np.float32] | None:
    if all(value is None for value in values):
        return None
    missing = np.full((num_points, 3), np.nan, np.float32)
    return np.stack([missing if value is None else value for value in values])


def label_centers(keypoints_px: NDArray[np.floating], visible: NDArray[np.bool_], definition: CenterDefinition) -> NDArray[np.float64]:
    """(M,2) centres of hands with keypoints (M,21,2), those of visible (M,21) where there are any: `hand_centers` without tensors."""
    if definition == "root":
        return keypoints_px[:, ROOT].astype(np.float64)
    points = keypoints_px.astype(np.float64)
    used = np.where(visible.any(1, keepdims=True), visible, True)[..., None]
    if definition == "keypoints":
        mean: NDArray[np.float64] = (points * used).sum(1) / used.sum(1)
        return mean
    low, high = np.where(used, points, np.inf).min(1), np.where(used, points, -np.inf).max(1)
    return (low + high) / 2


def label_center(hand: HandLabel, definition: CenterDefinition = "keypoints") -> NDArray[np.float64]:
    """(2,) centre of a labelled hand in its image's pixels."""
    center: NDArray[np.float64] = label_centers(hand.keypoints_px[None], hand.visible[None], definition)[0]
    return center


def view_center(sample: HandSample, definition: CenterDefinition, whole_image: bool) -> NDArray[np.float64]:
    """The source point that goes to the middle of the input: the image's middle, or the (first) hand's centre for crops."""
    if whole_image or not sample.hands:
        return np.array([sample.image.shape[1] / 2, sample.image.shape[0] / 2])
    return label_center(sample.hands[0], definition)


def show(samples: Sequence[HandSample], views: Sequence[View], input_px: int) -> HandBatch:
    """Samples under views as one batch, without augmentation of colours or windows."""
    return make_batch([Source.of(sample) for sample in samples], Views.of(list(views)), input_px)


def make_batch(
    sources: Sequence[Source],
    views: Views,
    input_px: int,
    tones: NDArray[np.float64] | None = None,
    window_draws: NDArray[np.float64] | None = None,
) -> HandBatch:
    """Images and labels under views, those with a mask first: the terms that draw hands look at the first few images only.

    tones (B,3,2): gain and offset of the images' channels. window_draws (B,N): uniform numbers for the windows' jitter, of which hands
    take turns; no jitter without. A hand whose centre leaves the input is no longer a positive: its pixels are to be ignored.
    What some images or hands have no label of is marked as not available, and is zero. ValueError for what cannot be decoded.
    """
    order = sorted(range(len(sources)), key=lambda i: sources[i].mask is None)
    sources, views = [sources[i] for i in order], views.take(order)
    tones = np.tile(PLAIN_TONE, (len(order), 1, 1)) if tones is None else tones[order]
    image = _room(len(sources), input_px)
    for source, affine, tone, out in zip(sources, views.affine, tones, image.numpy(), strict=True):
        warp_into(source.pixels(), affine, tone, out)
    counts = [len(source.side) for source in sources]
    index = np.repeat(np.arange(len(sources)), counts)
    affine = views.affine[index]
    given = np.concatenate([source.keypoints for source in sources])
    moved = given[..., :2] @ affine[:, :, :2].transpose(0, 2, 1) + affine[:, None, :, 2]
    keypoints = moved.astype(np.float32)
    within = (keypoints >= 0) & (keypoints < input_px)
    inside = within[..., 0] & within[..., 1]
    visible = (given[..., 2] > 0.5) & inside
    centers = label_centers(keypoints, visible, "keypoints")
    kept: NDArray[np.bool_] = np.all((centers >= 0) & (centers < input_px), axis=-1)
    places = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each hand in its image
    jitter = np.ones(len(index))
    if window_draws is not None:
        jitter = WINDOW_JITTER ** (2 * window_draws[order][index, places % window_draws.shape[1]] - 1)
    side = np.array([side for source in sources for side in source.side], np.int64)
    keypoints_m, has_keypoints_m = _labels_3d([source.keypoints_m for source in sources], counts, kept, views, NUM_KEYPOINTS)
    vertices_m, has_vertices_m = _labels_3d([source.vertices_m for source in sources], counts, kept, views, NUM_VERTICES)
    boxes_px = np.array([box for source in sources for box in source.box_px], np.float32).reshape(-1, 4)
    boxes = _moved_boxes(boxes_px, affine).clip(0, input_px)
    num_kept = np.bincount(index[kept], minlength=len(sources))
    return HandBatch(
        image=image.permute(0, 3, 1, 2),  # channels last in memory
        K=torch.from_numpy(views.K.astype(np.float32)),
        mask=_masks(sources, views, input_px, kept),
        has_mask=torch.tensor([source.mask is not None for source in sources], dtype=torch.bool),
        counts=tuple(num_kept.tolist()),
        image_index=torch.from_numpy(index[kept]),
        side=torch.from_numpy(np.where(views.flip[index], 1 - side, side)[kept]),
        keypoints_px=torch.from_numpy(keypoints[kept]),
        visible=torch.from_numpy(visible[kept].astype(np.float32)),
        box_px=torch.from_numpy(boxes[kept].astype(np.float32)),
        window_jitter=torch.from_numpy(jitter[kept].astype(np.float32)),
        keypoints_m=keypoints_m,
        has_keypoints_m=has_keypoints_m,
        vertices_m=vertices_m,
        has_vertices_m=has_vertices_m,
        keys=tuple(source.key for source in sources),
    )


def _room(num_images: int, input_px: int) -> torch.Tensor:
    """(B,S,S,3) 8-bit images to be filled: where the training process reads them from, if this is a loader's process."""
    shape = (num_images, input_px, input_px, 3)
    if get_worker_info() is not None:
        return _shared(shape)
    # new memory takes the system a tenth of the time that an image takes, so that of batches that are gone is used again
    try:
        memory = _free.pop()
    except IndexError:
        memory = np.empty(0, np.uint8)
    if memory.size != math.prod(shape):
        memory = np.empty(math.prod(shape), np.uint8)
    own = memory.reshape(shape)
    weakref.finalize(own, _free.append, memory)  # the tensor holds on to it
    return torch.from_numpy(own)


def _blank(num_images: int, input_px: int) -> torch.Tensor:
    """(B,S,S) 8-bit zeros, of which the system makes the pages that are written or read, no others: most images have no mask."""
    shape = (num_images, input_px, input_px)
    if get_worker_info() is not None:
        return _shared(shape)  # new, and so zero
    # what is shared between processes takes the system half as long again
    memory = mmap.mmap(-1, math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)


def _shared(shape: tuple[int, ...]) -> torch.Tensor:
    """8-bit numbers, zero, where the training process reads them from."""
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _moved_boxes(boxes_px: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes (M,4) under affines (M,2,3): upright boxes around the moved corners."""
    corners = boxes_px[:, [0, 1, 0, 3, 2, 1, 2, 3]].reshape(-1, 4, 2) @ affine[:, :, :2].transpose(0, 2, 1) + affine[:, None, :, 2]
    return np.concatenate([corners.min(1), corners.max(1)], -1)


def _labels_3d(
    rows: Sequence[NDArray[np.float32] | None], counts: Sequence[int], kept: NDArray[np.bool_], views: Views, num_points: int
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Points of the kept hands under their views, None if there are none; and which hands have them."""
    if all(row is None for row in rows):
        return None, torch.zeros(int(kept.sum()), dtype=torch.bool)
    missing = [np.full((count, num_points, 3), np.nan, np.float32) if row is None else row for row, count in zip(rows, counts, strict=True)]
    index = np.repeat(np.arange(len(counts)), counts)[kept]
    points = warp_vectors(np.concatenate(missing)[kept], views.flip[index], views.roll_rad[index])
    there = ~np.isnan(points).all((1, 2))
    points[~there] = 0
    return (torch.from_numpy(points) if there.any() else None), torch.from_numpy(there)


def _masks(sources: Sequence[Source], views: Views, input_px: int, kept: NDArray[np.bool_]) -> torch.Tensor | None:
    """(B,S,S) instance ids: those of kept hands count on, other hands' pixels are to be ignored. None if no image has a mask."""
    if all(source.mask is None for source in sources):
        return None
    masks = _blank(len(sources), input_px)
    end = 0
    for source, affine, out in zip(sources, views.affine, masks.numpy(), strict=True):
        start, end = end, end + len(source.side)
        if source.mask is None:
            continue
        own = kept[start:end]
        warp_mask(source.mask, affine, out)
        values = np.full(256, MASK_IGNORE, np.uint8)  # of a hand's pixels in the source -> in the batch
        values[0] = 0
        values[1 : len(own) + 1][own] = np.arange(1, own.sum() + 1)
        cv2.LUT(out, values, dst=out)
    return masks


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
    if num_workers:
        # here, not in the workers: a forked one has OpenCV's pool without its threads, and would wait for them for ever
        cv2.setNumThreads(1)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=FromStep(first_step, num_steps),
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def crop_view(sample: HandSample, hand: HandLabel, input_px: int, definition: CenterDefinition, box_scale: float | None = None) -> View:
    """The view an evaluation has of one hand: its true centre in the middle.

    box_scale: the input's side over that of the hand's box; None: the source's whole scale.
    """
    zoom = None if box_scale is None else float(box_zoom(hand.box_px[None], box_scale, input_px)[0])
    return fixed_view(sample, input_px, label_center(hand, definition), zoom)


def crop_sample(
    sample: HandSample, hand: HandLabel, input_px: int, definition: CenterDefinition = "keypoints", box_scale: float | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """The crop an evaluation sees, under `crop_view`. Returns image, K and the affine."""
    view = crop_view(sample, hand, input_px, definition, box_scale)
    return warp_image(sample.image, view.affine, input_px), view.K, view.affine
