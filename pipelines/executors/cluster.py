"""The workers of a Dask cluster, named by its scheduler's address in HANDNET_DASK_SCHEDULER.

They read and write the project's folder, which must have the same path on all of them (a shared file system), with its
environment. Each Dask worker keeps one process for a run in each of its threads, started in the folder with the run's Python:
a worker may have been started anywhere, and no code it imported earlier is used.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import spawn
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
from distributed import Client, Future, KilledWorker
from distributed.comm.core import CommClosedError

from pipelines.executors import remote
from pipelines.executors.pool import ERROR, THREAD_VARIABLES, Tally, WorkerDiedError, raise_remote
from pipelines.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

ROOT = Path(__file__).parents[2]
_ADDRESS = re.compile(r"((tcp|tls|ucx|ws|wss)://)?[^\s/]+:\d+")
CONNECT_S = 8.0
LOOK_EVERY_S = 5.0
NO_WORKER_S = 120.0  # how long to wait for a first worker, or for one to come back


class SchedulerError(ConnectionError):
    """The scheduler does not answer, or has no workers."""


def run_on_cluster(
    function: Callable[[Item], Result], work: list[Item], lengths: list[int], address: str, progress: Progress
) -> list[Result]:
    """The items by the workers of the scheduler at `address`. An item of a worker that is lost is given to another one.

    SchedulerError if the scheduler does not answer, goes away, or has no worker; WorkerDiedError for an item whose process
    ends without an answer, or whose workers are lost again and again.
    """
    run = _describe(function)
    tallies = [Tally(length, progress) for length in lengths]
    results: dict[int, Result] = {}
    events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    with _connected(address) as client, _stopping(client, run) as futures:
        # each with its contents pickled, as bytes that say how many steps of an item are done
        client.subscribe_topic(run["topic"], lambda event: events.put((event[1][0], ForkingPickler.loads(event[1][1]))))
        items = [bytes(ForkingPickler.dumps((item,))) for item in work]
        futures += client.map(_by_value(remote.work), items, range(len(work)), run=run, pure=False)
        for number, future in enumerate(futures):
            future.add_done_callback(partial(_tell, events, number))
        waiting = _Patience(client, address, progress)
        while len(results) < len(work):
            try:
                number, what = events.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                waiting.look()
                continue
            waiting.reset()
            if number in results:
                continue  # progress that was told late
            if isinstance(what, int):
                tallies[number].add(what)
                continue
            kind, contents = _answer(what, work[number], address)
            payload = ForkingPickler.loads(contents)
            if kind == ERROR:
                raise_remote(payload, work[number])
            results[number] = payload
            tallies[number].finish()
    return [results[i] for i in range(len(work))]


def _describe(function: Callable) -> remote.Run:
    name = uuid.uuid4().hex
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    preparation = spawn.get_preparation_data("handnet")
    del preparation["authkey"]
    settings = {key: value for key, value in os.environ.items() if key.startswith("HANDNET_")}
    return remote.Run(
        name=name,
        topic=f"handnet-{name}",
        command=[sys.executable, "-m", "pipelines.executors.child"],
        folder=os.getcwd(),
        environment={**settings, **dict.fromkeys(THREAD_VARIABLES, "1"), "PYTHONPATH": os.pathsep.join(paths)},
        preparation=bytes(ForkingPickler.dumps(preparation)),
        function=bytes(ForkingPickler.dumps(function)),
    )


def _by_value(function: Callable) -> Any:
    """The function as one that pickles as a whole, not as the name of a module that workers cannot import."""
    cloudpickle.register_pickle_by_value(remote)
    try:
        # a copy made from bytes of this process's own, before anything is sent: it carries its code along when Dask pickles it
        return cloudpickle.loads(cloudpickle.dumps(function))
    finally:
        cloudpickle.unregister_pickle_by_value(remote)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    if not _ADDRESS.fullmatch(address):
        raise SchedulerError(f"HANDNET_DASK_SCHEDULER: expected an address such as tcp://host:8786, got {address!r}")
    for name in (name for name in logging.root.manager.loggerDict if name.startswith("distributed")):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is raised
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise SchedulerError(f"HANDNET_DASK_SCHEDULER: no Dask scheduler answers at {address!r}: {reason}") from None
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=CONNECT_S)


@contextmanager
def _stopping(client: Client, run: remote.Run) -> Iterator[list[Future]]:
    """A list for a run's futures. However it ends, what is left of them is cancelled, and its processes are ended."""
    futures: list[Future] = []
    try:
        yield futures
    finally:
        with suppress(OSError, TimeoutError):
            client.unsubscribe_topic(run["topic"])
            client.cancel([future for future in futures if not future.done()], force=True)
            client.run(_by_value(remote.stop), run["name"], on_error="ignore")


def _tell(events: queue.SimpleQueue, number: int, future: Future) -> None:
    events.put((number, future))


def _answer(future: Future, item: object, address: str) -> tuple[bytes, bytes]:
    """What a worker answered to an item; raises what came instead."""
    try:
        answer: tuple[bytes, bytes] = future.result(timeout=NO_WORKER_S)
    except KilledWorker as error:
        count, last = error.allowed_failures + 1, error.last_worker.address
        raise WorkerDiedError(f"workers were lost {count} times on {item!r}, the last one at {last}") from None
    except ChildProcessError as error:
        raise WorkerDiedError(f"{error} on {item!r}") from None
    except (TimeoutError, CancelledError, CommClosedError):
        raise SchedulerError(f"the Dask scheduler at {address!r} has gone away") from None
    return answer


class _Patience:
    """Waits for workers while there are none, but not for ever."""

    def __init__(self, client: Client, address: str, progress: Progress) -> None:
        self.client, self.address, self.progress = client, address, progress
        self.alone_s = 0.0

    def reset(self) -> None:
        if self.alone_s:
            self.progress.note("")
        self.alone_s = 0.0

    def look(self) -> None:
        """Called every LOOK_EVERY_S while nothing is heard."""
        try:
            num_workers = len(self.client.nthreads())
        except (OSError, TimeoutError):
            raise SchedulerError(f"the Dask scheduler at {self.address!r} has gone away") from None
        if num_workers:
            self.reset()
            return
        self.alone_s += LOOK_EVERY_S
        self.progress.note("no worker is connected to the scheduler")
        if self.alone_s >= NO_WORKER_S:
            raise SchedulerError(f"no worker is connected to the Dask scheduler at {self.address!r}, for {self.alone_s:.0f} s now")
