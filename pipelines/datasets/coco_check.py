"""What `handnet data check` finds of a COCO-style set: its JSON, its folder of images, and the boxes of its annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from pipelines.config_datasets import CocoConfig
from pipelines.datasets.checking import Part, Published
from pipelines.datasets.coco import Coco
from pipelines.datasets.json_stream import iter_items
from pipelines.datasets.registry import Dataset
from pipelines.datasets.sample import DataError
from pipelines.datasets.source_files import SourceFiles

FOLDERS = ("annotations",)
EVALUATION = ("val", "eval", "test")
SAMPLES = 20  # image entries by which the folder of images is looked for


class CocoCheck:
    """Keypoints are taken to be in std21 order, whole numbers to be the centres of pixels: the sheet shows whether they are."""

    title = "COCO-style hand keypoints"

    def config(self, path: str) -> CocoConfig:
        """The JSON files below PATH, one of them for evaluation if its name says so. DataError where it is not plain which to take."""
        files = SourceFiles(path, (), folders=FOLDERS)
        found = [name for name in files.names("", ".json") if _has_images(files, name)]
        names = [name for name in found if not any(name.endswith(f"/{other}") for other in found)]  # seen from an outer folder too
        evaluation = [name for name in names if any(word in name.rpartition("/")[2].lower() for word in EVALUATION)]
        training = [name for name in names if name not in evaluation] or evaluation[:1]
        evaluation = [name for name in evaluation if name not in training]
        if len(training) != 1 or len(evaluation) > 1:
            raise DataError(f"{path}: expected one JSON with images and annotations, and at most one more for evaluation, got {names}")
        eval_annotations = evaluation[0] if evaluation else None
        return CocoConfig(
            path=path,
            annotations=training[0],
            images=_image_folder(files, training[0]),
            eval_annotations=eval_annotations,
            eval_images=None if eval_annotations is None else _image_folder(files, eval_annotations),
            keypoint_order=None,
            pixel_centers="integer",
            seed=0,
            val_fraction=0.0,
            samples_per_shard=1,
            max_quarantined=0.0,
        )

    def parts(self, config: CocoConfig) -> list[Part]:
        """Entries of each JSON, and how many of their images are there."""
        files = SourceFiles(config.path, (config.annotations,), folders=FOLDERS)
        parts = []
        for name, folder in ((config.annotations, config.images), (config.eval_annotations, config.eval_images or "")):
            if name is not None:
                entries = [str(entry.get("file_name")) for entry in _entries(files, name, "images")]
                there = sum(files.exists(_below(folder, entry)) for entry in entries)
                annotations = sum(1 for _ in _entries(files, name, "annotations"))
                parts += [
                    Part(name=f"{name}: images", found=len(entries)),
                    Part(name=f"images in {folder or 'the top folder'}", found=there, published=len(entries)),
                    Part(name=f"{name}: annotations", found=annotations),
                ]
        return parts

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """The annotations' boxes, where each hand has one."""
        assert isinstance(dataset, Coco)
        boxes = [np.array(box, np.float64) for box in dataset.published_boxes(index)]
        return [Published(box_px=np.concatenate([box[:2], box[:2] + box[2:]]) if len(box) else None) for box in boxes]


def _has_images(files: SourceFiles, name: str) -> bool:
    try:
        return next(_entries(files, name, "images"), None) is not None
    except DataError:
        return False


def _entries(files: SourceFiles, name: str, kind: str) -> Iterator[dict]:
    with files.open(name) as stream:
        yield from (entry for entry in iter_items(stream, f"{kind}.item", files.where(name)) if isinstance(entry, dict))


def _image_folder(files: SourceFiles, name: str) -> str:
    """The folder below which the first images of a JSON lie: the one that holds most of them."""
    wanted = [str(entry.get("file_name")) for entry in islice(_entries(files, name, "images"), SAMPLES)]
    holds: dict[str, int] = {}
    for file in files.names(""):
        for entry in wanted:
            if file == entry or file.endswith(f"/{entry}"):
                folder = file[: -len(entry)].rstrip("/")
                holds[folder] = holds.get(folder, 0) + 1
    # of equally good ones the one that is called like the JSON, and of these the one nearest to the top
    stem = name.rpartition("/")[2].removesuffix(".json").lower()
    return max(holds, key=lambda folder: (holds[folder], folder.rpartition("/")[2].lower() in stem, -len(folder), folder), default="")


def _below(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name


CHECK = CocoCheck()
