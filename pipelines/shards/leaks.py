"""Whether two folders of shards show the same source frames: what must not be between training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from pipelines.shards.manifest import SOURCE_IDS
from pipelines.shards.schema import ShardError


def check_disjoint(folders: Sequence[Path]) -> None:
    """ShardError if two of the folders share a source frame: it says how many, and names the first.

    The sorted lists beside the shards are read side by side, so that it takes no memory however long they are.
    """
    for a, b in combinations(folders, 2):
        shared = list(_shared(a, b))
        if shared:
            first, count = shared[0], len(shared)
            raise ShardError(
                f"{a} and {b} share {count:,} source frame{'s' if count > 1 else ''}, the first {first!r}: "
                "a model would be measured on what it was trained on"
            )


def _shared(a: Path, b: Path) -> Iterator[str]:
    """Source frames of both, in order."""
    left, right = _source_ids(a), _source_ids(b)
    x, y = next(left, None), next(right, None)
    while x is not None and y is not None:
        if x == y:
            yield x
        order = (x > y) - (x < y)
        if order <= 0:
            x = next(left, None)
        if order >= 0:
            y = next(right, None)


def _source_ids(folder: Path) -> Iterator[str]:
    path = folder / SOURCE_IDS
    try:
        with path.open(encoding="utf-8") as lines:
            last = ""
            for line in lines:
                source_id = line.rstrip("\n")
                if source_id < last:
                    raise ShardError(f"{path}: expected sorted lines, got {source_id!r} after {last!r}")
                yield source_id
                last = source_id
    except FileNotFoundError:
        raise ShardError(f"{path}: not found; run the stage that writes {folder} again") from None
