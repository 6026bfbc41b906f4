"""Configuration of what a training stage learns from: weighted folders of shards, here or behind a URL."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from pipelines.config_datasets import Fraction, PositiveFloat, PositiveInt, Section

BLOCK = 10_000  # images of the training sequence in which every part has exactly its share: the finest share there is
SCHEMES = ("s3", "gs", "http", "https")
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class MixturePart(Section):
    """One folder of shards of a mixture."""

    path: str  # data/ingest/DATASET/SPLIT, data/scenes/SET, or the URL of such a folder: s3://, gs://, http(s)://
    weight: PositiveFloat  # its share of the images, relative to the other parts' weights
    labels_3d: Fraction  # share of its samples whose 3D labels supervision '3d' reads
    masks: Fraction  # share of its samples whose mask is read


Mixture = Annotated[dict[str, MixturePart], Field(min_length=1)]


class RemoteConfig(Section):
    """How parts behind a URL are read; no effect without any."""

    streams: PositiveInt  # streams that their shards are dealt to; each belongs to one process: a multiple of the processes
    shuffle_shards: PositiveInt  # shards of a stream whose samples are shuffled together


def is_remote(path: str) -> bool:
    """Whether a part's path is a URL."""
    return "://" in path


def shares(weights: dict[str, float]) -> dict[str, int]:
    """Each part's images of a BLOCK of the sequence: the nearest whole numbers with that sum. Parts in the order of their names."""
    total = sum(weights.values())
    exact = {name: weights[name] / total * BLOCK for name in sorted(weights)}
    whole = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in by_remainder[: BLOCK - sum(whole.values())]:
        whole[name] += 1
    return whole


def check_mixture(parts: dict[str, MixturePart]) -> None:
    """ValueError for names that cannot be a file's, and for weights whose share is nothing."""
    for name in parts:
        if not _NAME.fullmatch(name):
            raise ValueError(f"data.{name}: expected a name of a-z, 0-9 and _, got {name!r}")
        if is_remote(parts[name].path) and parts[name].path.split("://")[0] not in SCHEMES:
            raise ValueError(f"data.{name}.path: expected a URL with one of {list(SCHEMES)}, got {parts[name].path!r}")
    for name, share in shares({name: part.weight for name, part in parts.items()}).items():
        if share == 0:
            raise ValueError(f"data.{name}.weight: expected at least 1/{BLOCK} of the sum of all weights, got {parts[name].weight}")


class MixtureSection(Section):
    """What a stage with a mixture has."""

    data: Mixture
    remote: RemoteConfig

    @model_validator(mode="after")
    def _mixture(self) -> MixtureSection:
        check_mixture(self.data)
        return self

    def _needs_streams(self, batch_size: int) -> None:
        if any(is_remote(part.path) for part in self.data.values()) and batch_size % self.remote.streams:
            raise ValueError(f"remote.streams: expected a divisor of batch_size ({batch_size}), got {self.remote.streams}")
