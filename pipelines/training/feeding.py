"""What feeds the loop: batches in parts that fit a device, made ahead of time by a thread or by processes, and the time spent waiting."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType

from torch.utils.data import Dataset

from handnet.batch import HandBatch
from pipelines.loading import training_loader
from pipelines.training.batches import TrainingBatches
from pipelines.training.processes import local_processes
from pipelines.training.settings import whole_number

AHEAD = 3  # batches that wait for the loop
Parts = list[HandBatch]


class PartedBatches(Dataset[Parts]):
    """Item `step` is that step's batch of one process, in parts of `device_batch` images."""

    def __init__(self, batches: TrainingBatches, device_batch: int):
        self.batches, self.device_batch = batches, device_batch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Parts:
        return self.batches.in_parts(step, self.device_batch)


class Feed:
    """Iterate over the parts of every step from `first_step` on; `waited_s` is how long the loop waited for them."""

    def __init__(self, batches: TrainingBatches, device_batch: int, first_step: int):
        self.parted, self.first_step = PartedBatches(batches, device_batch), first_step
        self.waited_s = 0.0
        self.images_per_epoch = batches.sequence.num_images

    def __iter__(self) -> Iterator[Parts]:
        num_workers = loader_workers()
        loader = training_loader(self.parted, self.first_step, len(self.parted), num_workers)
        items = iter(loader) if num_workers else made_ahead(loader)
        while True:
            started = time.monotonic()
            parts = next(items, None)
            self.waited_s += time.monotonic() - started
            if parts is None:
                return
            yield parts


def made_ahead(items: Iterable[Parts]) -> Iterator[Parts]:
    """The items, made by a thread while the loop computes: decoding and warping run outside Python's lock. Its errors are raised here."""
    made: queue.Queue[Parts | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: Parts | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def end(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        put(error)  # of any class: a thread that ends without a word leaves the loop waiting
        return True

    def make() -> None:
        with ExitStack() as ending:
            ending.push(end)
            for item in items:
                if not put(item):
                    return

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def loader_workers() -> int:
    """Processes that load, beside a thread: HANDNET_LOADER_WORKERS, else this process's share of the cores that training leaves free."""
    value = os.environ.get("HANDNET_LOADER_WORKERS")
    if value is not None:
        return whole_number("HANDNET_LOADER_WORKERS", value, 0)
    return min(8, max(0, len(os.sched_getaffinity(0)) - 2) // local_processes())


def device_batch_size(largest: int, smallest: int, fits: Callable[[int], bool] | None) -> int:
    """Images that one forward and backward pass takes: HANDNET_DEVICE_BATCH, else the most that fits.

    largest: the process's share of the batch. smallest: the images it draws, which must be in one part. fits: tries a number of images;
    None where memory is not what limits. ValueError if the environment's number is too small, or nothing fits.
    """
    value = os.environ.get("HANDNET_DEVICE_BATCH")
    if value is not None:
        size = min(whole_number("HANDNET_DEVICE_BATCH", value, 1), largest)
        if size < smallest:
            raise ValueError(f"HANDNET_DEVICE_BATCH: expected at least {smallest}, the images that loss.render_images draws, got {size}")
        return size
    size = largest
    while fits is not None and not fits(size):
        if size == smallest:
            raise ValueError(f"batch_size: not even {size} images fit the device: expected a smaller model, or fewer loss.render_images")
        size = max(size // 2, smallest)
    return size
