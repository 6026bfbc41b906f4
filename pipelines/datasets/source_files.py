"""A dataset as its owners publish it: an extracted folder, an archive, or several of them. Nothing is unpacked.

Folders and archives have one extra top folder or none; the dataset's own top level is told by its markers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipelines.datasets.archives import Archive, is_archive
from pipelines.datasets.byte_sources import pieces_of
from pipelines.datasets.sample import DataError

MAX_READ = 64 << 20  # bytes of a file read at once; larger ones are streams
MAX_PIXELS = 64 << 20
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def where(self, name: str) -> str:
        return str(self.path / name)

    def exists(self, name: str) -> bool:
        try:
            return (self.path / name).is_file()
        except OSError:  # a name too long for the file system
            return False

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def stamp(self, name: str) -> str:
        status = (self.path / name).stat()
        return f"{status.st_size}-{status.st_mtime_ns}"

    def names(self, prefix: str) -> Iterator[str]:
        for folder, folders, files in os.walk(self.path / prefix.rpartition("/")[0]):
            folders.sort()
            for file in sorted(files):
                name = Path(folder, file).relative_to(self.path).as_posix()
                if name.startswith(prefix):
                    yield name


class SourceFiles:
    """Files of a dataset by their official names, such as "training/rgb/00000000.jpg"."""

    def __init__(
        self,
        path: str | Path | Sequence[str],
        markers: Sequence[str],
        *,
        folders: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """`path`: the extracted folder, an archive or a piece of one, a folder of archives, or a list of these.

        `markers`: files at the dataset's top level, of which at least one must be there (none: any files do); `folders`: folders there, by
        which the top level is told where none of the files is. `cache`: a folder that keeps the archives' indices.
        DataError if nothing is found or an archive cannot be read.
        """
        given = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
        self.path = ", ".join(str(one) for one in given)
        self.roots: list[_Folder | Archive] = []
        for one in given:
            if one.is_dir():
                self.roots += _folders(one, markers, folders)
            elif not one.is_file():
                raise DataError(f"{one}: not found; expected the dataset's folder or archive")
        archives = [archive for one in given for archive in (_archives(one) if one.is_dir() else [one] if one.is_file() else [])]
        self.roots += [Archive(archive, [*markers, *folders], cache) for archive in archives]
        if markers and not any(self.exists(marker) for marker in markers):
            raise DataError(f"{self.path}: expected a folder or archive with one of {list(markers)}, found none")

    def exists(self, name: str) -> bool:
        return any(root.exists(name) for root in self.roots)

    def where(self, name: str) -> str:
        """How to call the file in a message."""
        return self._root(name).where(name)

    def stamp(self, name: str) -> str:
        """Changes when the file does."""
        return self._root(name).stamp(name)

    def names(self, prefix: str, suffix: str = "") -> Iterator[str]:
        """Names that start with `prefix` ("training/rgb/") and end with `suffix`; sorted within a folder or archive, each once."""
        seen: set[str] = set()
        for number, root in enumerate(self.roots):
            for name in root.names(prefix):
                if name.endswith(suffix) and name not in seen:
                    if number + 1 < len(self.roots):
                        seen.add(name)
                    yield name

    def count(self, prefix: str, suffix: str = "") -> int:
        """How many `names` there are."""
        return sum(1 for _ in self.names(prefix, suffix))

    def open(self, name: str) -> BinaryIO:
        """The file as a stream of bytes, whatever its size. DataError if it is missing, and when reading what is damaged."""
        return self._root(name).open(name)

    def read(self, name: str, limit: int = MAX_READ) -> bytes:
        """The file's bytes. DataError if it is missing, damaged in its archive, or larger than `limit` bytes."""
        return self._read(name, limit)[0]

    def read_image(self, name: str, *, color: bool = True, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """(H,W,3) RGB, or (H,W) grey. DataError if it is truncated, damaged, no JPEG or PNG, or not of `shape` (height, width)."""
        data, where = self._read(name, MAX_READ)
        return decode_image(data, where, color=color, shape=shape)

    def read_published(self, name: str, *, shape: tuple[int, int] | None = None) -> tuple[NDArray[np.uint8], bytes | None]:
        """An RGB image and, where it is a JPEG, its bytes for `HandSample.encoded`. DataError as of `read_image`."""
        data, where = self._read(name, MAX_READ)
        return decode_image(data, where, shape=shape), data if data.startswith(JPEG) else None

    def _read(self, name: str, limit: int) -> tuple[bytes, str]:
        """A file's bytes, and how to call it in a message."""
        root = self._root(name)
        where = root.where(name)
        try:
            size = root.size(name)
            if size > limit:
                raise DataError(f"{where}: expected at most {limit:,} bytes, got {size:,}")
            return root.read(name), where
        except OSError as error:
            raise DataError(f"{where}: cannot be read: {error}") from None

    def _root(self, name: str) -> _Folder | Archive:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise DataError(f"{self.path}: expected a name within the dataset, got {name!r}")
        for root in self.roots:
            if root.exists(name):
                return root
        raise DataError(f"{self.path}: {name}: not found")


def decode_image(data: bytes, where: str, *, color: bool = True, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """JPEG or PNG bytes -> (H,W,3) RGB or (H,W) grey pixels as they are stored: orientation tags turn nothing.

    Every byte is decoded, since a header tells nothing about damage. The size is read first, so that no file can ask for more
    memory than MAX_PIXELS. DataError names `where`.
    """
    is_jpeg = data.startswith(JPEG)
    if not is_jpeg and not (data.startswith(PNG) and data[-8:-4] == b"IEND"):
        raise DataError(f"{where}: not a whole JPEG or PNG (truncated?): {len(data):,} bytes")
    try:
        size = simplejpeg.decode_jpeg_header(data)[:2] if is_jpeg else _png_size(data)
        if shape is not None and size != shape:
            raise DataError(f"{where}: expected height, width {shape}, got {size}")
        if size[0] * size[1] > MAX_PIXELS:
            raise DataError(f"{where}: expected at most {MAX_PIXELS:,} pixels, got {size[0]:,} x {size[1]:,}")
        if is_jpeg:
            decoded = simplejpeg.decode_jpeg(data, colorspace="RGB" if color else "GRAY")
            return np.asarray(decoded if color else decoded[..., 0], np.uint8)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{where}: not a whole image: {' '.join(str(error).split())}") from None
    kind = cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None:
        raise DataError(f"{where}: not an image that can be decoded")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB) if color else decoded, np.uint8)


def _png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _folders(root: Path, markers: Sequence[str], folders: Sequence[str]) -> list[_Folder | Archive]:
    """The folder itself, and those in it that hold a dataset's top level."""
    inner = sorted(sub for sub in root.iterdir() if sub.is_dir())
    return [_Folder(root), *(_Folder(sub) for sub in inner if any((sub / name).exists() for name in (*markers, *folders)))]


def _archives(folder: Path) -> list[Path]:
    """The archives of a folder, one path for each that came in pieces."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and is_archive(path))
    return [path for path in found if pieces_of(path)[0] == path]
