"""Records of a COCO-style JSON, however large: kept on disk by image, and what their fields mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from handnet.skeleton import SIDES
from pipelines.datasets.json_stream import iter_items
from pipelines.datasets.outlines import polygon_mask, run_length_mask
from pipelines.datasets.sample import DataError, check_camera
from pipelines.datasets.source_files import SourceFiles
from pipelines.datasets.tables import Blobs, BlobWriter, RowWriter, converted, read_rows

LAYOUT = 1  # raised when the tables change
WHOLE_BODY = {"left": "lefthand", "right": "righthand"}
NO_IMAGE = -1
ROW = np.dtype([("image", "<i8"), ("annotation", "<i8")])

Record = dict[str, Any]


class Records:
    """The images that show a labelled hand, in the order of the file, with all their annotations that concern hands."""

    def __init__(self, files: SourceFiles, name: str, cache: Path) -> None:
        """`name`: the JSON. `cache`: folder for the converted records. DataError if it is no JSON with images and annotations."""
        folder = converted(cache, "coco", (LAYOUT, files.where(name), files.stamp(name)), lambda folder: _convert(files, name, folder))
        self.sides: dict[str, str] = orjson.loads((folder / "sides.json").read_bytes())
        self._images, self._annotations = Blobs(folder, "images"), Blobs(folder, "annotations")
        self.rows = read_rows(folder, "rows")
        self.numbers, self.starts = np.unique(self.rows["image"], return_index=True)

    def __len__(self) -> int:
        return len(self.numbers)

    def image(self, index: int) -> Record | None:
        """The image's entry; None for what annotations without an image are collected under."""
        if self.numbers[index] == NO_IMAGE:
            return None
        record: Record = orjson.loads(self._images[int(self.numbers[index])])
        return record

    def annotations(self, index: int) -> list[Record]:
        end = self.starts[index + 1] if index + 1 < len(self) else len(self.rows)
        return [orjson.loads(self._annotations[int(row["annotation"])]) for row in self.rows[self.starts[index] : end]]


def _convert(files: SourceFiles, name: str, folder: Path) -> None:
    where = files.where(name)

    def records(kind: str) -> Any:
        with files.open(name) as stream:
            for number, record in enumerate(iter_items(stream, f"{kind}.item", where)):
                if not isinstance(record, dict):
                    raise DataError(f"{where}: {kind}[{number}]: expected an object, got a {type(record).__name__}")
                yield record

    places: dict[Any, int] = {}
    with BlobWriter(folder, "images") as blobs:
        for number, record in enumerate(records("images")):
            if not isinstance(record.get("id"), int | str) or record["id"] in places:
                raise DataError(f"{where}: images[{number}]: id: expected one that no other image has, got {record.get('id')!r}")
            places[record["id"]] = number
            blobs.append(orjson.dumps(record))
    shown: set[int] = set()  # images with a labelled hand
    with BlobWriter(folder, "annotations") as blobs, RowWriter(folder / "all.npy", ROW) as rows:
        for record in records("annotations"):
            if "keypoints" not in record and not is_whole_body(record):
                continue
            image = places.get(record.get("image_id"), NO_IMAGE) if isinstance(record.get("image_id"), int | str) else NO_IMAGE
            rows.append((image, len(blobs)))
            blobs.append(orjson.dumps(record))
            if image == NO_IMAGE or _may_show_a_hand(record):
                shown.add(image)
    if not shown:
        raise DataError(f"{where}: expected lists `images` and `annotations` with labelled hands, got none")
    found = read_rows(folder, "all")
    kept = found[np.isin(found["image"], np.fromiter(shown, np.int64, len(shown)))]
    np.save(folder / "rows.npy", kept[np.argsort(kept["image"], kind="stable")])
    sides = {str(record.get("id")): side for record in records("categories") if (side := side_in(str(record.get("name"))))}
    (folder / "sides.json").write_bytes(orjson.dumps(sides))


def is_whole_body(annotation: Record) -> bool:
    """Whether an annotation is a person of COCO-WholeBody, whose `keypoints` are the body's."""
    return any(f"{name}_kpts" in annotation for name in WHOLE_BODY.values())


def whole_body_hands(annotation: Record) -> dict[str, str]:
    """The field of keypoints of each side that a person's annotation labels."""
    valid = {side: f"{name}_kpts" for side, name in WHOLE_BODY.items() if annotation.get(f"{name}_valid", True)}
    return {side: field for side, field in valid.items() if field in annotation}


def _may_show_a_hand(record: Record) -> bool:
    """Whether an annotation has a labelled keypoint, or is damaged and has to be looked at."""
    if not is_whole_body(record) and record.get("iscrowd"):
        return False
    fields = list(whole_body_hands(record).values()) if is_whole_body(record) else ["keypoints"]
    lists = [record[field] for field in fields]
    return any(not isinstance(values, list) or any(not isinstance(v, int | float) or v > 0 for v in values[2::3]) for values in lists)


def side_in(name: str) -> str | None:
    """"left" or "right" where exactly one of them is in a name."""
    found = [side for side in SIDES if side in name.lower()]
    return found[0] if len(found) == 1 else None


def parse_keypoints(values: object, where: str) -> NDArray[np.float64]:
    """(N,3) x, y and 1 where the keypoint is labelled, 0 where v <= 0 or it has the place (0, 0) or (-1, -1) that stands for none."""
    try:
        array = np.array(values, np.float64).reshape(-1, 3)
    except (ValueError, TypeError):
        raise DataError(f"{where}: expected numbers x, y, v for each keypoint, got {str(values)[:60]}") from None
    if not np.isfinite(array[:, 2]).all():
        raise DataError(f"{where}: expected a finite v for every keypoint, got null or NaN")
    array[:, 2] = (array[:, 2] > 0) & ~(array[:, :2] == 0).all(1) & ~(array[:, :2] == -1).all(1)
    if not np.isfinite(array[array[:, 2] > 0]).all():
        raise DataError(f"{where}: expected finite numbers for labelled keypoints, got null or NaN")
    return array


def image_shape(record: Record, where: str) -> tuple[int, int]:
    """Height and width as the record has them."""
    size = record.get("height"), record.get("width")
    if not all(type(value) is int and value > 0 for value in size):
        raise DataError(f"{where}: height, width: expected whole numbers > 0, got {size}")
    return size  # type: ignore[return-value]


def camera_of(record: Record, where: str) -> NDArray[np.float64] | None:
    """(3,3) K of an image entry: its field `K`, or `cam_param` with focal and princpt; None where there is neither."""
    try:
        if record.get("K") is not None:
            K = np.array(record["K"], np.float64)
        elif record.get("cam_param") is not None:
            (fx, fy), (cx, cy) = record["cam_param"]["focal"], record["cam_param"]["princpt"]
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
        else:
            return None
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{where}: K: expected a camera matrix, or cam_param with focal and princpt") from None
    if K.shape != (3, 3) or not np.isfinite(K).all():
        raise DataError(f"{where}: K: expected a (3, 3) camera matrix of finite numbers, got {K.tolist()}")
    check_camera(K, f"{where}: K")
    return K


def segmentation_mask(segmentation: object, shape: tuple[int, int], where: str) -> NDArray[np.uint8] | None:
    """(H,W) mask of polygons, run lengths or packed run lengths; None where there is no segmentation."""
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != list(shape):
                raise ValueError(f"expected size {list(shape)}, got {segmentation['size']}")
            return run_length_mask(segmentation["counts"], shape)
        polygons = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]  # type: ignore[attr-defined]
        if not all(np.isfinite(polygon).all() for polygon in polygons):
            raise ValueError("expected finite numbers")
        return polygon_mask(polygons, shape)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where}: segmentation: neither polygons nor run lengths: {error}") from None
