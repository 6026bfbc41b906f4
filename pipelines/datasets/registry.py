"""The datasets by name: which splits a configuration gives, how to open one, and which code makes its samples.

Adapters are imported when they are opened, so that ingesting one needs nothing of the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.datasets.sample import HandSample

ROOT = Path(__file__).parents[2]


class Dataset(Protocol):
    """One split of a dataset: `len()` samples, each a pure function of the configuration and its index."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> HandSample:
        """DataError, naming file and field, for a sample that is damaged or lacks what it should have: it is set aside."""
        ...

    def where(self, index: int) -> tuple[str, str]:
        """Key of sample `index` and the file it comes from, told without reading it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Where an adapter lives. `factory` is "module:class", called as class(config, split[, cache folder]).

    `check` is the "module:object" of its DatasetCheck (pipelines/datasets/checking.py), "" for made-up data.
    """

    factory: str
    check: str = ""
    splits: Callable[[Any], tuple[str, ...]]
    code: tuple[str, ...] = ()  # what its samples depend on beside its own module, from the repository's root
    needs_cache: bool = False  # whether it converts its annotations once, into a folder that all workers share

    def open(self, config: Any, split: str, cache: Path) -> Dataset:
        """The split's samples. DataError if the data cannot be used."""
        module, name = self.factory.split(":")
        factory = getattr(importlib.import_module(module), name)
        dataset: Dataset = factory(config, split, cache) if self.needs_cache else factory(config, split)
        return dataset

    def code_paths(self) -> list[Path]:
        """Files and folders whose change makes half-made shards worthless."""
        module = ROOT.joinpath(*self.factory.split(":")[0].split("."))
        own = module if module.is_dir() else module.with_suffix(".py")
        return [own, *(ROOT / path for path in self.code)]


def _modules(*names: str) -> tuple[str, ...]:
    return tuple(f"pipelines/datasets/{name}.py" for name in names)


READING = _modules("archive_index", "archives", "byte_sources", "masks", "source_files", "splits")


def _held_out_and_eval(config: Any) -> tuple[str, ...]:
    return ("train", "val", "eval") if config.val_fraction > 0 else ("train", "eval")


ADAPTERS: dict[str, Adapter] = {
    "procedural": Adapter(
        factory="pipelines.datasets.procedural:Procedural",
        splits=lambda config: ("train", "eval"),
        code=("handnet/hand", "handnet/rendering", "handnet/skeleton.py"),
    ),
    "freihand": Adapter(
        factory="pipelines.datasets.freihand:Freihand",
        check="pipelines.datasets.freihand_check:CHECK",
        splits=_held_out_and_eval,
        code=(*READING, "pipelines/datasets/annotations.py", "pipelines/datasets/mano_fit.py", "handnet/hand"),
        needs_cache=True,
    ),
    "ho3d": Adapter(
        factory="pipelines.datasets.ho3d:Ho3d",
        check="pipelines.datasets.ho3d_check:CHECK",
        splits=lambda config: ("train", "val", "eval") if config.val_sequences else ("train", "eval"),
        code=(*READING, "pipelines/datasets/mano_fit.py", "handnet/hand", "handnet/skeleton.py"),
        needs_cache=True,
    ),
    "rhd": Adapter(
        factory="pipelines.datasets.rhd:Rhd",
        check="pipelines.datasets.rhd_check:CHECK",
        splits=_held_out_and_eval,
        code=(*READING, *_modules("tables"), "handnet/hand", "handnet/skeleton.py"),
        needs_cache=True,
    ),
    "interhand": Adapter(
        factory="pipelines.datasets.interhand:Interhand",
        check="pipelines.datasets.interhand_check:CHECK",
        splits=lambda config: tuple(split for split in ("train", "val", "eval") if split in config.splits),
        code=(
            *READING,
            *_modules("interhand_annotations", "interhand_cameras", "json_stream", "mano_fit", "tables"),
            "handnet/hand",
            "handnet/skeleton.py",
        ),
        needs_cache=True,
    ),
    "egohands": Adapter(
        factory="pipelines.datasets.egohands:Egohands",
        check="pipelines.datasets.egohands_check:CHECK",
        splits=lambda config: ("eval",),
        code=(*READING, *_modules("matlab", "outlines", "unknown_camera")),
        needs_cache=True,
    ),
    "coco": Adapter(
        factory="pipelines.datasets.coco:Coco",
        check="pipelines.datasets.coco_check:CHECK",
        splits=lambda config: (
            "train",
            *(("val",) if config.val_fraction > 0 else ()),
            *(("eval",) if config.eval_annotations is not None else ()),
        ),
        code=(*READING, *_modules("coco_records", "json_stream", "outlines", "tables", "unknown_camera")),
        needs_cache=True,
    ),
    "photos": Adapter(
        factory="pipelines.datasets.photos:Photos",
        check="pipelines.datasets.photos_check:CHECK",
        splits=lambda config: ("train", "val") if config.val_fraction > 0 else ("train",),
        code=(*READING, *_modules("mediapipe_process", "mediapipe_worker", "pseudo_labels", "unknown_camera")),
        needs_cache=True,
    ),
}


def find_adapter(name: str) -> Adapter:
    """The adapter called `name`; ValueError lists those there are."""
    if name not in ADAPTERS:
        raise ValueError(f"dataset: expected one of {sorted(ADAPTERS)}, got {name!r}")
    return ADAPTERS[name]
