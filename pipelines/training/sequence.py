"""The endless sequence of training images over all parts of a mixture: which sample stands at a place is a function of seed and place.

In every BLOCK of the sequence each part has exactly its share. What is here is read in an order of its own in every epoch. What lies behind
a URL is read shard by shard: the sequence is dealt to streams, every stream has shards of its own in an epoch, and shuffles the samples
of a few of them at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.config_mixture import BLOCK, MixturePart, RemoteConfig, is_remote, shares
from pipelines.mixtures.description import open_shards
from pipelines.shards import ShardError, ShardReader

# what a generator is for: a number of its seed
_EPOCH, _BLOCK, _WINDOW, _LABELS = 0, 2, 3, 4


@dataclass(slots=True)  # a frozen one takes three times as long to make
class Draw:
    """One image of the sequence: sample `index` of a part, and which of its labels may be read."""

    part: str
    reader: ShardReader
    index: int
    labels_3d: bool
    mask: bool


class EpochOrder:
    """All samples of a part once, in an order of every epoch's own. Streams take turns."""

    def __init__(self, num_samples: int, num_streams: int, seed: int, part: int):
        self.num_samples, self.num_streams, self.seed, self.part = num_samples, num_streams, seed, part
        self._orders: dict[int, NDArray[np.int64]] = {}

    def index(self, stream: int, turn: int) -> int:
        epoch, place = divmod(turn * self.num_streams + stream, self.num_samples)
        if epoch not in self._orders:
            # streams may stand in two epochs at a time
            self._orders = {number: order for number, order in self._orders.items() if abs(number - epoch) == 1}
            self._orders[epoch] = np.random.default_rng([self.seed, _EPOCH, epoch, self.part]).permutation(self.num_samples)
        return int(self._orders[epoch][place])


@dataclass(frozen=True)
class _StreamEpoch:
    """One stream's epoch: sample indices in order, where its windows end, and each window's shards."""

    indices: NDArray[np.int64]
    ends: NDArray[np.int64]
    windows: list[list[int]]


class StreamOrder:
    """Shards dealt to the streams anew in every epoch, samples shuffled over `window` shards at a time.

    Every stream has as many shards as any other, and stops where the shortest could end: what is left over is another in every epoch.
    """

    def __init__(self, sizes: Sequence[int], num_streams: int, window: int, seed: int, part: int):
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.num_streams, self.window, self.seed, self.part = num_streams, window, seed, part
        self.per_stream = len(sizes) // num_streams
        self.length = int(np.sort(sizes)[: self.per_stream].sum())
        self._epochs: dict[tuple[int, int], _StreamEpoch] = {}

    def index(self, stream: int, turn: int) -> int:
        epoch, place = divmod(turn, self.length)
        return int(self._epoch(stream, epoch).indices[place])

    def window_at(self, stream: int, turn: int) -> tuple[tuple[int, int], list[int]]:
        """Which window a turn lies in, and its shards with those of the next window, in the order they are needed."""
        epoch, place = divmod(turn, self.length)
        found = self._epoch(stream, epoch)
        number = int(np.searchsorted(found.ends, place, side="right"))
        last = number + 1 == len(found.windows)
        following = self._epoch(stream, epoch + 1).windows[0] if last else found.windows[number + 1]
        return (epoch, number), [*found.windows[number], *following]

    def _epoch(self, stream: int, epoch: int) -> _StreamEpoch:
        if (stream, epoch) not in self._epochs:
            for former in [key for key in self._epochs if key[0] == stream and abs(key[1] - epoch) > 1]:
                del self._epochs[former]
            self._epochs[stream, epoch] = self._deal(stream, epoch)
        return self._epochs[stream, epoch]

    def _deal(self, stream: int, epoch: int) -> _StreamEpoch:
        num_shards = len(self.starts) - 1
        dealt = np.random.default_rng([self.seed, _EPOCH, epoch, self.part]).permutation(num_shards)
        shards = dealt[stream :: self.num_streams][: self.per_stream].tolist()
        windows = [shards[i : i + self.window] for i in range(0, len(shards), self.window)]
        rng = np.random.default_rng([self.seed, _WINDOW, epoch, self.part, stream])
        orders = [rng.permutation(np.concatenate([np.arange(self.starts[s], self.starts[s + 1]) for s in window])) for window in windows]
        return _StreamEpoch(np.concatenate(orders), np.cumsum([len(order) for order in orders]), windows)


class Part:
    """One part of the mixture, opened, with its order."""

    def __init__(self, name: str, number: int, config: MixturePart, remote: RemoteConfig, num_streams: int, seed: int):
        self.name, self.number, self.config, self.seed = name, number, config, seed
        self.reader = open_shards(config.path)
        self.remote = is_remote(config.path)
        if not len(self.reader):
            raise ShardError(f"{config.path}: expected at least one sample, got none")
        sizes = [shard.num_samples for shard in self.reader.manifest.shards]
        if self.remote and len(sizes) < num_streams:
            raise ShardError(
                f"{config.path}: expected at least as many shards as remote.streams ({num_streams}), each of which reads its own, "
                f"got {len(sizes)}: set fewer streams, or make smaller shards"
            )
        self.order: EpochOrder | StreamOrder = (
            StreamOrder(sizes, num_streams, remote.shuffle_shards, seed, number)
            if self.remote
            else EpochOrder(len(self.reader), num_streams, seed, number)
        )
        self._window: dict[int, tuple[int, int]] = {}  # that each stream reads

    def draw(self, stream: int, turn: int) -> Draw:
        if isinstance(self.order, StreamOrder):
            window, shards = self.order.window_at(stream, turn)
            if self._window.get(stream) != window:
                self._window[stream] = window
                self.reader.prefetch(shards)
        index = self.order.index(stream, turn)
        return Draw(self.name, self.reader, index, self._has(index, 0, self.config.labels_3d), self._has(index, 1, self.config.masks))

    def _has(self, index: int, kind: int, share: float) -> bool:
        """Whether a sample is among those whose labels of a kind are used: always the same ones."""
        if share in (0.0, 1.0):
            return share == 1.0
        return bool(np.random.default_rng([self.seed, _LABELS, index, self.number, kind]).random() < share)


class ImageSequence:
    """`draw(position)` for one process of `world_size`; a position belongs to process `position % world_size` where `streamed`.

    Raises ValueError for streams that the processes cannot share, and ShardError for parts that cannot be read.
    """

    def __init__(self, parts: Mapping[str, MixturePart], remote: RemoteConfig, seed: int, world_size: int = 1):
        self.streamed = any(is_remote(part.path) for part in parts.values())
        self.num_streams = remote.streams if self.streamed else 1
        if self.streamed and self.num_streams % world_size:
            raise ValueError(f"remote.streams: expected a multiple of {world_size} processes, got {self.num_streams}")
        self.seed = seed
        self.shares = shares({name: part.weight for name, part in parts.items()})
        self.parts = [Part(name, i, parts[name], remote, self.num_streams, seed) for i, name in enumerate(self.shares)]
        self.num_images = sum(len(part.reader) for part in self.parts)
        self._blocks: dict[int, tuple[int, NDArray[np.int64], NDArray[np.int64]]] = {}

    def draw(self, position: int) -> Draw:
        place, stream = divmod(position, self.num_streams)
        number, turn = self._turn(stream, place)
        return self.parts[number].draw(stream, turn)

    def _turn(self, stream: int, place: int) -> tuple[int, int]:
        """The part at a place of a stream, and how many images of that part came before it there."""
        if len(self.parts) == 1:
            return 0, place
        block, offset = divmod(place, BLOCK)
        if stream not in self._blocks or self._blocks[stream][0] != block:
            counts = np.array(list(self.shares.values()))
            numbers = np.random.default_rng([self.seed, _BLOCK, block, stream]).permutation(np.repeat(np.arange(len(counts)), counts))
            by_part = np.argsort(numbers, kind="stable")
            before = np.empty(BLOCK, np.int64)
            before[by_part] = np.concatenate([np.arange(count) for count in counts])
            self._blocks[stream] = block, numbers, before
        _, numbers, before = self._blocks[stream]
        number = int(numbers[offset])
        return number, block * list(self.shares.values())[number] + int(before[offset])
