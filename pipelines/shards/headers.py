"""A shard's tar headers: written, and read in one pass that tells where each member lies, without extracting anything.

Only what is written is accepted: plain ustar headers of regular files, without owners or times.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.shards.schema import SUFFIXES, ShardError

BLOCK = 512
END = bytes(2 * BLOCK)  # of a tar
_MODE_AND_OWNERS = b"0000644\0" + b"0000000\0" * 2
_AFTER_CHECKSUM = (b"0" + bytes(100) + b"ustar\x0000").ljust(BLOCK - 156, b"\0")


@dataclass(frozen=True)
class MemberIndex:
    """Keys of a shard's samples in order, and per sample and suffix (columns as SUFFIXES) offset and size; size -1: absent."""

    keys: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def scan_headers(descriptor: int, num_bytes: int, where: str) -> MemberIndex:
    """Index of the tar open as `descriptor`, `num_bytes` long; `where` names it in errors.

    ShardError for a truncated tar, a damaged header, or a member that is not a regular file of a known kind.
    """
    columns = {suffix: i for i, suffix in enumerate(SUFFIXES)}
    keys: list[str] = []
    rows: list[NDArray[np.int64]] = []
    position = 0
    ended = False
    while position + BLOCK <= num_bytes:
        header = os.pread(descriptor, BLOCK, position)
        if header.count(0) == BLOCK:
            ended = True
            break
        name, size = _parse_header(header, f"{where}: at byte {position}")
        data = position + BLOCK
        position = data + (size + BLOCK - 1) // BLOCK * BLOCK
        if position > num_bytes:
            raise ShardError(f"{where}: {name}: truncated: member ends at byte {data + size}, the file at {num_bytes}")
        key, _, suffix = name.partition(".")
        if suffix not in columns or not key or "/" in key or "\\" in key:
            raise ShardError(f"{where}: {name}: unknown kind of member; expected KEY.SUFFIX with one of {list(SUFFIXES)}")
        if not keys or keys[-1] != key:
            keys.append(key)
            rows.append(np.full((2, len(SUFFIXES)), -1, np.int64))
        rows[-1][:, columns[suffix]] = data, size
    if not ended:
        raise ShardError(f"{where}: truncated: no end-of-archive block before byte {num_bytes}")
    if len(set(keys)) != len(keys):
        raise ShardError(f"{where}: the members of a sample are not side by side")
    table = np.stack(rows) if rows else np.empty((0, 2, len(SUFFIXES)), np.int64)
    return MemberIndex(keys, np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1]))


def member_blocks(name: str, data: bytes) -> list[bytes]:
    """A regular file as a tar holds it: header, content, padding. ValueError for a name or size that ustar has no room for."""
    encoded = name.encode("ascii")
    if len(encoded) > 100 or len(data) >= 8 << 30:
        raise ValueError(f"{name}: expected a name of at most 100 bytes and less than 8 GiB, got {len(encoded)} and {len(data):,} bytes")
    before = encoded.ljust(100, b"\0") + _MODE_AND_OWNERS + b"%011o\0" % len(data) + b"00000000000\0"
    checksum = sum(before) + sum(_AFTER_CHECKSUM) + 8 * 32
    return [before, b"%06o\0 " % checksum, _AFTER_CHECKSUM, data, bytes(-len(data) % BLOCK)]


def _parse_header(header: bytes, where: str) -> tuple[str, int]:
    try:
        name = header[:100].rstrip(b"\0").decode("ascii")
        size = int(header[124:136].rstrip(b"\0 "), 8)
        stored = int(header[148:156].rstrip(b"\0 "), 8)
    except ValueError:
        raise ShardError(f"{where}: not a tar header") from None
    if stored != sum(header) - sum(header[148:156]) + 8 * 32:  # the checksum counts its own field as blanks
        raise ShardError(f"{where}: damaged tar header")
    if header[156:157] not in (b"0", b"\0"):
        raise ShardError(f"{where}: {name}: expected a regular file, got tar entry type {header[156:157].decode('latin1')!r}")
    return name, size
