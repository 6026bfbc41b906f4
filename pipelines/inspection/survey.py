"""Look at a dataset: parts beside the published numbers, a sample of every split, and what is wrong with it.

The result is plain numbers and text; `handnet data check` prints it.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.checking import DatasetCheck, Part
from pipelines.datasets.registry import ADAPTERS, Adapter, Dataset
from pipelines.datasets.sample import DataError, HandSample, SplitNotThereError
from pipelines.inspection.evidence import Errors, Evidence
from pipelines.inspection.sheet import Cell

NAMES = tuple(name for name, adapter in ADAPTERS.items() if adapter.check)
MAX_REPROJECTION_PX = 2.0  # a larger mean error between 2D and 3D labels says that they are not of one hand
MIN_INSIDE = 0.6  # of keypoints in their published box or on their published mask


@dataclass
class SplitSurvey:
    """One split: how many samples it has, how many of them were looked at, which of these are damaged, and how labels fit."""

    name: str
    num_samples: int = 0
    num_looked_at: int = 0
    num_hands: int = 0
    damaged: list[str] = field(default_factory=list)
    unusable: str = ""  # why it cannot be opened
    not_there: bool = False  # it cannot because it is no part of this copy, not because its files are damaged
    evidence: Evidence = field(default_factory=Evidence)


@dataclass
class Survey:
    """What the check found. `problems`: why the dataset cannot be used, one line each; none if it can."""

    name: str
    title: str
    path: str
    parts: list[Part] = field(default_factory=list)
    splits: list[SplitSurvey] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)  # of the contact sheet

    @property
    def partial(self) -> bool:
        """Whether something that is published is missing."""
        return any(part.published is not None and part.found < part.published for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: numbers that were not measured are null."""
        return {
            "name": self.name,
            "title": self.title,
            "path": self.path,
            "usable": not self.problems,
            "partial": self.partial,
            "problems": self.problems,
            "parts": [asdict(part) for part in self.parts],
            "splits": [_split_dict(split) for split in self.splits],
        }


def find_check(name: str) -> tuple[Adapter, DatasetCheck]:
    """The dataset called `name`; ValueError lists those that can be checked."""
    if name not in NAMES:
        raise ValueError(f"NAME: expected one of {list(NAMES)}, got {name!r}")
    module, attribute = ADAPTERS[name].check.split(":")
    check: DatasetCheck = getattr(importlib.import_module(module), attribute)
    return ADAPTERS[name], check


def survey(name: str, path: str, cache: Path, *, num_samples: int, num_cells: int) -> Survey:
    """Check dataset `name` at `path`, `num_samples` samples a split; `cache`: a folder for converted annotations.

    ValueError for an unknown name. Whatever is wrong with the data is in the result.
    """
    adapter, check = find_check(name)
    found = Survey(name, check.title, path)
    try:
        config = check.config(path)
        found.parts = check.parts(config)
    except DataError as error:
        found.problems.append(str(error))
        return found
    found.problems += [f"{part.name}: none found; {part.note}".rstrip("; ") for part in found.parts if part.needed and not part.found]
    names = adapter.splits(config)
    for split in names:
        found.splits.append(_survey_split(adapter, check, config, split, cache, num_samples, -(-num_cells // len(names)), found.cells))
    if not any(split.num_samples for split in found.splits):
        absent = [split for split in found.splits if split.not_there or not split.unusable]
        found.problems += [f"{split.name}: {split.unusable or 'no samples'}" for split in absent]
    found.problems += [problem for split in found.splits for problem in _problems(split)]
    return found


def _survey_split(
    adapter: Adapter, check: DatasetCheck, config: Any, split: str, cache: Path, num_samples: int, num_cells: int, cells: list[Cell]
) -> SplitSurvey:
    """Look at samples spread evenly over a split, and add the first sound ones to the sheet."""
    found = SplitSurvey(split)
    try:
        dataset = adapter.open(config, split, cache)
    except DataError as error:
        found.unusable, found.not_there = str(error), isinstance(error, SplitNotThereError)
        return found
    found.num_samples = len(dataset)
    shown = set(_spread(min(num_samples, len(dataset)), num_cells).tolist())
    for number, index in enumerate(_spread(len(dataset), num_samples).tolist()):
        found.num_looked_at += 1
        sample = _sample(dataset, index, found)
        if sample is None:
            continue
        found.num_hands += len(sample.hands)
        try:
            found.evidence.add(sample, check.published(dataset, index))
        except ValueError as error:
            found.damaged.append(str(error))
        if number in shown:
            cells.append(Cell(sample, f"{split} {sample.key}"))
    return found


def _sample(dataset: Dataset, index: int, found: SplitSurvey) -> HandSample | None:
    try:
        return dataset.sample(index)
    except ValueError as error:  # a DataError, or what a label says about numbers that are none
        found.damaged.append(str(error))
        return None


def _spread(length: int, num: int) -> NDArray[np.int64]:
    """At most `num` of `length` indices, evenly, with the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(num, length)).round().astype(np.int64)) if length else np.zeros(0, np.int64)


def _problems(split: SplitSurvey) -> list[str]:
    evidence, problems = split.evidence, []
    if split.unusable and not split.not_there:
        problems.append(f"{split.name}: {split.unusable}")
    if split.num_looked_at and len(split.damaged) == split.num_looked_at:
        problems.append(f"{split.name}: all {split.num_looked_at} samples looked at are damaged; the first: {split.damaged[0]}")
    for errors, what in ((evidence.projection, "labelled"), (evidence.published, "published")):
        if errors.count and errors.mean_px > MAX_REPROJECTION_PX:
            problems.append(f"{split.name}: projected 3D keypoints are {errors.mean_px:.1f} px from the {what} 2D ones on average")
    for share, what in ((evidence.in_box, "in their published box"), (evidence.on_mask, "on the published mask")):
        if share.count and share.fraction < MIN_INSIDE:
            problems.append(f"{split.name}: only {share.fraction:.0%} of the keypoints lie {what}")
    return problems


def _split_dict(split: SplitSurvey) -> dict[str, Any]:
    errors = {"projection": split.evidence.projection, "published": split.evidence.published}
    shares = {"in_box": split.evidence.in_box, "on_mask": split.evidence.on_mask}
    return {
        "name": split.name,
        "num_samples": split.num_samples,
        "num_looked_at": split.num_looked_at,
        "num_hands": split.num_hands,
        "unusable": split.unusable or None,
        "damaged": split.damaged,
        **{name: _errors_dict(found) for name, found in errors.items()},
        **{name: {"count": s.count, "fraction": _finite(s.fraction)} for name, s in shares.items()},
    }


def _errors_dict(errors: Errors) -> dict[str, float | int | None]:
    return {"count": errors.count, "mean_px": _finite(errors.mean_px), "max_px": _finite(errors.max_px) if errors.count else None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
