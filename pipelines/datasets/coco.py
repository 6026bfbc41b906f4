"""Hand keypoints in COCO's JSON format, the user's own: splits train, val (held-out images) and eval (a second JSON).

An annotation is a hand, with its keypoints and a side, or a person with COCO-WholeBody's lefthand_kpts and righthand_kpts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS, SIDES
from pipelines.config_datasets import CocoConfig
from pipelines.datasets.coco_records import (
    Record,
    Records,
    camera_of,
    image_shape,
    is_whole_body,
    parse_keypoints,
    segmentation_mask,
    side_in,
    whole_body_hands,
)
from pipelines.datasets.masks import hand_box
from pipelines.datasets.sample import MASK_IGNORE, DataError, HandLabel, HandSample
from pipelines.datasets.source_files import SourceFiles
from pipelines.datasets.splits import held_out
from pipelines.datasets.unknown_camera import assumed_camera

SIDE_FIELDS = ("hand_side", "hand_type")
TO_CONTINUOUS = {"integer": 0.5, "half": 0.0}
Mask = NDArray[np.uint8]


class Coco:
    """One split: the images with a labelled hand. Labelled keypoints count as visible where they lie in the image.

    Masks are delivered where every hand of an image has a segmentation. A hand without a labelled keypoint is no label, and its
    pixels are ignored.
    """

    def __init__(self, config: CocoConfig, split: str, cache: Path) -> None:
        """DataError if the data is missing or the JSON cannot be read. `cache`: folder for converted annotations."""
        if split not in ("train", "val", "eval"):
            raise ValueError(f"split: expected 'train', 'val' or 'eval', got {split!r}")
        evaluation = split == "eval"
        self.name = (config.eval_annotations or "") if evaluation else config.annotations
        self.folder = config.eval_images if evaluation and config.eval_images is not None else config.images
        self.order = None if config.keypoint_order is None else np.array(config.keypoint_order)
        self.offset_px = TO_CONTINUOUS[config.pixel_centers]
        self.files = SourceFiles(config.path, (self.name,), folders=(self.name.split("/")[0],), cache=cache)
        self.records = Records(self.files, self.name, cache)
        train, val = held_out(len(self.records), config.val_fraction, config.seed)
        self.rows = np.arange(len(self.records)) if evaluation else val if split == "val" else train

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> tuple[str, str]:
        """Key and image file of sample `index`."""
        record = self.records.image(int(self.rows[index]))
        file = self.name if record is None else str(record.get("file_name"))
        return f"{int(self.rows[index]):08d}", f"{self.folder.rstrip('/')}/{file}" if self.folder and record is not None else file

    def sample(self, index: int) -> HandSample:
        """Sample `index`, in the file's order. DataError names file, annotation and field of what is missing or damaged."""
        key, name = self.where(index)
        record = self.records.image(int(self.rows[index]))
        annotations = self.records.annotations(int(self.rows[index]))
        if record is None:
            orphan = annotations[0]
            if "image_id" not in orphan:
                raise DataError(f"{self._annotation(orphan)}: image_id: expected the id of an image, got none")
            raise DataError(f"{self._annotation(orphan)}: image_id: no image has id {orphan.get('image_id')!r}")
        place = f"{self.files.where(self.name)}: image {record.get('id')}"
        if not isinstance(record.get("file_name"), str):
            raise DataError(f"{place}: file_name: expected the name of an image file, got {record.get('file_name')!r}")
        shape = image_shape(record, place)
        image, encoded = self.files.read_published(name, shape=shape)
        known_camera = camera_of(record, place)
        K = assumed_camera(*shape) if known_camera is None else known_camera
        hands: list[HandLabel] = []
        masks: list[Mask | None] = []
        ignored = np.zeros(shape, bool)
        for annotation in annotations:
            where = self._annotation(annotation)
            own = None if is_whole_body(annotation) else segmentation_mask(annotation.get("segmentation"), shape, where)
            found = self._hands_of(annotation, where)
            if not found and own is not None:
                ignored |= own > 0
            for side, keypoints in found:
                hands.append(self._label(side, keypoints, shape, K, f"coco/{name}"))
                masks.append(own)
        mask = _instances(masks, ignored)
        if mask is not None:
            hands = [replace(hand, box_px=hand_box(hand.box_px.reshape(2, 2), mask == i)) for i, hand in enumerate(hands, 1)]
        return HandSample(
            key=key,
            image=image,
            encoded=encoded,
            K=K,
            K_known=known_camera is not None,
            hands=tuple(hands),
            mask=mask,
            mask_source=None if mask is None else "published",
        )

    def published_boxes(self, index: int) -> list[list[float]]:
        """x, y, width, height of the boxes published for the hands of sample `index`, in their order; [] for one without."""
        boxes = []
        for annotation in self.records.annotations(int(self.rows[index])):
            found = self._hands_of(annotation, self._annotation(annotation))
            own = [] if is_whole_body(annotation) else annotation.get("bbox")
            boxes += [own if isinstance(own, list) and len(own) == 4 else []] * len(found)
        return boxes

    def _hands_of(self, annotation: Record, where: str) -> list[tuple[int, NDArray[np.float64]]]:
        """Side and keypoints (21,3), x, y and whether it is labelled, in std21, of each labelled hand of an annotation."""
        if is_whole_body(annotation):
            fields = whole_body_hands(annotation).items()
            hands = [(SIDES.index(side), self._std21(annotation[field], f"{where}: {field}", None)) for side, field in fields]
            return [(side, keypoints) for side, keypoints in hands if keypoints[:, 2].any()]
        if annotation.get("iscrowd"):
            return []
        keypoints = self._std21(annotation["keypoints"], f"{where}: keypoints", self.order)
        return [(self._side(annotation, where), keypoints)] if keypoints[:, 2].any() else []

    def _annotation(self, annotation: Record) -> str:
        return f"{self.files.where(self.name)}: annotation {annotation.get('id')}"

    def _std21(self, values: object, where: str, order: NDArray[np.int64] | None) -> NDArray[np.float64]:
        keypoints = parse_keypoints(values, where)
        if order is None and len(keypoints) != NUM_KEYPOINTS:
            raise DataError(f"{where}: expected {NUM_KEYPOINTS} keypoints, got {len(keypoints)}")
        if order is not None and order.max() >= len(keypoints):
            raise DataError(f"{where}: expected at least {order.max() + 1} keypoints, as keypoint_order says, got {len(keypoints)}")
        return keypoints if order is None else keypoints[order]

    def _side(self, annotation: Record, where: str) -> int:
        named = {field: side_in(str(annotation[field])) for field in SIDE_FIELDS if annotation.get(field) is not None}
        for field, side in named.items():
            if side is None:
                raise DataError(f"{where}: {field}: expected 'left' or 'right', got {annotation[field]!r}")
        side = next(iter(named.values()), None) or self.records.sides.get(str(annotation.get("category_id")))
        if side is None:
            raise DataError(f"{where}: expected a side in {' or '.join(SIDE_FIELDS)}, or in the name of its category; got none")
        return SIDES.index(side)

    def _label(
        self, side: int, keypoints: NDArray[np.float64], shape: tuple[int, int], K: NDArray[np.float64], source_id: str
    ) -> HandLabel:
        labelled = keypoints[:, 2] > 0
        points = keypoints[:, :2] + self.offset_px
        points[~labelled] = points[labelled].mean(0)  # somewhere on the hand
        inside = ((points >= 0) & (points < shape[::-1])).all(1)
        return HandLabel(
            side=side,
            keypoints_px=points.astype(np.float32),
            visible=labelled & inside,
            box_px=hand_box(points[labelled], None),
            K=K,
            source_id=source_id,
        )


def _instances(masks: list[Mask | None], ignored: NDArray[np.bool_]) -> Mask | None:
    """The hands' masks in one, i + 1 for the i-th, larger ones behind smaller ones; None if one is missing."""
    found = [mask for mask in masks if mask is not None]
    if len(found) < len(masks):
        return None
    out = np.where(ignored, np.uint8(MASK_IGNORE), np.uint8(0))
    for number in sorted(range(len(found)), key=lambda i: -int(found[i].sum())):
        out[found[number] > 0] = number + 1
    return out
