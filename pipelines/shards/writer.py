"""Write one shard: a deterministic tar of samples, its checksum and its statistics.

Time stamps and owners are zero and members sorted, so the same samples are the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipelines.datasets.sample import SIDES, HandSample
from pipelines.shards.headers import END, member_blocks
from pipelines.shards.manifest import Counts, ShardEntry, ShardStats, add_counts, load_stats, sha256_file, shard_name, whole_file
from pipelines.shards.schema import encode_sample


def stats_path(stats_folder: Path, index: int) -> Path:
    return stats_folder / shard_name(index).replace(".tar", ".json")


def finished_stats(folder: Path, stats_folder: Path, index: int, fingerprint: str) -> ShardStats | None:
    """The statistics of shard `index` if it is finished, intact and was made under `fingerprint`; else None."""
    stats = load_stats(stats_path(stats_folder, index))
    path = folder / shard_name(index)
    if stats is None or stats.fingerprint != fingerprint or stats.entry.name != path.name or not path.is_file():
        return None
    if path.stat().st_size != stats.entry.bytes or sha256_file(path) != stats.entry.sha256:
        return None
    return stats


def count_labels(sample: HandSample) -> Counts:
    """Histograms of one sample: hands, sides, size of the box's longer side (bins of 16 px), visible keypoints."""
    counts: Counts = {"hands_per_image": {str(len(sample.hands)): 1}}
    if sample.mask_source is not None:
        counts["mask_source"] = {sample.mask_source: 1}
    for hand in sample.hands:
        size = float(max(hand.box_px[2] - hand.box_px[0], hand.box_px[3] - hand.box_px[1]))
        one = {"side": SIDES[hand.side], "box_px": str(int(size // 16) * 16), "visible_keypoints": str(int(hand.visible.sum()))}
        add_counts(counts, {name: {key: 1} for name, key in one.items()})
    return counts


def write_shard(
    folder: Path,
    stats_folder: Path,
    index: int,
    samples: Iterable[HandSample],
    *,
    jpeg_quality: int,
    fingerprint: str,
    extra_counts: Counts | None = None,
    quarantined: Sequence[dict[str, str]] = (),
    on_sample: Callable[[], None] | None = None,
) -> ShardStats:
    """Write `samples` as shard `index` of `folder`, then its statistics to `stats_folder`; each appears whole or not at all.

    `extra_counts`, read after the last sample, adds the maker's own histograms; `quarantined`, read then too, lists what the
    maker left out. Keys must come in ascending order.
    """
    path = folder / shard_name(index)
    num_samples = num_hands = num_bytes = 0
    sha256 = hashlib.sha256()
    source_ids: set[str] = set()
    identities: set[str] = set()
    counts: Counts = {}
    last_key = ""
    stats_path(stats_folder, index).unlink(missing_ok=True)
    with whole_file(path) as out:
        for sample in samples:
            if sample.key <= last_key:
                raise ValueError(f"{path.name}: expected ascending keys, got {sample.key!r} after {last_key!r}")
            last_key = sample.key
            members = sorted(encode_sample(sample, jpeg_quality).items())
            blocks = b"".join(block for suffix, data in members for block in member_blocks(f"{sample.key}.{suffix}", data))
            sha256.update(blocks)
            num_bytes += out.write(blocks)
            num_samples += 1
            num_hands += len(sample.hands)
            source_ids.update(hand.source_id for hand in sample.hands)
            identities.update(hand.identity for hand in sample.hands if hand.identity is not None)
            add_counts(counts, count_labels(sample))
            if on_sample is not None:
                on_sample()
        sha256.update(END)
        num_bytes += out.write(END)
    add_counts(counts, extra_counts or {})
    stats = ShardStats(
        entry=ShardEntry(name=path.name, num_samples=num_samples, num_hands=num_hands, sha256=sha256.hexdigest(), bytes=num_bytes),
        fingerprint=fingerprint,
        source_ids=sorted(source_ids),
        identities=sorted(identities),
        counts=counts,
        quarantined=list(quarantined),
    )
    stats.save(stats_path(stats_folder, index))
    return stats
