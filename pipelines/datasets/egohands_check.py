"""What `handnet data check` compares EgoHands with: the published numbers of videos and frames."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config_datasets import EgohandsConfig
from pipelines.datasets.checking import Part, Published
from pipelines.datasets.egohands import FRAMES, METADATA
from pipelines.datasets.registry import Dataset
from pipelines.datasets.source_files import SourceFiles

NUM_VIDEOS, NUM_FRAMES = 48, 4_800


class EgohandsCheck:
    """There is nothing in pixels but the outlines, which become the masks."""

    title = "EgoHands"

    def config(self, path: str) -> EgohandsConfig:
        """All frames."""
        return EgohandsConfig(path=path, samples_per_shard=1, max_quarantined=0.0)

    def parts(self, config: EgohandsConfig) -> list[Part]:
        """Videos, frames and the outlines' file."""
        files = SourceFiles(config.path, (METADATA,), folders=(FRAMES,))
        names = list(files.names(f"{FRAMES}/", ".jpg"))
        return [
            Part(name="videos", found=len({name.rpartition("/")[0] for name in names}), published=NUM_VIDEOS),
            Part(name="labelled frames", found=len(names), published=NUM_FRAMES),
            Part(name=METADATA, found=int(files.exists(METADATA)), published=1),
        ]

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """No keypoints, no boxes."""
        return ()


CHECK = EgohandsCheck()
