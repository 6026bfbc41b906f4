"""Random access to a folder of shards behind a URL: a shard is fetched into the cache when it is first read, or before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
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

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._cache = ShardCache(cache_folder(), cache_limit_bytes())
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[None]] = {}
        super().__init__(self.url)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pool": None, "_ahead": {}}

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
        if self._pool is None or self._pool_of != os.getpid():  # threads do not come along when a process is forked
            self._pool, self._pool_of, self._ahead = ThreadPoolExecutor(AT_ONCE, "shards"), os.getpid(), {}
        self._ahead = {shard: future for shard, future in self._ahead.items() if not future.done()}
        for shard in shards:
            if shard not in self._ahead and shard not in self._descriptors:
                self._ahead[shard] = self._pool.submit(self._warm, shard)

    _pool_of = 0

    def _warm(self, shard: int) -> None:
        try:
            os.close(self._open(shard))
        except (ShardError, OSError):
            return  # told by whoever reads it
