"""Members of zips and tars by name, read where they lie: nothing is unpacked, and no member gives more bytes than it says.

Names lead to members through an index that is made once (`archive_index`).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from numpy.typing import NDArray

from pipelines.datasets.archive_index import IN_TAR, open_index, tar_members, zip_members
from pipelines.datasets.byte_sources import PIECE, ByteSource, FileBytes, GzipBytes, SourceStream, pieces_of
from pipelines.datasets.sample import DataError

ZIPS, TARS = (".zip",), (".tar", ".tar.gz", ".tgz")
OTHER_TARS = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
ZIP_HEADER = 30
STREAM_CHUNK = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether the name is one of an archive that can be read, or of a piece of one."""
    return whole_name(path).endswith((*ZIPS, *TARS))


def whole_name(path: Path) -> str:
    """The archive's name in lower case, without the number of a piece."""
    match = PIECE.match(path.name.lower())
    return match["whole"] if match else path.name.lower()


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
        rows = partial(zip_members, file) if self.is_zip else partial(tar_members, self.bytes)
        self.index = open_index(path, self.stamp_of_file, rows, frozenset(markers), cache)
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
