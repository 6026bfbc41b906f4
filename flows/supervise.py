"""Runs a command and everything it starts; all of it ends when this process's stdin closes: python -m flows.supervise COMMAND...

The caller holds the other end of stdin, so however the caller ends, killed or not, no process of the command stays behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

import psutil

STOP_VARIABLE = "HANDNET_STOP_SECONDS"  # how long a stage may take to save its state
DEFAULT_STOP_S = 60.0
LOOK_EVERY_S = 0.1
PR_SET_CHILD_SUBREAPER = 36
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def descendants() -> list[psutil.Process]:
    """Everything below this process that is alive."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def alive() -> list[psutil.Process]:
    try:
        return descendants()
    except psutil.NoSuchProcess:  # one ended while they were counted
        return alive()


def stop_seconds() -> float:
    """How long a stage may take to save its state. SystemExit for a setting that is no time."""
    value = os.environ.get(STOP_VARIABLE) or str(DEFAULT_STOP_S)
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise SystemExit(f"error: {STOP_VARIABLE}: expected seconds from 0 on, got {value!r}")
    return seconds


def stop_all(patience_s: float) -> None:
    """SIGTERM to every process, so that it can save its state; SIGKILL to those that stay longer than `patience_s`."""
    send(alive(), signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while processes := alive():
        if time.monotonic() > deadline:
            send(processes, signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)


class Child(Protocol):
    """A process that was started: as subprocess.Popen has them, its exit code once it has ended, that of a signal negative."""

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


def supervise(start: Callable[[], Child]) -> int:
    """Start a process, and end it and all below it when this process is told to; its exit code, of a signal 128 and the number."""
    # processes whose parent ends become this one's children, so that none gets out of sight
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    patience_s = stop_seconds()
    stop = threading.Event()
    for number in STOPS:
        signal.signal(number, lambda *_: stop.set())
    child = start()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    while child.poll() is None and not stop.is_set():
        stop.wait(LOOK_EVERY_S)
    stop_all(patience_s)  # also what a command that ended by itself left behind
    code = child.wait()
    return code if code >= 0 else 128 - code


def main(command: list[str]) -> int:
    """Command line."""
    return supervise(lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
