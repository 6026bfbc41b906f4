"""InterHand2.6M v1.0 from the extracted folders or the archives: splits train, val and eval (the official test set).

Up to two hands an image, triangulated keypoints in the world's millimetres, MANO fits where the user has MANO.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import INTERHAND_TO_STD, NUM_KEYPOINTS
from pipelines.config_datasets import InterhandConfig
from pipelines.datasets.interhand_annotations import (
    ANNOTATION_FIELDS,
    FRAME_FIELDS,
    HAND_TYPES,
    IMAGE_FIELDS,
    NUM_JOINTS,
    Annotations,
    annotation_name,
    find_row,
    load_annotations,
    load_fits,
)
from pipelines.datasets.interhand_annotations import SIDES as SIDES_HERE
from pipelines.datasets.interhand_cameras import Camera, Cameras
from pipelines.datasets.masks import Part, hand_box, layered_mask, mesh_parts, skeleton_parts
from pipelines.datasets.sample import MASK_IGNORE, DataError, HandLabel, HandSample, SplitNotThereError
from pipelines.datasets.source_files import SourceFiles

OFFICIAL = {"train": "train", "val": "val", "eval": "test"}
FOLDERS = ("annotations", "images")
MARKERS = tuple(annotation_name(official, "data") for official in OFFICIAL.values())
ABSENT_MM = np.array([1.0, 1.0, 1.0])  # what stands for a joint of a hand that nobody annotated
INTERACTING = HAND_TYPES.index("interacting")
FPS_IN_NAME = re.compile(r"(?<!\d)(\d+)[._ ]?fps", re.IGNORECASE)


@dataclass(frozen=True)
class Moment:
    """What the hands of one image share. shape: height, width."""

    camera: Camera
    shape: tuple[int, int]
    capture: int
    frame: int
    source_id: str


class Interhand:
    """One split. The right hand comes first; a joint that is not valid is not visible, and a hand without a valid one is absent."""

    def __init__(self, config: InterhandConfig, split: str, cache: Path) -> None:
        """DataError if an annotation file is missing or no JSON, SplitNotThereError if the split's list of images or all of its images are.

        `cache`: folder for converted annotations.
        """
        if split not in OFFICIAL:
            raise ValueError(f"split: expected one of {list(OFFICIAL)}, got {split!r}")
        self.split = OFFICIAL[split]
        self.files = SourceFiles(config.path, MARKERS, folders=FOLDERS, cache=cache)
        check_release(self.files, config.release_fps)
        for kind in ("data", "camera", "joint_3d"):
            if not self.files.exists(annotation_name(self.split, kind)):
                not_there = SplitNotThereError if kind == "data" else DataError
                raise not_there(f"{self.files.path}: {annotation_name(self.split, kind)}: not found")
        self.annotations = load_annotations(self.files, self.split, cache)
        self.cameras = Cameras(self.files, annotation_name(self.split, "camera"))
        self.rows = select(self.annotations, config, split, self._captures())
        self.fits = self.fit = None
        if config.mano_model is not None:
            from pipelines.datasets.mano_fit import ManoFit  # brings in torch

            self.fit = ManoFit(config.mano_model)
            self.fits = load_fits(self.files, self.split, cache)

    def _captures(self) -> list[int]:
        """The captures of which there are images: a partial copy has some of them. SplitNotThereError if there are none."""
        images = self.annotations.images
        named = np.unique(images["capture"][images["wrong"] == 0]).tolist()
        found = [capture for capture in named if next(self.files.names(f"images/{self.split}/Capture{capture}/"), None) is not None]
        if not found:
            raise SplitNotThereError(f"{self.files.path}: images/{self.split}/: found no image of the captures {named}")
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> tuple[str, str]:
        """Key and image file of sample `index`."""
        row = int(self.rows[index])
        image = int(self.annotations.samples[row]["image"])
        name = annotation_name(self.split, "data") if image < 0 else f"images/{self.split}/{self.annotations.names[image].decode()}"
        return f"{row:08d}", name

    def sample(self, index: int) -> HandSample:
        """Sample `index`, in the order of the images' ids. DataError names file and field of what is missing or damaged."""
        key, name = self.where(index)
        image_row, annotation, frame = self._entries(index)
        shape = (int(image_row["height"]), int(image_row["width"]))
        camera = self.cameras.get(int(image_row["capture"]), self.annotations.cameras[int(image_row["camera"])])
        image, encoded = self.files.read_published(name, shape=shape)
        known = valid_joints(frame)
        seen = known & _flags(int(annotation["valid"]))
        joints = camera.from_world(np.asarray(frame["world_mm"], np.float64) / 1000)
        moment = Moment(camera, shape, int(image_row["capture"]), int(image_row["frame"]), self._source_id(image_row))
        found = []
        for number in range(len(SIDES_HERE)):
            order = INTERHAND_TO_STD + number * NUM_KEYPOINTS
            if seen[order].any():
                found.append(self._hand(number, joints[order], known[order], seen[order], moment))
        mask = layered_mask([parts for _, parts in found], shape)
        hands = tuple(replace(hand, box_px=hand_box(hand.box_px.reshape(2, 2), mask == i)) for i, (hand, _) in enumerate(found, 1))
        if len(hands) == 1 and annotation["hand_type"] == INTERACTING:
            self._ignore_rest_of_box(mask, index)  # another hand is there, nobody knows where
        filled = "mano" if all(hand.mano is not None for hand in hands) else "skeleton"
        return HandSample(key=key, image=image, encoded=encoded, K=camera.K, hands=hands, mask=mask, mask_source=filled)

    def bounding_box(self, index: int) -> NDArray[np.float64]:
        """(4,) x0, y0, x1, y1 of the published box, which holds all hands of the image."""
        x, y, width, height = np.asarray(self._entries(index)[1]["bbox"], np.float64)
        return np.array([x, y, x + width, y + height])

    def _ignore_rest_of_box(self, mask: NDArray[np.uint8], index: int) -> None:
        x0, y0, x1, y1 = (int(v) for v in np.clip(np.nan_to_num(self.bounding_box(index)), 0, max(mask.shape)))
        box = mask[y0:y1, x0:x1]
        box[box == 0] = MASK_IGNORE

    def _hand(
        self, number: int, joints: NDArray[np.float64], known: NDArray[np.bool_], seen: NDArray[np.bool_], moment: Moment
    ) -> tuple[HandLabel, list[Part]]:
        """A hand and how to draw it, from its joints (21,3) in the camera frame.

        known: joints of which the place is known; seen: those that are valid in this image too.
        """
        self._check_depths(joints[known], moment)
        camera = moment.camera
        projected = joints @ camera.K.T
        keypoints = np.zeros((NUM_KEYPOINTS, 2))
        keypoints[known] = projected[known, :2] / projected[known, 2:]
        keypoints[~known] = keypoints[seen].mean(0)  # somewhere on the hand
        inside = ((keypoints >= 0) & (keypoints < moment.shape[::-1])).all(1)
        vertices, mano = self._mano(number, moment)
        if vertices is None or self.fit is None or (vertices[:, 2] <= 0).any():
            parts = skeleton_parts(keypoints, joints[:, 2], float(camera.K[0, 0]), known)
        else:
            projected = vertices.astype(np.float64) @ camera.K.T
            parts = mesh_parts(projected[:, :2] / projected[:, 2:], vertices[:, 2], self.fit.model.faces[1 - number])
        label = HandLabel(
            side=1 - number,
            keypoints_px=keypoints.astype(np.float32),
            visible=seen & inside,
            box_px=hand_box(keypoints[known], None),
            K=camera.K,
            keypoints_m=joints.astype(np.float32) if known.all() else None,
            vertices_m=vertices,
            mano=mano,
            hand_model=None if mano is None else "mano",
            joint_convention="regressed",
            source_id=moment.source_id,
        )
        return label, parts

    def _check_depths(self, joints: NDArray[np.float64], moment: Moment) -> None:
        if not np.isfinite(joints).all() or (joints[:, 2] <= 0).any():
            what = f"expected numbers, in front of the camera, for valid joints; least depth {joints[:, 2].min():.3f} m"
            raise self._damage(annotation_name(self.split, "joint_3d"), f"{moment.source_id}: world_coord", what)

    def _mano(self, number: int, moment: Moment) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Vertices (778,3) and parameters (61,) of a hand's published fit in the camera frame; None where there is no fit."""
        if self.fit is None or self.fits is None:
            return None, None
        row = find_row(self.fits, moment.capture, moment.frame, number)
        if row < 0:
            return None, None
        values = np.asarray(self.fits[row]["values"], np.float64)
        if not np.isfinite(values).all():
            place = f"{moment.capture}.{moment.frame}.{SIDES_HERE[number]}"
            raise self._damage(annotation_name(self.split, "MANO_NeuralAnnot"), place, "expected 48 + 10 + 3 finite numbers, got others")
        return self.fit.from_world(values, 1 - number, moment.camera.rotation, moment.camera.position_m)

    def _entries(self, index: int) -> tuple[Any, Any, Any]:
        """Rows of the image, its annotation and its frame. DataError names what is missing or damaged."""
        tables, row = self.annotations, self.annotations.samples[self.rows[index]]
        data, joints = (annotation_name(self.split, kind) for kind in ("data", "joint_3d"))
        annotation = tables.annotations[int(row["annotation"])]
        if row["image"] < 0:
            raise self._damage(data, f"annotations[{int(row['annotation'])}]: image_id", f"no image has id {int(annotation['image_id'])}")
        image = tables.images[int(row["image"])]
        for name, entry, fields in (("image", image, IMAGE_FIELDS), ("annotation", annotation, ANNOTATION_FIELDS)):
            if entry["wrong"]:
                raise self._damage(data, f"{name}s[{int(row[name])}]: {fields[entry['wrong'] - 1]}", "missing, or not as it should be")
        place = f"{int(image['capture'])}.{int(image['frame'])}"
        if row["frame"] < 0:
            raise self._damage(joints, place, "not found")
        frame = tables.frames[int(row["frame"])]
        if frame["wrong"]:
            raise self._damage(joints, f"{place}: {FRAME_FIELDS[frame['wrong'] - 1]}", f"missing, or not of {NUM_JOINTS} joints")
        return image, annotation, frame

    def _damage(self, file: str, place: str, what: str) -> DataError:
        return DataError(f"{self.files.where(file)}: {place}: {what}")

    def _source_id(self, image_row: Any) -> str:
        sequence = self.annotations.sequences[int(image_row["sequence"])]
        return f"interhand/{self.split}/Capture{int(image_row['capture'])}/{sequence}/{int(image_row['frame'])}"


def valid_joints(frame: Any) -> NDArray[np.bool_]:
    """(42,) joints of a frame that are marked valid and hold more than the place holder of an absent hand."""
    placed = (np.asarray(frame["world_mm"], np.float64) != ABSENT_MM).any(1)
    return placed & _flags(int(frame["valid"]))


def _flags(bits: int) -> NDArray[np.bool_]:
    return np.array([bits >> place & 1 for place in range(NUM_JOINTS)], bool)


def select(annotations: Annotations, config: InterhandConfig, split: str, captures: list[int]) -> NDArray[np.int64]:
    """Ascending indices of the samples to take: those with a valid joint, at the frame rate asked for, in train a random subset.

    captures: those of which there are images.
    """
    rows = annotations.usable()
    image = annotations.samples["image"][rows]
    shown = annotations.images[np.maximum(image, 0)]
    rows = rows[(image < 0) | (shown["wrong"] > 0) | np.isin(shown["capture"], captures)]
    if config.fps < config.release_fps:
        rows = rows[_thinned(annotations, rows, config.release_fps // config.fps)]
    if split == "train" and config.train_subset is not None and config.train_subset < len(rows):
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, config.train_subset, replace=False))
    return rows


def _thinned(annotations: Annotations, rows: NDArray[np.int64], step: int) -> NDArray[np.bool_]:
    """Which rows show the first of every `step` frames of their sequence, frames taken in order."""
    image = annotations.samples["image"][rows]
    shown = annotations.images[np.maximum(image, 0)]
    places = np.stack([shown["capture"].astype(np.int64), shown["sequence"].astype(np.int64), shown["frame"]], 1)
    frames, inverse = np.unique(places, axis=0, return_inverse=True)
    starts = np.flatnonzero(np.r_[True, (frames[1:, :2] != frames[:-1, :2]).any(1)]) if len(frames) else np.zeros(0, np.int64)
    rank = np.arange(len(frames)) - np.repeat(starts, np.diff(np.append(starts, len(frames))))
    kept: NDArray[np.bool_] = (rank[inverse.reshape(-1)] % step == 0) | (image < 0)
    return kept


def named_fps(files: SourceFiles) -> int | None:
    """The frame rate that is part of a folder's or archive's name, such as InterHand2.6M_5fps_batch1."""
    found = [match for root in files.roots if (match := FPS_IN_NAME.search(root.path.name))]
    return int(found[0][1]) if found else None


def check_release(files: SourceFiles, release_fps: int) -> None:
    """DataError if a folder or archive is called by another frame rate than the one configured."""
    named = named_fps(files)
    if named is not None and named != release_fps:
        raise DataError(f"{files.path}: release_fps: expected {named}, as the name of a folder or archive says, got {release_fps}")
