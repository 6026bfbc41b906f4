"""Make a folder of shards in parallel, so that an interrupted run goes on where it was and a finished one is not repeated.

Shards grow in a work folder (`NAME.partial/shards`, with what tells that they are finished in `NAME.partial/stats`);
with its manifest written, the folder of shards takes the target's place by renaming.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import orjson

from pipelines.datasets.sample import DataError, HandSample
from pipelines.executors import report_progress, run
from pipelines.shards.manifest import (
    MANIFEST,
    QUARANTINE,
    SOURCE_IDS,
    Counts,
    Manifest,
    ShardEntry,
    ShardStats,
    add_counts,
    digest,
    load_manifest,
    load_stats,
    shard_name,
    to_json,
    write_atomic,
)
from pipelines.shards.schema import SCHEMA, ShardError
from pipelines.shards.writer import finished_stats, stats_path, write_shard

STATISTICS = "stats.json"  # histograms of the labels, for people

_opened: dict[str, SampleSource] = {}  # this process's source, by fingerprint: opening one may be slow


class DamagedSample(DataError):
    """A sample to set aside: its key, the file it comes from, and what is wrong."""

    def __init__(self, key: str, source: str, reason: str) -> None:
        super().__init__(key, source, reason)
        self.record = {"key": key, "source": source, "reason": reason}

    def __str__(self) -> str:
        return self.record["reason"]


class SampleSource(Protocol):
    """What fills the shards. Every worker process opens its own, by the plan's `open_source`."""

    def sample(self, index: int) -> HandSample:
        """Sample `index`, a pure function of the configuration and the index. DamagedSample for one to set aside."""
        ...

    def counts(self, index: int) -> Counts:
        """Histograms to add for sample `index` beside those of its labels (usually none)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A folder of shards to make. `open_source` must be picklable; `config` is what it was made with, for the manifest.

    max_quarantined: share of the samples that may be damaged; more is an error at the end.
    """

    target: Path
    work: Path
    dataset: str
    split: str
    num_samples: int
    samples_per_shard: int
    jpeg_quality: int
    config: Mapping[str, Any]
    open_source: Callable[[], SampleSource]
    sources: Mapping[str, str] = field(default_factory=dict)
    max_quarantined: float = 0.0
    code: str = ""  # digest of the code that makes the samples: half-made shards of older code are not continued

    @property
    def shards_folder(self) -> Path:
        return self.work / "shards"

    @property
    def stats_folder(self) -> Path:
        return self.work / "stats"

    @property
    def num_shards(self) -> int:
        return -(-self.num_samples // self.samples_per_shard)

    @property
    def identity(self) -> dict[str, Any]:
        """What the finished folder's manifest says about where it came from."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset,
            "split": self.split,
            "samples_per_shard": self.samples_per_shard,
            "config": dict(self.config),
            "sources": dict(self.sources),
        }

    @property
    def fingerprint(self) -> str:
        config = {name: value for name, value in self.config.items() if name != "max_quarantined"}
        return digest({**self.identity, "config": config, "num_samples": self.num_samples, "code": self.code})

    def shard_range(self, shard: int) -> range:
        """Indices of the samples in shard `shard`."""
        return range(shard * self.samples_per_shard, min((shard + 1) * self.samples_per_shard, self.num_samples))


def build_shards(plan: Plan, *, num_workers: int | None = None, description: str) -> bool:
    """Make `plan`'s folder; False if it was there already, finished, under the same configuration.

    Exceptions of `open_source` and `sample` pass through with a note that names the shard.
    """
    if is_finished(plan):
        shutil.rmtree(plan.work, ignore_errors=True)
        return False
    plan.shards_folder.mkdir(parents=True, exist_ok=True)
    plan.stats_folder.mkdir(exist_ok=True)
    make = partial(_make_shard, plan)
    length = partial(_shard_length, plan)
    _opened.clear()
    run(make, range(plan.num_shards), num_workers=num_workers, description=description, steps=length, unit="samples")
    _opened.clear()
    _finish(plan)
    return True


def is_finished(plan: Plan) -> bool:
    """Whether the target holds everything the plan asks for (sizes are checked, contents are not)."""
    try:
        manifest = load_manifest(plan.target)
    except (ShardError, NotADirectoryError):
        return False
    if any(getattr(manifest, name) != value for name, value in plan.identity.items()):
        return False
    if manifest.num_samples + manifest.num_quarantined != plan.num_samples:
        return False
    files = [(plan.target / entry.name, entry.bytes) for entry in manifest.shards]
    return len(files) == plan.num_shards and all(path.is_file() and path.stat().st_size == size for path, size in files)


def _shard_length(plan: Plan, shard: int) -> int:
    return len(plan.shard_range(shard))


def _make_shard(plan: Plan, shard: int) -> None:
    fingerprint = plan.fingerprint
    if finished_stats(plan.shards_folder, plan.stats_folder, shard, fingerprint) is not None:
        return
    if fingerprint not in _opened:
        _opened.clear()
        _opened[fingerprint] = plan.open_source()
    source = _opened[fingerprint]
    extra: Counts = {}
    quarantined: list[dict[str, str]] = []

    def samples() -> Iterator[HandSample]:
        for index in plan.shard_range(shard):
            try:
                sample = source.sample(index)
            except DamagedSample as damage:
                quarantined.append(damage.record)
                report_progress()
                continue
            yield sample
            add_counts(extra, source.counts(index))

    write_shard(
        plan.shards_folder,
        plan.stats_folder,
        shard,
        samples(),
        jpeg_quality=plan.jpeg_quality,
        fingerprint=fingerprint,
        extra_counts=extra,
        quarantined=quarantined,
        on_sample=report_progress,
    )


def _read_stats(plan: Plan) -> Iterator[ShardStats]:
    """What the finished shards left, one at a time: together they would take memory that grows with the number of samples."""
    for shard in range(plan.num_shards):
        path = stats_path(plan.stats_folder, shard)
        stats = load_stats(path)
        if stats is None or stats.fingerprint != plan.fingerprint:
            what = "not found or damaged" if stats is None else "of other code or parameters"
            raise ShardError(f"{path}: {what}, though its shard was made; is another run at work? Run it again to make it anew")
        yield stats


def _finish(plan: Plan) -> None:
    """Write the manifest last, drop what does not belong, and put the folder in the target's place."""
    entries: list[ShardEntry] = []
    quarantined: list[tuple[int, dict[str, str]]] = []  # shard, record
    counts: Counts = {}
    source_ids: set[str] = set()
    identities: set[str] = set()
    for shard, stats in enumerate(_read_stats(plan)):
        entries.append(stats.entry)
        quarantined += [(shard, record) for record in stats.quarantined]
        add_counts(counts, stats.counts)
        source_ids.update(stats.source_ids)
        identities.update(stats.identities)
    quarantine = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for _, record in quarantined)
    _check_quarantine(plan, quarantined, quarantine)
    manifest = Manifest(
        dataset=plan.dataset,
        split=plan.split,
        num_samples=sum(entry.num_samples for entry in entries),
        num_hands=sum(entry.num_hands for entry in entries),
        samples_per_shard=plan.samples_per_shard,
        shards=entries,
        config=dict(plan.config),
        sources=dict(plan.sources),
        num_source_ids=len(source_ids),
        source_ids_sha256=digest(sorted(source_ids)),
        identities=sorted(identities),
        num_quarantined=len(quarantined),
        mask_sources=counts.get("mask_source", {}),
    )
    keep = {shard_name(i) for i in range(plan.num_shards)}
    for path in plan.shards_folder.iterdir():
        if path.name not in keep:
            path.unlink()
    write_atomic(plan.shards_folder / SOURCE_IDS, "".join(f"{source_id}\n" for source_id in sorted(source_ids)).encode())
    if quarantined:
        write_atomic(plan.shards_folder / QUARANTINE, quarantine)
    write_atomic(plan.shards_folder / STATISTICS, to_json(counts))
    write_atomic(plan.shards_folder / MANIFEST, manifest.to_json())
    _replace_folder(plan.shards_folder, plan.target)
    shutil.rmtree(plan.work)


def _check_quarantine(plan: Plan, quarantined: list[tuple[int, dict[str, str]]], quarantine: bytes) -> None:
    """DataError where more samples were set aside than the plan allows; their list is kept, and only their shards are made anew."""
    if len(quarantined) <= plan.max_quarantined * plan.num_samples:
        return
    path = plan.work / QUARANTINE
    write_atomic(path, quarantine)
    for shard in {shard for shard, _ in quarantined}:
        stats_path(plan.stats_folder, shard).unlink()
    raise DataError(
        f"{plan.dataset}/{plan.split}: {len(quarantined):,} of {plan.num_samples:,} samples are damaged or incomplete, more than "
        f"max_quarantined ({plan.max_quarantined:g}) allows; they are listed in {path}; the first: {quarantined[0][1]['reason']}"
    )


def _replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`, removing a folder that is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old.partial")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)  # or that of a run that was killed right here
