"""data/mixtures: what lies in each part of a training stage's mixture, and the mixture itself, which training depends on.

DVC cannot list a number of folders that a param decides. So each part has a stage of its own, which depends on the part's manifest, and
one more puts them together: training runs again exactly when a part's content, or the mixture, is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from handnet.json_object import parse_object
from pipelines.config_mixture import MixturePart, is_remote
from pipelines.remote_shards.reader import RemoteShardReader
from pipelines.shards import ShardError, ShardReader, schema
from pipelines.shards.manifest import digest, to_json, write_atomic

Stage = Literal["crop", "multi"]
MIXTURES = Path("data/mixtures")
LABELS = (schema.MASK, *schema.LABELS_3D)


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """What is in one folder of shards; `labels`: how many of the first `num_counted` samples have which labels."""

    path: str
    manifest_sha256: str
    dataset: str
    split: str
    num_shards: int
    num_samples: int
    num_hands: int
    num_counted: int
    labels: dict[str, int]


def open_shards(path: str) -> ShardReader:
    """The shards of a folder here, or behind a URL. ShardError for what is wrong with them."""
    return RemoteShardReader(path) if is_remote(path) else ShardReader(path)


def manifest_digest(reader: ShardReader) -> str:
    """What identifies a folder's content: its manifest holds the checksum of every shard."""
    return digest(asdict(reader.manifest))


def facts_of(path: str) -> PartFacts:
    """Look into a folder of shards. Labels are counted by the headers: of all shards here, of the first one behind a URL."""
    reader = open_shards(path)
    manifest = reader.manifest
    if not len(reader):
        raise ShardError(f"{path}: expected at least one sample, got none")
    counted = manifest.shards[0].num_samples if is_remote(path) else len(reader)
    return PartFacts(
        path=path,
        manifest_sha256=manifest_digest(reader),
        dataset=manifest.dataset,
        split=manifest.split,
        num_shards=len(manifest.shards),
        num_samples=manifest.num_samples,
        num_hands=sum(shard.num_hands for shard in manifest.shards),
        num_counted=counted,
        labels={suffix: sum(reader.has_member(i, suffix) for i in range(counted)) for suffix in LABELS},
    )


def write_part(stage: Stage, name: str, part: MixturePart, root: Path = MIXTURES) -> Path:
    """Write what is in one part of a stage's mixture; the file."""
    path = root / stage / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json(asdict(facts_of(part.path))))
    return path


def write_mixture(stage: Stage, parts: Mapping[str, MixturePart], root: Path = MIXTURES) -> Path:
    """Write a stage's mixture from the files of its parts, and nothing of other files beside them; the file."""
    path = root / f"{stage}.json"
    root.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json({name: {**parts[name].model_dump(), "facts": asdict(_read_part(stage, name, root))} for name in parts}))
    return path


def _read_part(stage: Stage, name: str, root: Path) -> PartFacts:
    path = root / stage / f"{name}.json"
    tree = _read(path, f"dataset_{stage}@{name}")
    known = {field.name for field in fields(PartFacts)}
    if set(tree) != known:
        raise ShardError(f"{path}: expected keys {sorted(known)}, got {sorted(tree)}; run `dvc repro dataset_{stage}@{name}`")
    return PartFacts(**tree)


def read_mixture(stage: Stage, parts: Mapping[str, MixturePart], root: Path = MIXTURES) -> dict[str, PartFacts]:
    """What the mixture's file says of each part. ShardError if the file is missing, or of another mixture than params.yaml's."""
    path = root / f"{stage}.json"
    tree = _read(path, f"mixture@{stage}")
    for name in sorted({*tree, *parts}):
        expected = parts[name].model_dump() if name in parts else None
        got = {key: value for key, value in tree[name].items() if key != "facts"} if isinstance(tree.get(name), dict) else None
        if expected != got:
            raise ShardError(f"{path}: {name}: expected {expected} as in params.yaml, got {got}; run `dvc repro mixture@{stage}`")
    return {name: PartFacts(**tree[name]["facts"]) for name in parts}


def check_unchanged(stage: Stage, name: str, reader: ShardReader, facts: PartFacts) -> None:
    """ShardError if the folder is no longer what the mixture's file says."""
    found = manifest_digest(reader)
    if found != facts.manifest_sha256:
        raise ShardError(
            f"{facts.path}: manifest.json: expected digest {facts.manifest_sha256[:16]} as data/mixtures/{stage}.json says of {name}, "
            f"got {found[:16]}; run `dvc repro mixture@{stage}`"
        )


def _read(path: Path, stage: str) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes(), path)
    except FileNotFoundError:
        raise ShardError(f"{path}: not found; run `dvc repro {stage}`") from None
    except ValueError as error:
        raise ShardError(f"{error}; run `dvc repro {stage}`") from None
