"""InterHand2.6M's annotations, gigabytes of JSON, as compact tables: converted once, as a stream, and memory-mapped from then on.

Rows keep the owners' conventions (21 joints of the right hand, then of the left, millimetres, world axes); the adapter changes them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.datasets.json_stream import Scalar, iter_flat_objects
from pipelines.datasets.sample import DataError
from pipelines.datasets.source_files import SourceFiles
from pipelines.datasets.tables import Blobs, BlobWriter, RowWriter, converted, read_rows

LAYOUT = 3  # raised when the tables change
NUM_JOINTS = 42
HAND_TYPES = ("right", "left", "interacting")
SIDES = ("right", "left")  # as joints and MANO parameters are ordered here
UNKNOWN = 255
MAX_NUMBER = 2**31 - 1  # of what is counted: ids, frames, pixels
ALL_BITS = (1 << NUM_JOINTS) - 1
WHOLE: set[type] = {int}
TEXT: set[type] = {str}
NUMBERS: set[type] = {int, float, bool, type(None)}
FLAGS: set[type] = {int, float, bool}

# `wrong` names the first field that is missing or not what it should be: its place in the fields' list, from 1
IMAGE_FIELDS = ("id", "file_name", "width", "height", "capture", "seq_name", "camera", "frame_idx")
IMAGE = np.dtype(
    [("id", "<i8"), ("width", "<i4"), ("height", "<i4"), ("capture", "<i4"), ("sequence", "<i4"), ("camera", "<i4"), ("frame", "<i8")]
    + [("wrong", "u1")]
)
ANNOTATION_FIELDS = ("image_id", "bbox", "joint_valid", "hand_type")
ANNOTATION = np.dtype([("image_id", "<i8"), ("bbox", "<f4", 4), ("valid", "<u8"), ("hand_type", "u1"), ("wrong", "u1")])
FRAME_FIELDS = ("world_coord", "joint_valid")
FRAME = np.dtype([("capture", "<i4"), ("frame", "<i8"), ("world_mm", "<f4", (NUM_JOINTS, 3)), ("valid", "<u8"), ("wrong", "u1")])
FIT_FIELDS = (("pose", 48), ("shape", 10), ("trans", 3))
FIT = np.dtype([("capture", "<i4"), ("frame", "<i8"), ("side", "u1"), ("values", "<f4", 61)])
SAMPLE = np.dtype([("image", "<i8"), ("annotation", "<i8"), ("frame", "<i8")])  # rows; -1: there is none

Fields = dict[str, list[Scalar]]


def annotation_name(split: str, kind: str) -> str:
    """The official name of one of a split's files, from the dataset's top."""
    return f"annotations/{split}/InterHand2.6M_{split}_{kind}.json"


@dataclass(frozen=True)
class Annotations:
    """One split's tables, memory-mapped. `samples` joins an annotation with its image and its frame's joints."""

    samples: NDArray[Any]
    images: NDArray[Any]
    annotations: NDArray[Any]
    frames: NDArray[Any]
    names: Blobs
    sequences: list[str]
    cameras: list[str]

    def usable(self) -> NDArray[np.int64]:
        """Indices of the samples with a joint that is known in 3D and valid in the image, and of those whose entries are damaged.

        The damaged ones are kept, so that reading them says what is wrong.
        """
        kept = []
        for begin in range(0, len(self.samples), 1 << 18):
            part = self.samples[begin : begin + (1 << 18)]
            has_frame = part["frame"] >= 0
            damaged = ~has_frame | (part["image"] < 0) | (self.annotations["wrong"][part["annotation"]] > 0)
            frames = np.where(has_frame, part["frame"], 0)
            valid = self.annotations["valid"][part["annotation"]]
            if len(self.frames):
                damaged |= self.frames["wrong"][frames] > 0
                valid = valid & self.frames["valid"][frames]
            kept.append(begin + np.flatnonzero(damaged | (valid != 0)))
        return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def load_annotations(files: SourceFiles, split: str, cache: Path) -> Annotations:
    """The split's annotations from `cache`, converted when missing. DataError names file and place of what is not JSON."""
    data, joints = annotation_name(split, "data"), annotation_name(split, "joint_3d")
    identity = (LAYOUT, files.where(data), files.stamp(data), files.where(joints), files.stamp(joints))

    def convert(folder: Path) -> None:
        _convert_data(files, data, folder)
        _convert_frames(files, joints, folder)
        _join(folder, files.where(data))

    folder = converted(cache, f"interhand-{split}", identity, convert)
    vocabulary = orjson.loads((folder / "names.json").read_bytes())
    samples, images, annotations, frames = (read_rows(folder, name) for name in ("samples", "images", "annotations", "frames"))
    return Annotations(samples, images, annotations, frames, Blobs(folder, "file_names"), vocabulary["sequences"], vocabulary["cameras"])


def load_fits(files: SourceFiles, split: str, cache: Path) -> NDArray[Any]:
    """The split's MANO fits, rows of FIT sorted by capture, frame and side; hands without a fit are absent."""
    name = annotation_name(split, "MANO_NeuralAnnot")

    def convert(folder: Path) -> None:
        with RowWriter(folder / "fits.npy", FIT) as rows, files.open(name) as stream:
            for keys, fields in iter_flat_objects(stream, files.where(name)):
                values = [fields.get(field, []) for field, _ in FIT_FIELDS]
                if len(keys) != 3 or keys[2] not in SIDES:
                    continue  # a frame where both hands are null
                capture, frame = _numbers_of(keys[:2], files.where(name))
                whole = all(len(v) == length for v, (_, length) in zip(values, FIT_FIELDS, strict=True))
                flat: list[Scalar] = [v for part in values for v in part] if whole else [None] * FIT["values"].shape[0]
                rows.append((capture, frame, SIDES.index(keys[2]), _numbers(flat)))
        fits = np.load(folder / "fits.npy")
        np.save(folder / "fits.npy", fits[np.lexsort((fits["side"], fits["frame"], fits["capture"]))])

    return read_rows(converted(cache, f"interhand-{split}-mano", (LAYOUT, files.where(name), files.stamp(name)), convert), "fits")


def find_row(rows: NDArray[Any], *wanted: int) -> int:
    """The row of a table sorted by its first columns where they have the values `wanted` (capture, frame, side), or -1."""
    names = (rows.dtype.names or ())[: len(wanted)]

    def key(row: int) -> tuple[int, ...]:
        return tuple(int(rows[row][name]) for name in names)

    place = bisect_left(range(len(rows)), wanted, key=key)
    return place if place < len(rows) and key(place) == wanted else -1


def _convert_data(files: SourceFiles, name: str, folder: Path) -> None:
    sequences: dict[str, int] = {}
    cameras: dict[str, int] = {}
    images, names = RowWriter(folder / "images.npy", IMAGE), BlobWriter(folder, "file_names")
    annotations = RowWriter(folder / "annotations.npy", ANNOTATION)
    with images, names, annotations, files.open(name) as stream:
        for keys, fields in iter_flat_objects(stream, files.where(name)):
            if keys == ("images",):
                names.append(str((fields.get("file_name") or [""])[0]).encode("utf-8", "replace"))
                images.append(_image_row(fields, sequences, cameras))
            elif keys == ("annotations",):
                annotations.append(_annotation_row(fields))
    (folder / "names.json").write_bytes(orjson.dumps({"sequences": list(sequences), "cameras": list(cameras)}))


def _image_row(fields: Fields, sequences: dict[str, int], cameras: dict[str, int]) -> tuple[Any, ...]:
    wrong = _first_wrong(fields, IMAGE_FIELDS, {"file_name": TEXT, "seq_name": TEXT | WHOLE, "camera": TEXT | WHOLE})
    if wrong:
        identifier = (fields.get("id") or [-1])[0]
        return (identifier if type(identifier) is int else -1, 0, 0, 0, 0, 0, 0, wrong)
    one = {field: fields[field][0] for field in IMAGE_FIELDS}
    sequence = sequences.setdefault(str(one["seq_name"]), len(sequences))
    camera = cameras.setdefault(str(one["camera"]), len(cameras))
    return (one["id"], one["width"], one["height"], one["capture"], sequence, camera, one["frame_idx"], 0)


def _annotation_row(fields: Fields) -> tuple[Any, ...]:
    wrong = _first_wrong(fields, ANNOTATION_FIELDS, {"hand_type": TEXT, "joint_valid": FLAGS}, {"bbox": 4, "joint_valid": NUM_JOINTS})
    image_id = (fields.get("image_id") or [-1])[0]
    if wrong:
        return (image_id if type(image_id) is int else -1, (0, 0, 0, 0), 0, UNKNOWN, wrong)
    hand_type = fields["hand_type"][0]
    kind = HAND_TYPES.index(str(hand_type)) if hand_type in HAND_TYPES else UNKNOWN
    return (image_id, _numbers(fields["bbox"]), _bits(fields["joint_valid"]), kind, 0)


def _convert_frames(files: SourceFiles, name: str, folder: Path) -> None:
    with RowWriter(folder / "frames.npy", FRAME) as rows, files.open(name) as stream:
        for keys, fields in iter_flat_objects(stream, files.where(name)):
            capture, frame = _numbers_of(keys, files.where(name))
            wrong = _first_wrong(fields, FRAME_FIELDS, {"joint_valid": FLAGS}, {"world_coord": 3 * NUM_JOINTS, "joint_valid": NUM_JOINTS})
            points = np.full((NUM_JOINTS, 3), np.nan) if wrong else np.reshape(_numbers(fields["world_coord"]), (NUM_JOINTS, 3))
            rows.append((capture, frame, points, 0 if wrong else _bits(fields["joint_valid"]), wrong))
    frames = np.load(folder / "frames.npy")
    np.save(folder / "frames.npy", frames[np.lexsort((frames["frame"], frames["capture"]))])


def _join(folder: Path, where: str) -> None:
    """samples.npy: for every annotation, in the order of their images' ids, its image's row and its frame's."""
    images, annotations, frames = (read_rows(folder, name) for name in ("images", "annotations", "frames"))
    if not len(annotations):
        raise DataError(f"{where}: expected lists `images` and `annotations`, got no annotation")
    order = np.argsort(images["id"], kind="stable")
    samples = np.lib.format.open_memmap(folder / "samples.npy", "w+", SAMPLE, (len(annotations),))
    frame_keys = _frame_key(frames["capture"], frames["frame"])
    identifiers = images["id"][order]
    in_order = np.argsort(annotations["image_id"], kind="stable")
    for begin in range(0, len(annotations), 1 << 18):
        rows = slice(begin, begin + (1 << 18))
        wanted = annotations["image_id"][in_order[rows]]
        image = _lookup(identifiers, wanted)
        image = np.where(image >= 0, order[image], -1) if len(order) else image
        shown = images[np.maximum(image, 0)] if len(images) else None
        samples["image"][rows], samples["annotation"][rows] = image, in_order[rows]
        samples["frame"][rows] = -1 if shown is None else _lookup(frame_keys, _frame_key(shown["capture"], shown["frame"]))
    samples.flush()


def _frame_key(capture: NDArray[Any], frame: NDArray[Any]) -> NDArray[np.int64]:
    return capture.astype(np.int64) << 40 | frame


def _lookup(ascending: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """Where each wanted value is in an ascending array, or -1."""
    if not len(ascending):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[place] == wanted, place, -1)


def _first_wrong(fields: Fields, names: tuple[str, ...], kinds: dict[str, set[type]], lengths: dict[str, int] | None = None) -> int:
    """0, or the place from 1 of the first field that is missing or has another length or kind than it should (whole numbers by default)."""
    for number, name in enumerate(names, 1):
        values = fields.get(name, [])
        length = lengths.get(name, 1) if lengths else 1
        kind = kinds.get(name, WHOLE if length == 1 else NUMBERS)
        if len(values) != length or not set(map(type, values)) <= kind:
            return number
        if kind is WHOLE and not -MAX_NUMBER <= values[0] <= MAX_NUMBER:  # type: ignore[operator]
            return number
    return 0


def _numbers_of(keys: tuple[str, ...], where: str) -> list[int]:
    """Capture and frame out of the two keys that lead to an entry. DataError if they are none."""
    if len(keys) != 2 or not all(key.isascii() and key.isdecimal() and int(key) <= MAX_NUMBER for key in keys):
        raise DataError(f"{where}: expected capture and frame numbers, got {list(keys)}")
    return [int(key) for key in keys]


def _numbers(values: list[Scalar]) -> list[float]:
    return [float("nan") if v is None else float(v) for v in values]


def _bits(values: list[Scalar]) -> int:
    """42 flags (numbers or booleans) as the bits of an integer."""
    if all(values):
        return ALL_BITS
    return sum(1 << place for place, value in enumerate(values) if value)
