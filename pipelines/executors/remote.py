"""What runs inside a Dask worker: it passes items on to a process that it keeps for the run, and the answers back.

Sent to the workers by value, so they need none of this project's packages: the standard library and distributed do.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from multiprocessing.connection import Connection
from typing import Any, TypedDict


class Run(TypedDict):
    """What a worker must know of a run. topic: where progress is told. preparation, function: pickled, for `child`."""

    name: str
    topic: str
    command: list[str]
    folder: str
    environment: dict[str, str]
    preparation: bytes
    function: bytes


class Children:
    """A worker's processes, one for each run and thread; kept as an attribute of the worker."""

    def __init__(self) -> None:
        self.running: dict[tuple[str, int], tuple[subprocess.Popen, Connection]] = {}
        self.stopped: set[str] = set()


def children_of(worker: Any) -> Any:
    """The worker's Children."""
    if not hasattr(worker, "handnet_children"):
        worker.handnet_children = Children()
    return worker.handnet_children


def start(run: Run) -> tuple[subprocess.Popen, Connection]:
    """A process for a run. FileNotFoundError if the project's folder or its Python is not where the run has them."""
    for path in (run["folder"], run["command"][0]):
        if not os.path.exists(path):
            what = "not found; the project's folder and its environment must have the same path on every worker"
            raise FileNotFoundError(f"{socket.gethostname()}: {path}: {what}")
    ours, theirs = socket.socketpair()
    environment = {**os.environ, **run["environment"]}
    command = [*run["command"], str(theirs.fileno())]
    # its input is never written to: that it ends tells the process that this one is gone
    process = subprocess.Popen(command, cwd=run["folder"], env=environment, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
    theirs.close()
    connection = Connection(ours.detach())
    connection.send_bytes(run["preparation"])
    connection.send_bytes(run["function"])
    return process, connection


def work(item: bytes, number: int, run: Run) -> tuple[bytes, bytes]:
    """Kind and contents of the answer to a pickled item. ChildProcessError if the process ends without one."""
    from distributed import get_worker

    worker = get_worker()
    children = children_of(worker)
    if run["name"] in children.stopped:
        raise InterruptedError("the run was stopped")
    place = (run["name"], threading.get_ident())
    process, connection = children.running.get(place, (None, None))
    if process is None or process.poll() is not None:
        process, connection = children.running[place] = start(run)
    try:
        connection.send_bytes(item)
        while True:
            kind, contents = connection.recv_bytes(), connection.recv_bytes()
            if kind != b"steps":
                break
            worker.log_event(run["topic"], [number, contents])
    except (OSError, EOFError) as error:  # what recv_bytes raises at the end is one or the other
        raise ChildProcessError(f"{socket.gethostname()}: a worker process ended with exit code {process.wait()}") from error
    if kind == b"error":  # it ends after one
        process.wait()
        del children.running[place]
    return kind, contents


def stop(name: str, dask_worker: Any = None) -> None:
    """End the processes of a run, at once."""
    children = children_of(dask_worker)
    children.stopped.add(name)
    for place in [place for place in list(children.running) if place[0] == name]:  # other threads may be adding to them
        process, connection = children.running.pop(place)
        process.kill()
        process.wait()
        process.stdin.close()
        connection.close()
