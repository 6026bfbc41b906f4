"""Bytes at any offset of a file, of a file that came in pieces, or of what a gzip file holds; nothing is unpacked to disk.

A gzip file is read forwards: cursors stay where they stopped, and places are remembered to go back to.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from pipelines.datasets.sample import DataError

GZIP_CHUNK = 1 << 18
MAX_CURSORS = 8  # of one gzip file: images, masks and annotations of a dataset are read side by side
REMEMBER_EVERY = 16 << 20  # bytes between two places to go back to; each takes some 50 KB
PIECE = re.compile(r"(?P<whole>.+\.(?:zip|tar|tgz|tar\.gz))\.(?:part)?(?P<number>(?!gz|xz|lz)[a-z]{2}|\d{2,3})$")


class ByteSource(Protocol):
    """`read_at` gives fewer bytes than asked for at the end only."""

    def read_at(self, offset: int, size: int) -> bytes: ...


class FileBytes:
    """One file, or consecutive pieces of one."""

    def __init__(self, pieces: Sequence[Path]) -> None:
        self.pieces = list(pieces)
        self._descriptors: dict[int, int] = {}
        self._ends = list(accumulate(piece.stat().st_size for piece in self.pieces))

    @property
    def size(self) -> int:
        return self._ends[-1]

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def read_at(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self.size - offset))  # memory for all that is asked for would be set aside first
        if len(self.pieces) == 1:
            return os.pread(self._descriptor(0), size, offset)
        parts = []
        number = bisect_right(self._ends, offset)
        while size > 0 and number < len(self.pieces):
            begin = self._ends[number - 1] if number else 0
            data = os.pread(self._descriptor(number), min(size, self._ends[number] - offset), offset - begin)
            if not data:
                break
            parts.append(data)
            offset, size = offset + len(data), size - len(data)
            number += offset >= self._ends[number]
        return b"".join(parts)

    def _descriptor(self, number: int) -> int:
        if number not in self._descriptors:
            self._descriptors[number] = os.open(self.pieces[number], os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[number]


class _Cursor:
    """A place in a gzip file from which decompressing goes on."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.inflate = zlib.decompressobj(31)
        self.packed = 0  # compressed bytes taken so far
        self.position = 0  # bytes given so far
        self.waiting = b""  # compressed bytes taken but not used yet

    def copy(self) -> _Cursor:
        other = _Cursor.__new__(_Cursor)
        other.__dict__.update(self.__dict__)
        other.inflate = self.inflate.copy()
        return other

    def advance(self, size: int) -> bytes:
        """At most `size` of the bytes that follow; b"" at the end. EOFError for a truncated file, zlib.error for a damaged one."""
        while True:
            if self.inflate.eof:
                self.waiting = self.inflate.unused_data or self.waiting
                self._refill()
                if not self.waiting.strip(b"\0"):
                    return b""
                self.inflate = zlib.decompressobj(31)  # gzip files may be joined
            else:
                self._refill()
                if not self.waiting:
                    raise EOFError("truncated")
            data = self.inflate.decompress(self.waiting, size)
            self.waiting = self.inflate.unconsumed_tail
            if data:
                self.position += len(data)
                return data

    def _refill(self) -> None:
        if not self.waiting:
            self.waiting = self.source.read_at(self.packed, GZIP_CHUNK)
            self.packed += len(self.waiting)


class GzipBytes:
    """What a gzip file holds. Reading it in order costs one pass; a step back costs at most REMEMBER_EVERY bytes of it."""

    def __init__(self, source: FileBytes, where: str) -> None:
        self.source = source
        self.where = where
        self._cursors: list[_Cursor] = []  # the last one used is at the end
        self._places: list[_Cursor] = [_Cursor(source)]

    def read_at(self, offset: int, size: int) -> bytes:
        """DataError if the file is damaged or ends too early."""
        cursor = self._nearest(offset)
        parts = []
        try:
            while cursor.position < offset + size:
                goal = offset if cursor.position < offset else offset + size
                data = cursor.advance(min(goal - cursor.position, GZIP_CHUNK))
                if not data:
                    break
                if cursor.position > offset:
                    parts.append(data)
                if cursor.position - self._places[-1].position >= REMEMBER_EVERY:
                    self._places.append(cursor.copy())
        except (zlib.error, EOFError) as error:
            self._cursors.remove(cursor)
            raise DataError(f"{self.where}: damaged at byte {cursor.packed}: {error}") from None
        return b"".join(parts)

    def _nearest(self, offset: int) -> _Cursor:
        """The cursor with least to skip, moved to the end of the list."""
        live = max((c for c in self._cursors if c.position <= offset), key=lambda c: c.position, default=None)
        place = self._places[bisect_right([p.position for p in self._places], offset) - 1]
        if live is None or place.position > live.position:
            live = place.copy()
        else:
            self._cursors.remove(live)
        self._cursors = [*self._cursors[-(MAX_CURSORS - 1) :], live]
        return live


class SourceStream(io.RawIOBase):
    """A byte source from `start` on as a file that can be read and sought."""

    def __init__(self, source: ByteSource, start: int = 0, size: int | None = None) -> None:
        self.source, self.start, self.size, self.position = source, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and self.size is None:
            raise io.UnsupportedOperation("the end is not known")
        self.position = offset + (self.position if whence == os.SEEK_CUR else self.size or 0 if whence == os.SEEK_END else 0)
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        """As of RawIOBase, whose own sets aside as many bytes as are asked for before it reads any."""
        if size is None or size < 0:
            return self.readall()
        left = size if self.size is None else max(0, min(size, self.size - self.position))
        data = self.source.read_at(self.start + self.position, left) if left else b""
        self.position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def pieces_of(path: Path) -> list[Path]:
    """The file itself, or all pieces of which `path` is one, in order. DataError if one between them is missing."""
    match = PIECE.match(path.name)
    if match is None:
        return [path]
    found = {}
    for other in path.parent.iterdir():
        same = PIECE.match(other.name)
        if same and same["whole"] == match["whole"] and len(same["number"]) == len(match["number"]):
            found[_piece_number(same["number"])] = other
    numbers = sorted(found)
    first = min(numbers[0], 1) if match["number"].isdecimal() else 0
    if numbers != list(range(first, first + len(numbers))):
        missing = next(n for n in range(first, numbers[-1]) if n not in found)
        raise DataError(f"{path.parent / match['whole']}: piece {missing - first + 1} of {numbers[-1] - first + 1} is missing")
    return [found[number] for number in numbers]


def _piece_number(text: str) -> int:
    return int(text) if text.isdecimal() else (ord(text[0]) - ord("a")) * 26 + ord(text[1]) - ord("a")
