"""Where an archive's members lie: a table sorted by the hashes of their names, made in one pass.

Kept as npy files in a cache folder, worker processes share it through the page cache.
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.byte_sources import ByteSource, FileBytes, SourceStream
from pipelines.datasets.sample import DataError
from pipelines.shards.manifest import whole_file, write_atomic

MEMBER = np.dtype([("hash", "<u8"), ("offset", "<i8"), ("size", "<i8"), ("packed", "<i8"), ("crc", "<u4"), ("method", "<i4")])
IN_TAR = -1  # method of a tar's members; a zip's are 0 (stored) and 8 (deflated)
ENCRYPTED = 1
MAX_TAR_HEADER = 1 << 20  # bytes of a long name or of a member's extended header
MAX_OFFSET = 1 << 62
MAX_IN_MEMORY = 8  # indices of archives that were opened without a cache folder; looking at a dataset opens them several times

Row = tuple[str, int, int, int, int, int]  # name, then the fields of MEMBER after the hash


@dataclass(frozen=True)
class Index:
    """The regular files of an archive: `rows` (N,) of MEMBER sorted by hash, and their sorted names, in memory or in a file."""

    rows: NDArray
    hashes: NDArray[np.uint64]
    prefix: str  # the archive's extra top folder, "" or "NAME/"
    names: bytes | Path

    def find(self, name: str) -> NDArray | None:
        """The row of member `name`."""
        wanted = np.uint64(_hash(name))
        at = int(np.searchsorted(self.hashes, wanted))
        return self.rows[at] if at < len(self.hashes) and self.hashes[at] == wanted else None

    def iter_names(self) -> Iterator[str]:
        text = self.names.read_bytes() if isinstance(self.names, Path) else self.names
        return (line.decode("utf-8", "surrogateescape") for line in text.split(b"\n") if line)


_in_memory: dict[str, Index] = {}


def open_index(path: Path, stamp: str, members: Callable[[], Iterable[Row]], markers: frozenset[str], cache: Path | None) -> Index:
    """The index of the archive at `path`, from folder `cache` where it is there and `stamp` is still the same.

    `members` lists the archive; `markers`: names at the dataset's top level, by which an extra top folder is told.
    DataError if the archive cannot be read.
    """
    key = hashlib.sha256(f"{path.resolve()} {stamp} {sorted(markers)}".encode()).hexdigest()[:16]
    if cache is None:
        if key not in _in_memory:
            rows, names = _scan(path, members)
            while len(_in_memory) >= MAX_IN_MEMORY:
                del _in_memory[next(iter(_in_memory))]
            _in_memory[key] = Index(rows, np.ascontiguousarray(rows["hash"]), _top_folder(names, markers), _joined(names))
        return _in_memory[key]
    rows_file, names_file, prefix_file = (cache / f"archive-{key}.{suffix}" for suffix in ("npy", "names", "prefix"))
    if not rows_file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        rows, names = _scan(path, members)
        write_atomic(names_file, _joined(names))
        write_atomic(prefix_file, _top_folder(names, markers).encode("utf-8", "surrogateescape"))
        with whole_file(rows_file) as out:  # last: it says that all are there
            np.save(out, rows, allow_pickle=False)
        del rows, names
    loaded = np.load(rows_file, mmap_mode="r", allow_pickle=False)
    prefix = prefix_file.read_bytes().decode("utf-8", "surrogateescape")
    return Index(loaded, np.ascontiguousarray(loaded["hash"]), prefix, names_file)


def zip_members(file: FileBytes) -> Iterator[Row]:
    """A zip's files. BadZipFile for encrypted ones and for other methods than stored and deflated."""
    with zipfile.ZipFile(cast(BinaryIO, SourceStream(file, 0, file.size))) as archive:
        for info in archive.infolist():
            if not info.filename or info.is_dir():
                continue
            if info.flag_bits & ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                what = "is encrypted" if info.flag_bits & ENCRYPTED else f"has compression method {info.compress_type}"
                raise zipfile.BadZipFile(f"{info.filename} {what}; expected plain members, stored or deflated")
            yield info.filename, info.header_offset, info.file_size, info.compress_size, info.CRC, info.compress_type


def tar_members(source: ByteSource) -> Iterator[Row]:
    """A tar's regular files: links are left out, so that no name leads out of the archive. TarError for a damaged one."""
    with tarfile.open(fileobj=cast(BinaryIO, _HeaderStream(source)), mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if info.isreg() and not info.issparse():
                yield info.name.removeprefix("./"), info.offset_data, info.size, info.size, 0, IN_TAR
        end = source.read_at(archive.offset, tarfile.BLOCKSIZE)
        if end.strip(b"\0") or not end:  # the reader takes a damaged header for the end
            raise tarfile.ReadError(f"no {'header' if end else 'end mark'} at byte {archive.offset:,}")


class _HeaderStream(SourceStream):
    """What tarfile reads while it lists a tar: headers, of which one can say that it takes all the memory there is."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes at byte {self.position:,}")
        return super().read(size)


def _scan(path: Path, members: Callable[[], Iterable[Row]]) -> tuple[NDArray, list[str]]:
    try:
        return _table(members())
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError, ValueError, OverflowError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not an archive that can be read (truncated?): {' '.join(str(error).split())}") from None


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _joined(names: list[str]) -> bytes:
    return "\n".join(names).encode("utf-8", "surrogateescape")


def _table(rows: Iterable[Row]) -> tuple[NDArray, list[str]]:
    """Rows sorted by hash, of several members of one name the last, and the sorted names."""
    names: list[str] = []
    table = np.fromiter(_hashed(rows, names), MEMBER)
    order = np.argsort(table["hash"], kind="stable")
    hashes = table["hash"][order]
    last = np.append(hashes[1:] != hashes[:-1], True) if len(hashes) else np.zeros(0, bool)
    return table[order[last]], sorted(set(names))


def _hashed(rows: Iterable[Row], names: list[str]) -> Iterator[tuple[int, ...]]:
    for name, *numbers in rows:
        if not all(0 <= number < MAX_OFFSET for number in numbers[:3]):
            raise ValueError(f"{name}: no offset and sizes of a file: {numbers[:3]}")
        if "\n" not in name:
            names.append(name)
            yield _hash(name), *numbers


def _top_folder(names: Iterable[str], markers: frozenset[str]) -> str:
    """The folder below which the dataset's top level lies: "" or "NAME/"."""
    found = set()
    for name in names:
        parts = name.split("/", 2)
        if parts[0] in markers:
            return ""
        if len(parts) > 1 and parts[1] in markers:
            found.add(f"{parts[0]}/")
    return min(found, default="")
