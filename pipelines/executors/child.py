"""The process that a Dask worker keeps for a run: python -m pipelines.executors.child DESCRIPTOR. Answers what comes over that socket.

A process of its own has the run's code, folder and packages, whatever the worker was started with and has imported since.
"""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing import spawn
from multiprocessing.connection import Connection

from pipelines.executors.pool import serve

IDLE_S = 60.0  # a run that asks nothing for so long has ended without saying so


def _leave_with_worker() -> None:
    """End this process when the worker does, however that happens: nobody holds the other end of its input then."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Receive what the run's own process looks like, and the function; then serve its items."""
    _leave_with_worker()
    connection = Connection(int(arguments[0]))
    try:
        spawn.prepare(connection.recv())  # so that what its main module defines is found
        serve(connection, connection.recv(), idle_s=IDLE_S)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
