"""What `handnet data check` compares FreiHAND with: the published numbers of images and annotations."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config_datasets import FreihandConfig
from pipelines.datasets.annotations import iter_entries
from pipelines.datasets.checking import Part, Published
from pipelines.datasets.freihand import FOLDERS, MARKERS, NUM_BACKGROUNDS, NUM_EVALUATION, NUM_TRAINING, SHAPES
from pipelines.datasets.registry import Dataset
from pipelines.datasets.source_files import SourceFiles


class FreihandCheck:
    """FreiHAND publishes no 2D keypoints: ours are projections, and its masks are what they are compared with."""

    title = "FreiHAND v2"

    def config(self, path: str) -> FreihandConfig:
        """All training frames, no MANO."""
        return FreihandConfig(path=path, seed=0, val_fraction=0.0, samples_per_shard=1, max_quarantined=0.0, mano_model=None)

    def parts(self, config: FreihandConfig) -> list[Part]:
        """Images, masks and entries of K; the other annotations are there or not."""
        files = SourceFiles(config.path, MARKERS, folders=FOLDERS)
        parts = [
            Part(name="training images", found=files.count("training/rgb/", ".jpg"), published=NUM_TRAINING * NUM_BACKGROUNDS),
            Part(name="training masks", found=files.count("training/mask/", ".jpg"), published=NUM_TRAINING),
            Part(name="evaluation images", found=files.count("evaluation/rgb/", ".jpg"), published=NUM_EVALUATION, needed=False),
        ]
        for part, published in (("training", NUM_TRAINING), ("evaluation", NUM_EVALUATION)):
            name = f"{part}_K.json"
            found = 0
            if files.exists(name):
                with files.open(name) as stream:
                    found = sum(1 for _ in iter_entries(stream, files.where(name)))
            parts.append(Part(name=name, found=found, published=published, needed=part == "training"))
            for kind in SHAPES:
                if kind != "K":
                    parts.append(self._annotation(files, part, kind))
        return parts

    def _annotation(self, files: SourceFiles, part: str, kind: str) -> Part:
        note = "needed with mano_model only" if kind == "mano" else ""
        if part == "evaluation" and kind != "mano":
            note = "split eval needs it; published since 2022 in a zip of its own"
        needed = part == "training" and kind != "mano"
        return Part(name=f"{part}_{kind}.json", found=int(files.exists(f"{part}_{kind}.json")), published=1, needed=needed, note=note)

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """Nothing in pixels but the mask, which the sample has."""
        return ()


CHECK = FreihandCheck()
