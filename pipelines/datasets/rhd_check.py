"""What `handnet data check` compares RHD with: the published numbers of images, and the published keypoints in pixels."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config_datasets import RhdConfig
from pipelines.datasets.checking import Part, Published, is_needed
from pipelines.datasets.registry import Dataset
from pipelines.datasets.rhd import FOLDERS, MARKERS, Rhd, annotation_name
from pipelines.datasets.source_files import SourceFiles

NUM_IMAGES = {"training": 41_258, "evaluation": 2_728}


class RhdCheck:
    """Published keypoints are compared with the projected 3D ones, and with the masks."""

    title = "RHD (RHD_published_v2)"

    def config(self, path: str) -> RhdConfig:
        """All training images."""
        return RhdConfig(path=path, seed=0, val_fraction=0.0, min_keypoints=6, samples_per_shard=1, max_quarantined=0.0)

    def parts(self, config: RhdConfig) -> list[Part]:
        """Images, masks and annotations of both parts."""
        files = SourceFiles(config.path, MARKERS, folders=FOLDERS)
        parts = []
        for part, published in NUM_IMAGES.items():
            needed = is_needed(part, "training", files.exists(annotation_name("training")))
            images, masks = (files.count(f"{part}/{kind}/", ".png") for kind in ("color", "mask"))
            parts += [
                Part(name=f"{part} images", found=images, published=published, needed=needed),
                Part(name=f"{part} masks", found=masks, published=published, needed=needed),
                Part(name=annotation_name(part), found=int(files.exists(annotation_name(part))), published=1, needed=needed),
            ]
        return parts

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """The keypoints in pixels of the hands that are labelled."""
        assert isinstance(dataset, Rhd)
        keypoints = dataset.published(index)
        return [Published(keypoints_px=keypoints[hand.side]) for hand in dataset.sample(index).hands]


CHECK = RhdCheck()
