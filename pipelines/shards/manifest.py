"""The manifest beside a folder's shards: what is in them, the checksums, and the configuration that made them.

Also the per-shard statistics that make a run resumable, and the digests they carry.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from handnet.json_object import parse_object
from pipelines.shards.schema import SCHEMA, ShardError

MANIFEST = "manifest.json"
SOURCE_IDS = "source_ids.txt"  # every source frame of the folder, sorted, one a line: what leak checks compare
QUARANTINE = "quarantine.jsonl"  # the damaged samples that were set aside, one a line: key, source, reason

Counts = dict[str, dict[str, int]]  # histogram name -> bin -> count


def shard_name(index: int) -> str:
    return f"shard-{index:06d}.tar"


def to_json(value: object) -> bytes:
    """Sorted, indented JSON: the same value is the same bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes `path`'s place at the end of the block: readers see all of it or nothing."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")  # workers of several machines may write here
    try:
        with partial.open("wb") as stream:
            yield stream
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file, as `whole_file` does."""
    with whole_file(path) as stream:
        stream.write(data)


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: object) -> str:
    """sha256 of the value's canonical JSON."""
    return hashlib.sha256(to_json(value)).hexdigest()


def code_digest(paths: Iterable[Path]) -> str:
    """sha256 over the Python files and arrays below `paths`: names (relative) and contents, in sorted order."""
    total = hashlib.sha256()
    for root in sorted(paths):
        files = sorted(f for f in root.rglob("*") if f.suffix in (".py", ".npz")) if root.is_dir() else [root]
        for file in files:
            total.update(f"{root.name}/{file.relative_to(root)}\0".encode())
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def add_counts(total: Counts, more: Mapping[str, Mapping[str, int]]) -> None:
    """Add the histograms of `more` to `total`, in place."""
    for name, bins in more.items():
        into = total.setdefault(name, {})
        for key, count in bins.items():
            into[key] = into.get(key, 0) + count


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard as the manifest lists it."""

    name: str
    num_samples: int
    num_hands: int
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ShardStats:
    """What a finished shard leaves beside itself until the manifest is written; `fingerprint` tells what made it."""

    entry: ShardEntry
    fingerprint: str
    source_ids: list[str]
    identities: list[str]
    counts: Counts
    quarantined: list[dict[str, str]] = field(default_factory=list)  # key, source and reason of each sample set aside

    def save(self, path: Path) -> None:
        write_atomic(path, to_json(asdict(self)))


def load_stats(path: Path) -> ShardStats | None:
    """The statistics at `path`, or None where there are none or they are not readable (the shard is then made anew)."""
    try:
        tree = orjson.loads(path.read_bytes())
        return ShardStats(**{**tree, "entry": ShardEntry(**tree["entry"])})
    except (FileNotFoundError, orjson.JSONDecodeError, TypeError, KeyError):
        return None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds."""

    schema: int = SCHEMA
    dataset: str
    split: str
    num_samples: int
    num_hands: int
    samples_per_shard: int
    shards: list[ShardEntry]
    config: dict[str, Any]
    sources: dict[str, str] = field(default_factory=dict)  # folder this one was made from -> its manifest's digest
    num_source_ids: int = 0
    source_ids_sha256: str = ""
    identities: list[str] = field(default_factory=list)
    num_quarantined: int = 0  # damaged samples of the source that are not here
    mask_sources: dict[str, int] = field(default_factory=dict)  # where the samples' masks come from -> how many

    def to_json(self) -> bytes:
        return to_json(asdict(self))


def load_manifest(folder: Path) -> Manifest:
    """Read and check `folder`/manifest.json. ShardError if it is missing, not JSON, of another schema or incomplete."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ShardError(f"{path}: not found; the stage that writes {folder} has not finished") from None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` names it. ShardError if it is not JSON, of another schema or incomplete."""
    tree = parse_object(data, where, ShardError)
    if tree.get("schema") != SCHEMA:
        raise ShardError(f"{where}: expected schema {SCHEMA}, got {tree.get('schema')!r}; run the stage that writes it again")
    known = {f.name for f in fields(Manifest)}
    if set(tree) != known:
        raise ShardError(f"{where}: missing keys {sorted(known - set(tree))}, unknown keys {sorted(set(tree) - known)}")
    try:
        return Manifest(**{**tree, "shards": [ShardEntry(**entry) for entry in tree["shards"]]})
    except TypeError as error:
        raise ShardError(f"{where}: shards: {error}") from None
