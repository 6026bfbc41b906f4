"""MATLAB 5 files of plain data: numbers, text, cells and structs, read within the bounds of the file's own bytes.

scipy's reader is no choice for files from elsewhere: a few wrong bytes make it ask for gigabytes, or crash the process.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.datasets.sample import DataError

MAX_BYTES = 256 << 20  # of all variables together, decompressed
MAX_DEPTH = 16
HEADER = 128
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, FIRST_NUMERIC, LAST_NUMERIC = 1, 2, 4, 6, 15
REFUSED = {3: "object", 5: "sparse", 16: "function", 17: "opaque"}
COMPLEX = 0x800
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1", 17: "u2", 18: "u4"}


def read_mat(data: bytes, where: str) -> dict[str, Any]:
    """Variables by name: numbers as arrays of their shape, text as str, cells as lists, struct arrays as lists of dictionaries.

    Lists hold an array's entries in MATLAB's order, column by column. DataError, naming `where`, for anything but a whole file of
    plain data.
    """
    try:
        return _variables(data)
    except (ValueError, LookupError, OverflowError, struct.error, zlib.error) as error:
        raise DataError(f"{where}: expected a MATLAB 5 file of numbers, cells and structs, got {' '.join(str(error).split())}") from None


def _variables(data: bytes) -> dict[str, Any]:
    if len(data) < HEADER or data[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise ValueError("another format or version (7.3?)" if len(data) >= HEADER else f"{len(data)} bytes")
    order = "<" if data[126:128] == b"IM" else ">"
    found = {}
    left = MAX_BYTES
    elements = _Elements(data, HEADER, len(data), order)
    while elements.place < len(data):
        kind, body = elements.take()
        if kind == COMPRESSED:
            plain = zlib.decompressobj().decompress(body.data[body.place : body.end], left + 1)
            left -= len(plain)
            if left < 0:
                raise ValueError(f"more than {MAX_BYTES:,} bytes")
            kind, body = _Elements(plain, 0, len(plain), order).take()
        name, value = _array(kind, body, 0)
        found[name] = value
    return found


@dataclass
class _Elements:
    """Consecutive elements of a file: each a tag, its bytes, and padding to eight bytes."""

    data: bytes
    place: int
    end: int
    order: str

    def take(self) -> tuple[int, _Elements]:
        """The next element's type and bytes."""
        if self.end - self.place < 8:
            raise ValueError(f"{self.end - self.place} bytes in place of an element (truncated?)")
        kind, size = struct.unpack_from(f"{self.order}II", self.data, self.place)
        start, step = self.place + 8, 8 + -(-size // 8) * 8
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, size, start, step = kind & 0xFFFF, kind >> 16, self.place + 4, 8
        if kind == COMPRESSED:
            step = 8 + size
        if start + size > self.end or (step == 8 and start == self.place + 4 and size > 4):
            raise ValueError(f"an element of {size:,} bytes where {self.end - start:,} are left (truncated?)")
        self.place += step
        return kind, _Elements(self.data, start, start + size, self.order)

    def numbers(self) -> np.ndarray:
        """The next element as an array of one axis."""
        kind, body = self.take()
        if kind not in DTYPES:
            raise ValueError(f"an element of type {kind} in place of numbers")
        dtype = np.dtype(self.order + DTYPES[kind])
        if (body.end - body.place) % dtype.itemsize:
            raise ValueError(f"{body.end - body.place} bytes in place of numbers of {dtype.itemsize}")
        return np.frombuffer(self.data, dtype, (body.end - body.place) // dtype.itemsize, body.place)

    def text(self) -> str:
        codes = self.numbers()
        if codes.dtype.kind == "f" or codes.max(initial=0) >= 1 << 16:
            raise ValueError("numbers in place of text")
        return "".join(map(chr, codes.astype(np.uint16))).rstrip("\0")


def _array(kind: int, body: _Elements, depth: int) -> tuple[str, Any]:
    """Name and value of one array. Its entries must be there, so its shape cannot ask for more than the file holds."""
    if kind != MATRIX or depth > MAX_DEPTH:
        raise ValueError(f"an element of type {kind}, {depth} deep, in place of an array")
    if body.place == body.end:
        return "", np.zeros((0, 0))
    flags = int(body.numbers()[0])
    class_number = flags & 0xFF
    if class_number in REFUSED or flags & COMPLEX:
        raise ValueError(f"an array of class {REFUSED.get(class_number, 'complex')}, which is refused")
    shape = [int(n) for n in body.numbers()]
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > body.end - body.place:
        raise ValueError(f"an array of shape {tuple(shape)} in {body.end - body.place:,} bytes")
    name = body.text()
    if class_number == CELL:
        return name, [_array(*body.take(), depth + 1)[1] for _ in range(count)]
    if class_number == STRUCT:
        length = int(body.numbers()[0])
        names = body.text()
        fields = [names[i : i + length].rstrip("\0").split("\0")[0] for i in range(0, len(names), max(length, 1))]
        if not fields and count:
            raise ValueError("a struct without fields")
        return name, [{field: _array(*body.take(), depth + 1)[1] for field in fields} for _ in range(count)]
    if class_number == CHAR:
        return name, body.text()
    if not FIRST_NUMERIC <= class_number <= LAST_NUMERIC:
        raise ValueError(f"an array of class {class_number}")
    return name, body.numbers().reshape(shape, order="F").copy()
