"""Converted annotations on disk: rows of fixed size and blobs of bytes, appended as they come and memory-mapped when read.

A folder of them is made once and shared by all workers of a machine; it appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 4096


class RowWriter:
    """Rows of a (structured) dtype, appended to an npy file a few thousand at a time."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.rows: list[Any] = []
        self.count = 0
        self.file = path.open("wb")
        self._write_header()
        self.start = self.file.tell()

    def append(self, row: Any) -> None:
        self.rows.append(row)
        self.count += 1
        if len(self.rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self.file.write(np.array(self.rows, self.dtype).tobytes())
        self.rows.clear()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.file:
            if kind is None:
                self._flush()
                self.file.seek(0)
                self._write_header()  # numpy leaves room in it for any number of rows
                assert self.file.tell() == self.start


class BlobWriter:
    """Byte strings one after the other in NAME.bin, their ends in NAME.npy."""

    def __init__(self, folder: Path, name: str) -> None:
        self.data = (folder / f"{name}.bin").open("wb")
        self.ends = RowWriter(folder / f"{name}.npy", np.int64)
        self.end = 0

    def __len__(self) -> int:
        return self.ends.count

    def append(self, blob: bytes) -> None:
        self.data.write(blob)
        self.end += len(blob)
        self.ends.append(self.end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.data:
            self.ends.__exit__(kind, error, trace)


class Blobs(Sequence[bytes]):
    """What a BlobWriter wrote, by index, read from disk when asked for."""

    def __init__(self, folder: Path, name: str) -> None:
        self.ends: NDArray[np.int64] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        path = folder / f"{name}.bin"
        self.data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        start = int(self.ends[index - 1]) if index else 0
        return self.data[start : int(self.ends[index])].tobytes()


def read_rows(folder: Path, name: str) -> NDArray[Any]:
    """The rows of NAME.npy, memory-mapped."""
    rows: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return rows


def converted(cache: Path, name: str, identity: object, convert: Callable[[Path], None]) -> Path:
    """The folder in `cache` that `convert(folder)` fills, made when missing.

    identity: what the content depends on (files and their stamps, settings, a version of the code that converts them).
    """
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    folder = cache / f"{name}-{key}"
    if not folder.is_dir():
        partial = cache / f".{folder.name}.{uuid.uuid4().hex}.partial"  # workers of several machines may convert at once
        partial.mkdir(parents=True)
        try:
            convert(partial)
            try:
                os.replace(partial, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
