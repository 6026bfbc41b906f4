"""What an adapter gives `handnet data check` beside its samples: what there should be, and what its owners publish in pixels.

An adapter's check is one object that follows `DatasetCheck`; the registry names it in `Adapter.check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.registry import Dataset


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of file or entry, such as "training images": how many were found beside how many are published."""

    name: str
    found: int
    published: int | None = None  # None: the owners state no number, or it is the user's own data
    needed: bool = True  # without a single one the dataset cannot be ingested
    note: str = ""  # what being without it means, or where to get it


def is_needed(part: str, training: str, has_training: bool) -> bool:
    """Whether a part's files are needed: those of the part named `training`, or the other part's in a copy of that alone."""
    return (part == training) == has_training


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the owners publish in pixels about one hand: evidence that does not come from its 3D labels.

    keypoints_px (21,2) std21, NaN where there is none; box_px (4,) x0, y0, x1, y1. None: not published.
    """

    keypoints_px: NDArray[np.float64] | None = None
    box_px: NDArray[np.float64] | None = None


class DatasetCheck(Protocol):
    """The check of one dataset. DataError, in one line, for whatever makes it unusable."""

    @property
    def title(self) -> str:
        """The dataset's own name, such as "FreiHAND v2"."""
        ...

    def config(self, path: str) -> Any:
        """The configuration section that reads all of PATH, nothing held out; what can be told from the files (a version) is."""
        ...

    def parts(self, config: Any) -> list[Part]:
        """What is there. Counts files by their names; opens none but lists and annotations."""
        ...

    def published(self, dataset: Dataset, index: int) -> Sequence[Published]:
        """For each hand of `dataset.sample(index)`, in order, what is published in pixels; empty where nothing is."""
        ...
