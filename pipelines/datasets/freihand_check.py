"""What `handnet data check` compares FreiHAND with: the published numbers of images and annotations."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config_datasets import FreihandConfig
from pipelines.datasets.annotations import iter_entries
from pipelines.datasets.checking import Part, Published, is_needed
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
        has_training = files.exists("training_K.json")
        needed = {part: is_needed(part, "training", has_training) for part in ("training", "evaluation")}
        images, masks, shown = (files.count(f"{kind}/", ".jpg") for kind in ("training/rgb", "training/mask", "evaluation/rgb"))
        parts = [
            Part(name="training images", found=images, published=NUM_TRAINING * NUM_BACKGROUNDS, needed=needed["training"]),
            Part(name="training masks", found=masks, published=NUM_TRAINING, needed=needed["training"]),
            Part(name="evaluation images", found=shown, published=NUM_EVALUATION, needed=needed["evaluation"]),
        ]
        for part, published in (("training", NUM_TRAINING), ("evaluation", NUM_EVALUATION)):
            name = f"{part}_K.json"
            found = 0
            if files.exists(name):
                with files.open(name) as stream:
                    found = sum(1 for _ in iter_entries(stream, files.where(name)))
            parts.append(Part(name=name, found=found, published=published, needed=needed[part]))
            parts += [self._annotation(files, part, kind, needed[part]) for kind in SHAPES if kind != "K"]
        return parts

    def _annotation(self, files: SourceFiles, part: str, kind: str, needed: bool) -> Part:
        note = "needed with mano_model only" if kind == "mano" else ""
        if part == "evaluation" and kind != "mano":
            note = "split eval needs it; published since 2022 in a zip of its own"
        name = f"{part}_{kind}.json"
        return Part(name=name, found=int(files.exists(name)), published=1, needed=needed and kind != "mano", note=note)

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """Nothing in pixels but the mask, which the sample has."""
        return ()


CHECK = FreihandCheck()
