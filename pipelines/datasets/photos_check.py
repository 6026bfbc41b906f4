"""What `handnet data check` finds of a folder of photos; its sheet shows the pseudo-labels."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config_datasets import PhotosConfig
from pipelines.datasets.checking import Part, Published
from pipelines.datasets.photos import photo_names
from pipelines.datasets.registry import Dataset
from pipelines.datasets.source_files import SourceFiles


class PhotosCheck:
    """Every photo is labelled for it, which takes a fifth of a second or so each."""

    title = "photos"

    def config(self, path: str) -> PhotosConfig:
        """With mediapipe, at the thresholds that the documentation starts from."""
        return PhotosConfig(
            path=path,
            labeller="mediapipe",
            max_hands=8,
            min_score=0.6,
            min_confidence=0.5,
            max_side_px=1024,
            jpeg_quality=92,
            seed=0,
            val_fraction=0.0,
            samples_per_shard=1,
            max_quarantined=0.0,
        )

    def parts(self, config: PhotosConfig) -> list[Part]:
        """How many photos there are."""
        return [Part(name="photos", found=len(photo_names(SourceFiles(config.path, ()))))]

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """Nothing is."""
        return ()


CHECK = PhotosCheck()
