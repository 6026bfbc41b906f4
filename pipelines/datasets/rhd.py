"""RHD (RHD_published_v2) from the extracted folder or its archive: splits train, val (held-out training images) and eval.

Rendered people, up to two hands an image; keypoints are published in pixels and in metres, with part masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.hand.plain_pickle import parse_plain_pickle
from handnet.skeleton import NUM_KEYPOINTS, RHD_TO_STD, SIDES
from pipelines.config_datasets import RhdConfig
from pipelines.datasets.masks import hand_box
from pipelines.datasets.sample import MASK_IGNORE, DataError, HandLabel, HandSample, SplitNotThereError, check_camera
from pipelines.datasets.source_files import SourceFiles
from pipelines.datasets.splits import held_out
from pipelines.datasets.tables import converted, read_rows

PARTS = {"train": "training", "val": "training", "eval": "evaluation"}
MARKERS = ("training/anno_training.pickle", "evaluation/anno_evaluation.pickle")
FOLDERS = ("training", "evaluation")
IMAGE_PX = 320
MAX_PICKLE = 1 << 30
FIELDS = {"K": (3, 3), "xyz": (42, 3), "uv_vis": (42, 3)}
HAND_PARTS = ((2, 17), (18, 33))  # mask values of the left and of the right hand, from a thumb's to the palm's
LAST_PART = 33


class Rhd:
    """One split. The hand with the larger mask comes first, as the owners' own protocol has it."""

    def __init__(self, config: RhdConfig, split: str, cache: Path) -> None:
        """DataError if its pickle cannot be read, SplitNotThereError if it is missing. `cache`: folder for converted annotations."""
        if split not in PARTS:
            raise ValueError(f"split: expected one of {list(PARTS)}, got {split!r}")
        self.files = SourceFiles(config.path, MARKERS, folders=FOLDERS, cache=cache)
        self.part = PARTS[split]
        self.min_keypoints = config.min_keypoints
        self.pickle = annotation_name(self.part)
        if not self.files.exists(self.pickle):
            raise SplitNotThereError(f"{self.files.path}: {self.pickle}: not found")
        folder = load_pickle(self.files, self.part, cache)
        self.ids = read_rows(folder, "ids")
        self.annotations = {field: read_rows(folder, field) for field in FIELDS}
        train, val = held_out(len(self.ids), config.val_fraction, config.seed)
        self.rows = np.arange(len(self.ids)) if split == "eval" else val if split == "val" else train

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> tuple[str, str]:
        """Key and image file of sample `index`."""
        number = int(self.ids[self.rows[index]])
        return f"{number:05d}", f"{self.part}/color/{number:05d}.png"

    def sample(self, index: int) -> HandSample:
        """Sample `index`, in the order of ids. DataError names file and field of what is missing, truncated or not a number."""
        key, name = self.where(index)
        values = self._annotation(int(self.rows[index]))
        image = self.files.read_image(name, shape=(IMAGE_PX, IMAGE_PX))
        parts = self._parts(f"{self.part}/mask/{key}.png")
        hands = {side: self._hand(side, values, parts, f"rhd/{self.part}/{key}") for side in range(len(SIDES))}
        areas = {side: int(of_hand(parts, side).sum()) for side in hands}
        order = sorted((side for side in hands if hands[side] is not None), key=lambda side: -areas[side])
        mask = np.zeros(parts.shape, np.uint8)
        for side in hands:
            mask[of_hand(parts, side)] = order.index(side) + 1 if side in order else MASK_IGNORE
        return HandSample(
            key=key,
            image=image,
            K=values["K"],
            hands=tuple(hand for side in order if (hand := hands[side]) is not None),
            mask=mask,
            mask_source="published",
        )

    def published(self, index: int) -> dict[int, NDArray[np.float64]]:
        """Each side's keypoints (21,2) as published in pixels, std21, whether labelled by `sample` or not."""
        uv = np.asarray(self.annotations["uv_vis"][self.rows[index]], np.float64)
        return {side: _of_side(uv, side)[:, :2] for side in range(len(SIDES))}

    def _annotation(self, row: int) -> dict[str, NDArray[np.float64]]:
        values = {field: np.asarray(array[row], np.float64) for field, array in self.annotations.items()}
        for field, array in values.items():
            if not np.isfinite(array).all():
                found = int((~np.isfinite(array)).sum())
                where = f"{self.files.where(self.pickle)}: entry {int(self.ids[row])}: {field}"
                raise DataError(f"{where}: expected finite numbers of shape {FIELDS[field]}, got {found} missing, NaN or infinite")
        check_camera(values["K"], f"{self.files.where(self.pickle)}: entry {int(self.ids[row])}: K")
        return values

    def _parts(self, name: str) -> NDArray[np.uint8]:
        parts = self.files.read_image(name, color=False, shape=(IMAGE_PX, IMAGE_PX))
        if parts.max() > LAST_PART:
            raise DataError(f"{self.files.where(name)}: expected part ids 0..{LAST_PART}, got {int(parts.max())}")
        return parts

    def _hand(self, side: int, values: dict[str, NDArray[np.float64]], parts: NDArray[np.uint8], source_id: str) -> HandLabel | None:
        """A side's label, or None where too little of the hand can be seen."""
        points, uv = _of_side(values["xyz"], side), _of_side(values["uv_vis"], side)
        keypoints = uv[:, :2]
        visible = (uv[:, 2] > 0.5) & ((keypoints >= 0) & (keypoints < IMAGE_PX)).all(1)
        if visible.sum() < self.min_keypoints:
            return None
        if (points[:, 2] <= 0).any():
            where = f"{self.files.where(self.pickle)}: {source_id}: xyz"
            raise DataError(f"{where}: expected depths > 0 m for a visible hand, got {float(points[:, 2].min())}")
        return HandLabel(
            side=side,
            keypoints_px=keypoints.astype(np.float32),
            visible=visible,
            box_px=hand_box(keypoints, of_hand(parts, side).astype(np.uint8)),
            K=values["K"],
            keypoints_m=points.astype(np.float32),
            joint_convention="lbs",
            source_id=source_id,
        )


def annotation_name(part: str) -> str:
    """The official name of a part's annotations."""
    return f"{part}/anno_{part}.pickle"


def of_hand(parts: NDArray[np.uint8], side: int) -> NDArray[np.bool_]:
    """Where a part mask shows the hand of `side`."""
    first, last = HAND_PARTS[side]
    return (parts >= first) & (parts <= last)


def load_pickle(files: SourceFiles, part: str, cache: Path) -> Path:
    """Folder of ids.npy (N,) and K.npy, xyz.npy, uv_vis.npy (N, ...) in float32; NaN for entries that are missing or of another shape."""
    name = annotation_name(part)
    where = files.where(name)

    def convert(folder: Path) -> None:
        try:
            tree = parse_plain_pickle(files.read(name, limit=MAX_PICKLE), where)
        except DataError:
            raise
        except ValueError as error:
            raise DataError(str(error)) from None
        if not isinstance(tree, dict) or not all(isinstance(number, int) and 0 <= number < 10**5 for number in tree):
            raise DataError(f"{where}: expected a dictionary of annotations by image number")
        ids = sorted(tree)
        np.save(folder / "ids.npy", np.array(ids, np.int64))
        for field, shape in FIELDS.items():
            values = [_field(tree[number], field, shape) for number in ids]
            np.save(folder / f"{field}.npy", np.array(values, np.float32).reshape(-1, *shape))

    return converted(cache, f"rhd-{part}", (where, files.stamp(name)), convert)


def _field(entry: Any, field: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    value = entry.get(field) if isinstance(entry, dict) else None
    if isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in "fiub":
        return value.astype(np.float32)
    return np.full(shape, np.nan, np.float32)


def _of_side(rows: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The 21 rows of a hand, of 42 from tip to base, in std21."""
    ordered: NDArray[np.float64] = rows[side * NUM_KEYPOINTS : (side + 1) * NUM_KEYPOINTS][RHD_TO_STD]
    return ordered
