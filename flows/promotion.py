"""The promoted model: whether a candidate takes its place, and the exchange of the two, which is done or not done, never half.

promoted/NAME holds a model with its promotion.json; promoted/current and promoted/former are links to two of them.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handnet.json_object import parse_object
from pipelines.summary import ROWS

STORE = Path("promoted")
CURRENT, FORMER = "current", "former"
RECORD = "promotion.json"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a candidate is better: `figure` by at least the share `margin` of the promoted model's, no guard worse by more than that."""

    figure: str
    margin: float
    guards: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = {row.name for row in ROWS}
        for name in (self.figure, *self.guards):
            if name not in known:
                raise ValueError(f"figure: expected one of {sorted(known)}, got {name!r}")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin: expected a share from 0 to below 1, got {self.margin}")


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate is promoted, and why, in one line."""

    promote: bool
    reason: str


def gain(name: str, candidate: Mapping[str, float], promoted: Mapping[str, float]) -> float:
    """How much better the candidate's figure is, as a share of the promoted model's; negative: worse. ValueError if it is no number."""
    new, old = _figure(name, "the candidate", candidate), _figure(name, "the promoted model", promoted)
    sign = 1 if next(row.more_is_better for row in ROWS if row.name == name) else -1
    if old == 0:
        return 0.0 if new == 0 else sign * float("inf")
    return sign * (new - old) / abs(old)


def _figure(name: str, who: str, figures: Mapping[str, float]) -> float:
    value = figures.get(name)
    if value is None:
        raise ValueError(f"figure {name!r}: not among those of {who}, which has {sorted(figures)}")
    if not math.isfinite(value):  # every comparison with it would be false
        raise ValueError(f"figure {name!r} of {who}: expected a finite number, got {value}")
    return value


def judge(rule: Rule, candidate: Mapping[str, float], promoted: Mapping[str, float] | None) -> Verdict:
    """Compare figures of the same evaluation; None: no model is promoted yet."""
    if promoted is None:
        _figure(rule.figure, "the candidate", candidate)
        return Verdict(True, "no model was promoted before")
    better = gain(rule.figure, candidate, promoted)
    told = f"{rule.figure} {candidate[rule.figure]:.4g}, promoted {promoted[rule.figure]:.4g}: {better:+.2%}"
    if better <= 0 or better < rule.margin:
        return Verdict(False, f"{told}, at least {rule.margin:.2%} better is asked for")
    for name in rule.guards:
        worse = -gain(name, candidate, promoted)
        if worse > rule.margin:
            return Verdict(False, f"{told}, but {name} is {worse:.2%} worse: {candidate[name]:.4g}, promoted {promoted[name]:.4g}")
    return Verdict(True, told)


@contextmanager
def exclusive(store: Path) -> Iterator[None]:
    """One process at a time compares and exchanges."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def read_record(store: Path, which: str = CURRENT) -> dict[str, Any] | None:
    """The record of the current or former model; None if there is none. ValueError for one that cannot be read."""
    path = store / which / RECORD
    try:
        return parse_object(path.read_bytes(), path)
    except FileNotFoundError:
        return None


def promote(store: Path, model: Path, record: Mapping[str, Any]) -> Path:
    """Copy a model into the store and make it the current one; the current one becomes the former, older ones go.

    Returns its folder. Interrupted at any moment, `current` is a whole model: the old one or the new one.
    """
    if not model.is_dir():
        raise ValueError(f"{model}: expected a model folder, got {'a file' if model.exists() else 'nothing'}")
    now = datetime.now(UTC)
    name = now.strftime("%Y%m%dT%H%M%S.%fZ")
    partial = store / f".{name}.partial"
    try:
        shutil.copytree(model, partial)  # the workspace's files may be links into DVC's cache: these are copies
        (partial / RECORD).write_text(json.dumps({**record, "promoted_at": now.isoformat()}, indent=2) + "\n")
        for path in partial.rglob("*"):
            _sync(path)
    except OSError:  # a full disk: what was copied takes no room
        shutil.rmtree(partial, ignore_errors=True)
        raise
    folder = store / name
    os.replace(partial, folder)
    _sync(store)
    if (store / CURRENT).exists():
        _point(store / FORMER, os.readlink(store / CURRENT))
    _point(store / CURRENT, name)
    kept = {os.readlink(store / link) for link in (CURRENT, FORMER) if (store / link).is_symlink()}
    for old in store.iterdir():
        if old.is_dir() and not old.is_symlink() and old.name not in kept:
            shutil.rmtree(old)
    return folder


def _point(link: Path, name: str) -> None:
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(name)
    os.replace(partial, link)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
