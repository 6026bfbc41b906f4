"""Random access to a folder of shards: only the members asked for are read, each by its offset.

Safe to share with forked workers and to pickle for spawned ones.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.datasets.sample import HandSample
from pipelines.shards import schema
from pipelines.shards.headers import MemberIndex, scan_headers
from pipelines.shards.manifest import Manifest, load_manifest
from pipelines.shards.schema import ShardError

_COLUMNS = {suffix: i for i, suffix in enumerate(schema.SUFFIXES)}
_DECODERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(schema.SUFFIXES, schema.decode_array),
    schema.IMAGE: schema.decode_image,
    schema.MASK: schema.decode_mask,
    schema.META: schema.decode_meta,
}


class ShardReader:
    """The samples of one folder of shards, by index. ShardError (naming file and member) for whatever is wrong with it."""

    max_open_files = 256  # a quarter of what a process may usually open

    def __init__(self, folder: str | Path) -> None:
        self.folder: str | Path = folder if "://" in str(folder) else Path(folder)
        self.manifest: Manifest = self._load_manifest()
        self._ends = list(accumulate(entry.num_samples for entry in self.manifest.shards))
        self._indices: dict[int, MemberIndex] = {}
        self._descriptors: dict[int, int] = {}
        if (self._ends[-1] if self._ends else 0) != self.manifest.num_samples:
            raise ShardError(f"{self.folder}/manifest.json: num_samples {self.manifest.num_samples} is not the sum over its shards")
        self._check_files()

    def _load_manifest(self) -> Manifest:
        return load_manifest(Path(self.folder))

    def _check_files(self) -> None:
        """That every shard is there, as long as the manifest says."""
        for entry in self.manifest.shards:
            path = Path(self.folder) / entry.name
            if not path.is_file():
                raise ShardError(f"{path}: not found, but manifest.json lists it")
            if path.stat().st_size != entry.bytes:
                raise ShardError(f"{path}: expected {entry.bytes} bytes as manifest.json says, got {path.stat().st_size} (truncated?)")

    def _open(self, shard: int) -> int:
        """A descriptor of a shard, to be closed by whoever asks."""
        return os.open(Path(self.folder) / self.manifest.shards[shard].name, os.O_RDONLY | os.O_CLOEXEC)

    def prefetch(self, shards: Iterable[int]) -> None:
        """Shards that will be read soon; there is nothing to do for those that are here."""

    def __len__(self) -> int:
        return self.manifest.num_samples

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}  # open files do not travel to another process

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def key(self, index: int) -> str:
        """The key of sample `index`."""
        shard, row = self._locate(index)
        return self._index(shard).keys[row]

    def has_member(self, index: int, suffix: str) -> bool:
        """Whether sample `index` has the member; only the shard's headers are read."""
        shard, row = self._locate(index)
        return bool(self._index(shard).sizes[row, _COLUMNS[suffix]] >= 0)

    def read_members(self, index: int, suffixes: Iterable[str]) -> dict[str, bytes]:
        """The bytes of the members named by `suffixes` (such as "jpg"); ShardError names one that is not there."""
        wanted = list(suffixes)
        shard, row = self._locate(index)
        found = self._read_row(shard, row, wanted)
        missing = [suffix for suffix in wanted if suffix not in found]
        if missing:
            raise self._no_member(shard, row, missing[0])
        return found

    def read_member(self, index: int, suffix: str) -> bytes:
        """The bytes of one member; ShardError if it is not there."""
        return self.read_members(index, (suffix,))[suffix]

    def read_present(self, index: int, suffixes: Iterable[str], later: str) -> tuple[str, dict[str, bytes], Callable[[], bytes]]:
        """The key of sample `index`, the bytes of those of the named members that it has, and what reads the member `later`.

        ShardError if `later` is not there.
        """
        shard, row = self._locate(index)
        members, column = self._index(shard), _COLUMNS[later]
        offsets, sizes = members.offsets[row].tolist(), members.sizes[row].tolist()
        if sizes[column] < 0:
            raise self._no_member(shard, row, later)
        found = self._read_spans(shard, row, self._spans(offsets, sizes, suffixes))
        span = (later, offsets[column], offsets[column] + sizes[column])
        return members.keys[row], found, lambda: self._read_spans(shard, row, [span])[later]

    def read(self, index: int, *, labels_3d: bool, image: bool = True, mask: bool = True, vertices: bool = True) -> HandSample:
        """Sample `index`.

        labels_3d=False leaves keypoints_m, vertices_m and mano None and their members unread; vertices=False leaves
        out the (large) vertices only; mask=False leaves `mask` None. image=False leaves image and mask unread: `image` is then
        a black placeholder of the right size that takes no memory.
        """
        shard, row = self._locate(index)
        found = self._read_row(shard, row, _suffixes(labels_3d, image, image and mask, vertices))
        suffix = ""
        try:
            decoded = {}
            for suffix, data in found.items():
                decoded[suffix] = _DECODERS[suffix](data)
        except schema.DECODE_ERRORS as error:
            raise schema.undecodable(f"{self._where(shard, row)}.{suffix}", error) from None
        try:
            return self._assemble(shard, row, decoded, image)
        except KeyError as error:
            raise ShardError(f"{self._where(shard, row)}.{schema.META}: missing key {error}") from None
        except ShardError as error:
            raise ShardError(f"{self._where(shard, row)}{error}") from None
        except ValueError as error:
            raise ShardError(f"{self._where(shard, row)}: {error}") from None

    def _assemble(self, shard: int, row: int, decoded: dict[str, Any], image: bool) -> HandSample:
        """A sample from its decoded members; the messages of its ShardErrors go on after the sample's name."""
        for suffix in (schema.META, schema.KEYPOINTS, *([schema.IMAGE] if image else [])):
            if suffix not in decoded:
                raise ShardError(f".{suffix}: no such member")
        meta = decoded[schema.META]
        size = (int(meta["height"]), int(meta["width"]))
        arrays = {suffix: decoded[suffix] for suffix in schema.LABELS_3D if suffix in decoded}
        hands = schema.decode_hands("", meta, decoded[schema.KEYPOINTS], arrays)
        pixels = decoded[schema.IMAGE] if image else np.broadcast_to(np.uint8(0), (*size, 3))
        if pixels.shape[:2] != size:
            raise ShardError(f".{schema.IMAGE}: expected height, width {size}, got {pixels.shape[:2]}")
        mask = decoded.get(schema.MASK)
        return HandSample(
            key=self._index(shard).keys[row],
            image=pixels,
            K=np.array(meta["K"]),
            hands=hands,
            mask=mask,
            K_known=meta["K_known"],
            mask_source=None if mask is None else meta["mask_source"],
        )

    def verify(self) -> None:
        """Compare every shard's checksum with the manifest's and read every header; ShardError names the shard."""
        for number, entry in enumerate(self.manifest.shards):
            with os.fdopen(self._open(number), "rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != entry.sha256:
                raise ShardError(f"{self._shard_name(number)}: expected sha256 {entry.sha256} as manifest.json says, got {found}")
            self._index(number)

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: expected a sample index in 0..{len(self) - 1}, got {index}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _no_member(self, shard: int, row: int, suffix: str) -> ShardError:
        return ShardError(f"{self._where(shard, row)}.{suffix}: no such member")

    def _where(self, shard: int, row: int) -> str:
        """A sample's name in errors."""
        return f"{self._shard_name(shard)}: {self._index(shard).keys[row]}"

    def _shard_name(self, shard: int) -> str:
        return f"{self.folder}/{self.manifest.shards[shard].name}"

    def _descriptor(self, shard: int) -> int:
        if shard not in self._descriptors:
            if len(self._descriptors) >= self.max_open_files:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = self._open(shard)
        return self._descriptors[shard]

    def _index(self, shard: int) -> MemberIndex:
        if shard not in self._indices:
            entry = self.manifest.shards[shard]
            where = self._shard_name(shard)
            index = scan_headers(self._descriptor(shard), entry.bytes, where)
            if len(index.keys) != entry.num_samples:
                raise ShardError(f"{where}: expected {entry.num_samples} samples as manifest.json says, got {len(index.keys)}")
            self._indices[shard] = index
        return self._indices[shard]

    def _read_row(self, shard: int, row: int, suffixes: Iterable[str]) -> dict[str, bytes]:
        """{suffix: bytes} of those members the sample has."""
        members = self._index(shard)
        return self._read_spans(shard, row, self._spans(members.offsets[row].tolist(), members.sizes[row].tolist(), suffixes))

    def _spans(self, offsets: list[int], sizes: list[int], suffixes: Iterable[str]) -> list[tuple[str, int, int]]:
        """Suffix, start and end of those members that a sample with this row of the index has."""
        spans = []
        for suffix in suffixes:
            column = _COLUMNS.get(suffix)
            if column is None:
                raise ShardError(f"{self.folder}: unknown member {suffix!r}; expected one of {list(_COLUMNS)}")
            if sizes[column] >= 0:
                spans.append((suffix, offsets[column], offsets[column] + sizes[column]))
        return spans

    def _read_spans(self, shard: int, row: int, spans: list[tuple[str, int, int]]) -> dict[str, bytes]:
        if not spans:
            return {}
        first, last = sys.maxsize, 0
        for _, start, end in spans:
            first, last = start if start < first else first, end if end > last else last
        # a sample's members lie side by side, so that one read takes less time than one of each
        data = os.pread(self._descriptor(shard), last - first, first)
        if len(data) != last - first:
            suffix, start, end = next(span for span in spans if span[2] - first > len(data))
            got = max(0, len(data) - (start - first))
            raise ShardError(f"{self._where(shard, row)}.{suffix}: truncated: expected {end - start} bytes, got {got}")
        return {suffix: data[start - first : end - first] for suffix, start, end in spans}


@cache
def _suffixes(labels_3d: bool, image: bool, mask: bool, vertices: bool) -> tuple[str, ...]:
    """The members that `ShardReader.read` needs."""
    images = (schema.IMAGE,) * image + (schema.MASK,) * mask
    labels = tuple(s for s in schema.LABELS_3D if vertices or s != schema.VERTICES) if labels_3d else ()
    return (schema.META, schema.KEYPOINTS, *images, *labels)
