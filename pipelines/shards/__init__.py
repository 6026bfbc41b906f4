"""Shards on disk: WebDataset tars of jpg/png + json/npy with a manifest; no pickle anywhere.

`writer` makes one shard, `build` a whole folder of them (resumable), `reader` gives random access to one.
"""

from pipelines.shards.manifest import Manifest, ShardEntry, load_manifest
from pipelines.shards.reader import ShardReader
from pipelines.shards.schema import SCHEMA, ShardError

__all__ = ["SCHEMA", "Manifest", "ShardEntry", "ShardError", "ShardReader", "load_manifest"]
