"""Members of zips and tars by name, read where they lie: an archive is indexed once, and nothing of it is unpacked.

An index is a table sorted by the names' hashes. Kept as npy files, worker processes share it through the page cache.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.byte_sources import PIECE, ByteSource, FileBytes, GzipBytes, SourceStream, pieces_of
from pipelines.datasets.sample import DataError
from pipelines.shards.manifest import whole_file, write_atomic

ZIPS, TARS = (".zip",), (".tar", ".tar.gz", ".tgz")
OTHER_TARS = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
MEMBER = np.dtype([("hash", "<u8"), ("offset", "<i8"), ("size", "<i8"), ("packed", "<i8"), ("crc", "<u4"), ("method", "<i4")])
IN_TAR = -1  # method of a tar's members; a zip's are 0 (stored) and 8 (deflated)
ZIP_HEADER = 30
STREAM_CHUNK = 1 << 20
ENCRYPTED = 1

Row = tuple[str, int, int, int, int, int]


def is_archive(path: Path) -> bool:
    """Whether the name is one of an archive that can be read, or of a piece of one."""
    return whole_name(path).endswith((*ZIPS, *TARS))


def whole_name(path: Path) -> str:
    """The archive's name in lower case, without the number of a piece."""
    match = PIECE.match(path.name.lower())
    return match["whole"] if match else path.name.lower()


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


class Archive:
    """One zip or tar. Names are those below its extra top folder, if it has one."""

    def __init__(self, path: Path, markers: Iterable[str], cache: Path | None) -> None:
        """`markers`: names at the dataset's top level, by which an extra top folder is told. DataError if it cannot be read."""
        self.path = path
        pieces = pieces_of(path)
        name = whole_name(path)
        if name.endswith(OTHER_TARS) or not is_archive(path):
            raise DataError(f"{path}: expected a zip, tar or tar.gz; unpack it, or pack it as one of these")
        file = FileBytes(pieces)
        self.is_zip = name.endswith(ZIPS)
        self.bytes: ByteSource = file if self.is_zip or name.endswith(".tar") else GzipBytes(file, str(path))
        self.stamp_of_file = "-".join(f"{s.st_size}-{s.st_mtime_ns}" for s in (piece.stat() for piece in pieces))
        self.index = self._cached_index(file, frozenset(markers), cache)
        self.prefix = self.index.prefix
        self._last: tuple[str, NDArray | None] = ("", None)  # a name is looked up, then read

    def where(self, name: str) -> str:
        return f"{self.path}: {self.prefix}{name}"

    def exists(self, name: str) -> bool:
        return self._find(name) is not None

    def stamp(self, name: str) -> str:
        return f"{self.stamp_of_file}-{self._row(name)['offset']}"

    def size(self, name: str) -> int:
        return int(self._row(name)["size"])

    def names(self, prefix: str) -> Iterator[str]:
        """Names of all files below `prefix`, sorted."""
        full = self.prefix + prefix
        return (name[len(self.prefix) :] for name in self.index.iter_names() if name.startswith(full))

    def read(self, name: str) -> bytes:
        """A member's bytes, its checksum compared. DataError if it is damaged."""
        row = self._row(name)
        size = int(row["size"])
        if row["method"] == IN_TAR:
            data = self.bytes.read_at(int(row["offset"]), size)
        else:
            packed = self._packed(row, name)
            data = packed
            if row["method"] == zipfile.ZIP_DEFLATED:
                inflate = zlib.decompressobj(-15)
                try:
                    data = inflate.decompress(packed, size + 1)  # never more than it says it is
                except zlib.error as error:
                    raise DataError(f"{self.where(name)}: damaged: {error}") from None
            if len(data) == size and zlib.crc32(data) != row["crc"]:
                raise DataError(f"{self.where(name)}: damaged: its checksum is wrong")
        if len(data) != size:
            raise DataError(f"{self.where(name)}: damaged: expected {size:,} bytes, got {'more' if len(data) > size else f'{len(data):,}'}")
        return data

    def open(self, name: str) -> BinaryIO:
        """A member as a stream. Reading it raises DataError where it is damaged."""
        row = self._row(name)
        if row["method"] == zipfile.ZIP_DEFLATED:
            return cast(BinaryIO, io.BufferedReader(_Inflating(self, name, row), STREAM_CHUNK))
        start = int(row["offset"]) if row["method"] == IN_TAR else self._data_offset(row, name)
        return cast(BinaryIO, io.BufferedReader(SourceStream(self.bytes, start, int(row["size"])), STREAM_CHUNK))

    def _find(self, name: str) -> NDArray | None:
        if self._last[0] != name:
            self._last = (name, self.index.find(self.prefix + name))
        return self._last[1]

    def _row(self, name: str) -> NDArray:
        row = self._find(name)
        if row is None:
            raise DataError(f"{self.where(name)}: not found")
        return row

    def _data_offset(self, row: NDArray, name: str) -> int:
        header = self.bytes.read_at(int(row["offset"]), ZIP_HEADER)
        return int(row["offset"]) + self._header_size(header, name)

    def _header_size(self, header: bytes, name: str) -> int:
        if len(header) < ZIP_HEADER or header[:4] != b"PK\3\4":
            raise DataError(f"{self.where(name)}: damaged: no zip header where it should be")
        return ZIP_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")

    def _packed(self, row: NDArray, name: str) -> bytes:
        """A zip member's bytes as they are stored."""
        offset, packed = int(row["offset"]), int(row["packed"])
        guess = ZIP_HEADER + len(self.prefix) + len(name) + 64
        data = self.bytes.read_at(offset, guess + packed)  # header and content at once
        start = self._header_size(data[:ZIP_HEADER], name)
        return data[start : start + packed] if start + packed <= len(data) else self.bytes.read_at(offset + start, packed)

    def _cached_index(self, file: FileBytes, markers: frozenset[str], cache: Path | None) -> Index:
        if cache is None:
            rows, names = self._scan(file)
            prefix = _top_folder(names, markers)
            return Index(rows, np.ascontiguousarray(rows["hash"]), prefix, _joined(names))
        key = hashlib.sha256(f"{self.path.resolve()} {self.stamp_of_file} {sorted(markers)}".encode()).hexdigest()[:16]
        rows_file, names_file, prefix_file = (cache / f"archive-{key}.{suffix}" for suffix in ("npy", "names", "prefix"))
        if not rows_file.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            rows, names = self._scan(file)
            write_atomic(names_file, _joined(names))
            write_atomic(prefix_file, _top_folder(names, markers).encode("utf-8", "surrogateescape"))
            with whole_file(rows_file) as out:  # last: it says that all are there
                np.save(out, rows, allow_pickle=False)
            del rows, names
        loaded = np.load(rows_file, mmap_mode="r", allow_pickle=False)
        prefix = prefix_file.read_bytes().decode("utf-8", "surrogateescape")
        return Index(loaded, np.ascontiguousarray(loaded["hash"]), prefix, names_file)

    def _scan(self, file: FileBytes) -> tuple[NDArray, list[str]]:
        try:
            return _table(self._zip_rows(file) if self.is_zip else self._tar_rows())
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError, UnicodeDecodeError) as error:
            kind = "zip" if self.is_zip else "tar"
            raise DataError(f"{self.path}: not a {kind} that can be read (truncated?): {' '.join(str(error).split())}") from None

    def _zip_rows(self, file: FileBytes) -> Iterator[Row]:
        with zipfile.ZipFile(cast(BinaryIO, SourceStream(file, 0, file.size))) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if info.flag_bits & ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    what = "is encrypted" if info.flag_bits & ENCRYPTED else f"has compression method {info.compress_type}"
                    raise DataError(f"{self.path}: {info.filename}: {what}; expected plain zip members, stored or deflated")
                yield info.filename, info.header_offset, info.file_size, info.compress_size, info.CRC, info.compress_type

    def _tar_rows(self) -> Iterator[Row]:
        """Regular files only: links are left out, so that no name leads out of the archive."""
        with tarfile.open(fileobj=cast(BinaryIO, SourceStream(self.bytes)), mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if info.isreg() and not info.issparse():
                    yield info.name.removeprefix("./"), info.offset_data, info.size, info.size, 0, IN_TAR
            end = self.bytes.read_at(archive.offset, tarfile.BLOCKSIZE)
            if end.strip(b"\0") or not end:  # the reader takes a damaged header for the end
                raise tarfile.ReadError(f"no {'header' if end else 'end mark'} at byte {archive.offset:,}")


class _Inflating(io.RawIOBase):
    """A deflated zip member as a stream of no more bytes than the archive says it has."""

    def __init__(self, archive: Archive, name: str, row: NDArray) -> None:
        self.archive, self.where = archive, archive.where(name)
        self.next, self.left_packed = archive._data_offset(row, name), int(row["packed"])
        self.left, self.expected_crc, self.crc = int(row["size"]), int(row["crc"]), 0
        self.inflate = zlib.decompressobj(-15)
        self.tail = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data and self.left and len(buffer):
            if not self.tail:
                self.tail = self.archive.bytes.read_at(self.next, min(STREAM_CHUNK, self.left_packed))
                self.next, self.left_packed = self.next + len(self.tail), self.left_packed - len(self.tail)
            ended = not self.tail
            try:
                data = self.inflate.decompress(self.tail, min(len(buffer), self.left))
            except zlib.error as error:
                raise DataError(f"{self.where}: damaged: {error}") from None
            self.tail = self.inflate.unconsumed_tail
            if not data and (ended or self.inflate.eof):
                raise DataError(f"{self.where}: damaged: it ends {self.left:,} bytes too early")
        buffer[: len(data)] = data
        self.left -= len(data)
        self.crc = zlib.crc32(data, self.crc)
        if data and not self.left and self.crc != self.expected_crc:
            raise DataError(f"{self.where}: damaged: its checksum is wrong")
        return len(data)


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
