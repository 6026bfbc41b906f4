"""A dataset as its owners publish it: an extracted folder, a zip, or a folder that holds the zips. Nothing is unpacked.

Archives have one extra top folder or none; files are found by a marker file either way.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.sample import DataError


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, name: str) -> str:
        return str(self.path / name)

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def stamp(self, name: str) -> str:
        status = (self.path / name).stat()
        return f"{status.st_size}-{status.st_mtime_ns}"

    def names(self, prefix: str) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in (self.path / prefix).iterdir()) if (self.path / prefix).is_dir() else []


class _Zip:
    def __init__(self, path: Path, markers: Sequence[str]) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path}: not a zip that can be read: {error}") from None
        self.members = set(self.archive.namelist())
        self.prefix = ""
        for name in sorted(self.members):
            top, _, rest = name.partition("/")
            if rest in markers and name not in markers:
                self.prefix = f"{top}/"

    def where(self, name: str) -> str:
        return f"{self.path}: {self.prefix}{name}"

    def exists(self, name: str) -> bool:
        return self.prefix + name in self.members

    def open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self.archive.open(self.prefix + name))

    def stamp(self, name: str) -> str:
        info = self.archive.getinfo(self.prefix + name)
        return f"{info.file_size}-{info.CRC}"


class SourceFiles:
    """Files of a dataset by their official names, such as "training/rgb/00000000.jpg"."""

    def __init__(self, path: str | Path, markers: Sequence[str]) -> None:
        """`markers`: names at the dataset's top level, of which at least one must be there. DataError if none is found."""
        root = Path(path)
        self.path = root
        if root.is_dir():
            folders = [root, *sorted(sub for sub in root.iterdir() if sub.is_dir() and any((sub / m).is_file() for m in markers))]
            self.roots: list[_Folder | _Zip] = [_Folder(folder) for folder in folders]
            self.roots += [_Zip(archive, markers) for archive in sorted(root.glob("*.zip"))]
        elif root.is_file():
            self.roots = [_Zip(root, markers)]
        else:
            raise DataError(f"{root}: not found; expected the dataset's folder or zip")
        if not any(self.exists(marker) for marker in markers):
            raise DataError(f"{root}: expected a folder or zip with one of {list(markers)}, found none")

    def exists(self, name: str) -> bool:
        return any(root.exists(name) for root in self.roots)

    def where(self, name: str) -> str:
        """How to call the file in a message."""
        return self._root(name).where(name)

    def stamp(self, name: str) -> str:
        """Changes when the file does."""
        return self._root(name).stamp(name)

    def open(self, name: str) -> BinaryIO:
        """The file as a stream of bytes. DataError if it is missing."""
        return self._root(name).open(name)

    def read(self, name: str) -> bytes:
        """The file's bytes. DataError if it is missing or damaged in its archive."""
        try:
            with self.open(name) as stream:
                return stream.read()
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise DataError(f"{self.where(name)}: cannot be read: {error}") from None

    def read_image(self, name: str, *, color: bool = True, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """(H,W,3) RGB, or (H,W) grey. DataError if it is truncated, not an image, or not of `shape` (height, width)."""
        data = self.read(name)
        if not _is_whole(data):
            raise DataError(f"{self.where(name)}: not a whole image (truncated?): {len(data)} bytes")
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE)
        if decoded is None:
            raise DataError(f"{self.where(name)}: not an image that can be decoded")
        if shape is not None and decoded.shape[:2] != shape:
            raise DataError(f"{self.where(name)}: expected height, width {shape}, got {decoded.shape[:2]}")
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB) if color else decoded, np.uint8)

    def _root(self, name: str) -> _Folder | _Zip:
        for root in self.roots:
            if root.exists(name):
                return root
        raise DataError(f"{self.path}: {name}: not found")


def _is_whole(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end: decoders fill a truncated image's rest with grey and say nothing."""
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" in data[-64:]
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return data[-8:-4] == b"IEND"
    return False
