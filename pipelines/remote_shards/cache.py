"""A folder of shards fetched from elsewhere, named by their checksums: shared by every process of a machine, limited in size."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipelines.shards import ShardError
from pipelines.shards.manifest import ShardEntry

DEFAULT_GIB = 50.0
ABANDONED_S = 24 * 3600  # no fetch is still at work on a file that has not grown for so long


def cache_folder() -> Path:
    """$HANDNET_CACHE, else handnet in the user's cache folder."""
    named = os.environ.get("HANDNET_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handnet"


def cache_limit_bytes() -> int:
    """$HANDNET_CACHE_GIB. ValueError naming it if it is no number above 0."""
    value = os.environ.get("HANDNET_CACHE_GIB", str(DEFAULT_GIB))
    try:
        limit = float(value)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise ValueError(f"HANDNET_CACHE_GIB: expected a number above 0, got {value!r}")
    return int(limit * 2**30)


class ShardCache:
    """`open` gives a shard's descriptor, fetched first where it is not there. Whoever has it open keeps it when it is let go of."""

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = folder / "shards", limit_bytes

    def open(self, entry: ShardEntry, fetch: Callable[[Callable[[], BinaryIO]], None], where: str) -> int:
        """A descriptor to read from. fetch: writes the shard into what it is given opens. ShardError: not what the manifest says."""
        path = self.folder / f"{entry.sha256}.tar"
        found = self._opened(path)
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(entry.sha256):
            found = self._opened(path)  # another process may have fetched it meanwhile
            if found is not None:
                return found
            self._fetch(path, entry, fetch, where)
            found = self._opened(path)
        if found is None:
            raise ShardError(f"{path}: removed while it was fetched; HANDNET_CACHE is not to be emptied while training runs")
        self._prune(keep=path)
        return found

    def _opened(self, path: Path) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with suppress(OSError):  # of a cache that this user may only read
            os.utime(descriptor)  # used last
        return descriptor

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Inside, no other process of this machine fetches this shard."""
        with (self.folder / f".{name[:2]}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch(self, path: Path, entry: ShardEntry, fetch: Callable[[Callable[[], BinaryIO]], None], where: str) -> None:
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            fetch(lambda: partial.open("wb"))
            size = partial.stat().st_size
            if size != entry.bytes:
                raise ShardError(f"{where}: expected {entry.bytes} bytes as manifest.json says, got {size}")
            with partial.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != entry.sha256:
                raise ShardError(f"{where}: expected sha256 {entry.sha256} as manifest.json says, got {found}")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _prune(self, keep: Path) -> None:
        """Remove those used longest ago until the rest is within the limit, and what processes that were killed left unfinished."""
        for path in self.folder.glob(".*.partial"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()
        found = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):  # removed by another process
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit_bytes:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
