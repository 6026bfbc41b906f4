"""DVC's records are replaced whole or not at all.

DVC empties dvc.lock and its file of locks before it writes them. Where the disk is full they stay empty: what earlier stages recorded
is lost, and no DVC command works any more. Who reads one at that moment, such as a run that copies the project, gets a part of it.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

RECORDS = {"dvc.lock", "rwlock"}


def write_records_whole() -> None:
    """From here on DVC in this process writes its records so."""
    from dvc_objects.fs.local import LocalFileSystem

    plain: Callable[..., Any] = LocalFileSystem.open

    def open_(self: LocalFileSystem, path: str, mode: str = "r", **options: Any) -> Any:
        if mode in ("w", "w+") and os.path.basename(path) in RECORDS:
            return written_whole(Path(path))
        return plain(self, path, mode, **options)

    setattr(LocalFileSystem, "open", open_)  # noqa: B010  it has overloads


@contextmanager
def written_whole(path: Path) -> Iterator[IO[str]]:
    """Takes the text of a file, which then gets all of it; an OSError leaves the file as it was."""
    text = io.StringIO()
    yield text
    path, content = path.resolve(), text.getvalue().encode()
    try:
        _replace(path, content)
    except OSError:
        if not path.exists():
            raise
        _overwrite(path, content)  # there may be room for it where there is none for a second file


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        os.replace(partial, path)
    finally:
        with suppress(OSError):  # still there if something went wrong
            partial.unlink()


def _overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b", buffering=0) as out:
        size = os.fstat(out.fileno()).st_size
        try:
            os.posix_fallocate(out.fileno(), 0, len(content))
        except OSError:
            os.ftruncate(out.fileno(), size)
            raise
        out.write(content)
        out.truncate()
