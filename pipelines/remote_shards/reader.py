"""Random access to a folder of shards behind a URL: a shard is fetched into the cache when it is first read, or before."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from pipelines.remote_shards.cache import ShardCache, cache_folder, cache_limit_bytes
from pipelines.remote_shards.storage import download, read_bytes
from pipelines.shards import Manifest, ShardError, ShardReader
from pipelines.shards.manifest import MANIFEST, parse_manifest

AT_ONCE = 2  # shards that a process fetches ahead at the same time


class RemoteShardReader(ShardReader):
    """The samples of one folder of shards, by index, as ShardReader gives those of a folder here.

    Raises ShardError for a folder without manifest, a shard that is not what its manifest says, credentials or packages that are missing.
    """

    max_open_files = 32  # the disk has room again only when nobody has a shard open that the cache let go of

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._cache = ShardCache(cache_folder(), cache_limit_bytes())
        self._ahead: _Ahead | None = None
        super().__init__(self.url)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_ahead": None}

    def _load_manifest(self) -> Manifest:
        where = f"{self.url}/{MANIFEST}"
        return parse_manifest(read_bytes(where), where)

    def _check_files(self) -> None:
        """Whether the shards are there is seen when they are fetched."""

    def _open(self, shard: int) -> int:
        entry = self.manifest.shards[shard]
        url = f"{self.url}/{entry.name}"
        return self._cache.open(entry, lambda target: download(url, target), url)

    def prefetch(self, shards: Iterable[int]) -> None:
        """Fetch shards that will be read soon, in this order, in the background; what goes wrong is raised when they are read."""
        if self._ahead is None or self._ahead.process != os.getpid():  # threads do not come along when a process is forked
            self._ahead = _Ahead(self._warm)
        for shard in shards:
            if shard not in self._descriptors:
                self._ahead.want(shard)

    def _warm(self, shard: int) -> None:
        # told by whoever reads it
        with suppress(ShardError, OSError):
            os.close(self._open(shard))


class _Ahead:
    """Threads that fetch what is wanted, each shard once at a time. They end with the process, which never waits for them."""

    def __init__(self, fetch: Callable[[int], None]):
        self.process = os.getpid()
        self._wanted: queue.Queue[int] = queue.Queue()
        self._waiting: set[int] = set()
        for number in range(AT_ONCE):
            threading.Thread(target=self._work, args=(fetch,), name=f"shards-{number}", daemon=True).start()

    def want(self, shard: int) -> None:
        if shard not in self._waiting:
            self._waiting.add(shard)
            self._wanted.put(shard)

    def _work(self, fetch: Callable[[int], None]) -> None:
        while True:
            shard = self._wanted.get()
            fetch(shard)
            self._waiting.discard(shard)
