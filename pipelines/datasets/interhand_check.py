"""What `handnet data check` compares InterHand2.6M with: the published numbers of images, and the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipelines.config_datasets import InterhandConfig
from pipelines.datasets.checking import Part, Published
from pipelines.datasets.interhand import FOLDERS, MARKERS, OFFICIAL, Interhand, named_fps
from pipelines.datasets.interhand_annotations import annotation_name
from pipelines.datasets.registry import Dataset
from pipelines.datasets.source_files import SourceFiles

NUM_IMAGES_5FPS = {"train": 1_361_062, "val": 380_125, "test": 849_160}
NOTES = {
    "MANO_NeuralAnnot": "needed with mano_model only",
    "joint_3d": "the split needs it",
    "camera": "the split needs it",
    "data": "the split needs it",
}


class InterhandCheck:
    """Which release it is, is told from a folder's or archive's name with its frame rate; without one it is taken for the 5 fps one."""

    title = "InterHand2.6M v1.0"

    def config(self, path: str) -> InterhandConfig:
        """All frames of the splits that are there, no MANO."""
        files = SourceFiles(path, MARKERS, folders=FOLDERS)
        splits: list[Literal["train", "val", "eval"]] = [
            split for split in ("train", "val", "eval") if files.exists(annotation_name(OFFICIAL[split], "data"))
        ]
        fps: Literal[5, 30] = 30 if named_fps(files) == 30 else 5
        return InterhandConfig(
            path=path,
            splits=splits,
            fps=fps,
            release_fps=fps,
            seed=0,
            train_subset=None,
            mano_model=None,
            samples_per_shard=1,
            max_quarantined=0.0,
        )

    def parts(self, config: InterhandConfig) -> list[Part]:
        """Images and annotation files of each official split."""
        files = SourceFiles(config.path, MARKERS, folders=FOLDERS)
        parts = []
        for split, official in OFFICIAL.items():
            used = split in config.splits
            published = NUM_IMAGES_5FPS[official] if config.release_fps == 5 else None
            # annotations come for all splits at once, images in pieces: a copy may have those of one split
            images = files.count(f"images/{official}/", ".jpg")
            parts.append(Part(name=f"{official} images", found=images, published=published, needed=False))
            for kind, note in NOTES.items():
                name = annotation_name(official, kind)
                needed = used and images > 0 and kind != "MANO_NeuralAnnot"
                parts.append(Part(name=name, found=int(files.exists(name)), published=1, needed=needed, note=note))
        return parts

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """The box, which is around all hands of the image."""
        assert isinstance(dataset, Interhand)
        return [Published(box_px=dataset.bounding_box(index))] * len(dataset.sample(index).hands)


CHECK = InterhandCheck()
