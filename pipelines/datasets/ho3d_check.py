"""What `handnet data check` compares HO3D with: the published numbers of frames, and the boxes of evaluation frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipelines.config_datasets import Ho3dConfig
from pipelines.datasets.checking import Part, Published, is_needed
from pipelines.datasets.ho3d import FOLDERS, MARKERS, PARTS, SUFFIXES, Ho3d, read_frames
from pipelines.datasets.registry import Dataset
from pipelines.datasets.sample import DataError
from pipelines.datasets.source_files import SourceFiles

NUM_FRAMES = {"v2": {"train": 66_034, "evaluation": 11_524}, "v3": {"train": 83_325, "evaluation": 20_137}}


class Ho3dCheck:
    """Which version it is, is told from the kind of its images: PNG in v2, JPEG in v3."""

    title = "HO3D"

    def config(self, path: str) -> Ho3dConfig:
        """All training sequences, no MANO. DataError where there are no images to tell the version from."""
        files = SourceFiles(path, MARKERS, folders=FOLDERS)
        version = next((version for part in PARTS for version in _versions(files, part)), None)
        if version is None:
            raise DataError(f"{path}: no image found below {' or '.join(f'{part}/SEQUENCE/rgb/' for part in PARTS)}")
        return Ho3dConfig(path=path, version=version, samples_per_shard=1, max_quarantined=0.0, val_sequences=[], mano_model=None)

    def parts(self, config: Ho3dConfig) -> list[Part]:
        """Listed frames, images and annotations of both parts."""
        files = SourceFiles(config.path, MARKERS, folders=FOLDERS)
        parts = []
        for part in PARTS:
            published = NUM_FRAMES[config.version][part]
            needed = is_needed(part, "train", files.exists("train.txt"))
            listed = len(read_frames(files, part)) if files.exists(f"{part}.txt") else 0
            images = metas = 0
            for name in files.names(f"{part}/"):
                images += name.endswith(f".{SUFFIXES[config.version]}") and "/rgb/" in name
                metas += name.endswith(".pkl") and "/meta/" in name
            parts += [
                Part(name=f"frames in {part}.txt", found=listed, published=published, needed=needed),
                Part(name=f"{part} images ({config.version})", found=images, published=published, needed=needed),
                Part(name=f"{part} annotations", found=metas, published=published, needed=needed),
            ]
        return parts

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """The box of an evaluation frame; training frames have nothing in pixels."""
        assert isinstance(dataset, Ho3d)
        box = dataset.published_box(index)
        return () if box is None else (Published(box_px=box),)


def _versions(files: SourceFiles, part: str) -> Sequence[Literal["v2", "v3"]]:
    """The version that the part's first image speaks for, if it has one."""
    for name in files.names(f"{part}/"):
        if "/rgb/" in name:
            return ("v2",) if name.endswith(".png") else ("v3",) if name.endswith(".jpg") else ()
    return ()


CHECK = Ho3dCheck()
