"""A pool of single-threaded processes on this machine, with progress and prompt Ctrl-C.

Its number is that of the CPUs this process may use, or HANDNET_WORKERS.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import cv2

from pipelines.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS_VARIABLE = "HANDNET_WORKERS"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_REPORT_EVERY_S = 0.2
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3)
STEPS, RESULT, ERROR = b"steps", b"result", b"error"  # kinds of answers

_report: Callable[[int], None] = lambda steps: None  # noqa: E731  replaced in workers and during in-process runs


class WorkerDiedError(ChildProcessError):
    """A worker process ended without an answer (killed, out of memory, crashed in native code)."""


def default_num_workers() -> int:
    """HANDNET_WORKERS if set, else the number of CPUs this process may use. ValueError if it is not a positive number."""
    text = os.environ.get(WORKERS_VARIABLE)
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{WORKERS_VARIABLE}: expected a positive number, got {text!r}")
    return int(text)


def report_progress(steps: int = 1) -> None:
    """Called by the function while it works on an item: `steps` more of the item's steps are done."""
    _report(steps)


class Tally:
    """Keeps one item's reported steps within its length, so that the bar ends at exactly 100 %."""

    def __init__(self, length: int, progress: Progress) -> None:
        self.left = length
        self.progress = progress

    def add(self, steps: int) -> None:
        steps = min(steps, self.left)
        self.left -= steps
        self.progress.advance(steps)

    def finish(self) -> None:
        self.add(self.left)


def run_here(function: Callable[[Item], Result], work: list[Item], lengths: list[int], progress: Progress) -> list[Result]:
    """One item after the other, in this process."""
    global _report
    results = []
    before = _report
    try:
        for item, length in zip(work, lengths, strict=True):
            tally = Tally(length, progress)
            _report = tally.add
            with _NamedItem(item):
                results.append(function(item))
            tally.finish()
    finally:
        _report = before
    return results


class _NamedItem:
    """Whatever is raised inside carries a note that names the item."""

    def __init__(self, item: object) -> None:
        self.item = item

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            error.add_note(f"while working on {self.item!r}")


def run_in_pool(function: Callable[[Item], Result], work: list[Item], lengths: list[int], count: int, progress: Progress) -> list[Result]:
    """The items by `count` processes."""
    results: dict[int, Result] = {}
    processes: dict[Connection, BaseProcess] = {}
    current: dict[Connection, tuple[int, Tally]] = {}
    todo = iter(range(len(work)))
    finished = False

    def give(connection: Connection) -> None:
        number = next(todo, None)
        if number is None:
            connection.send(None)
            return
        current[connection] = (number, Tally(lengths[number], progress))
        connection.send((work[number],))  # a tuple, so that None can be an item

    try:
        _start(function, count, processes)
        for connection in processes:
            give(connection)
        while len(results) < len(work):
            for ready in wait(list(current)):
                assert isinstance(ready, Connection)
                number, tally = current[ready]
                try:
                    kind, payload = ready.recv_bytes(), ready.recv()
                except (EOFError, ConnectionResetError):
                    processes[ready].join(5)
                    raise WorkerDiedError(f"a worker ended with exit code {processes[ready].exitcode} on {work[number]!r}") from None
                if kind == STEPS:
                    tally.add(payload)
                elif kind == ERROR:
                    raise_remote(payload, work[number])
                else:
                    results[number] = payload
                    tally.finish()
                    del current[ready]
                    give(ready)
        finished = True
    finally:
        for process in processes.values():
            if not finished:  # an error or Ctrl-C: the others must not work their items to the end first
                process.kill()
            process.join()
        for connection in processes:
            connection.close()
    return [results[i] for i in range(len(work))]


def _start(function: Callable[[Item], Result], count: int, processes: dict[Connection, BaseProcess]) -> None:
    """Start `count` workers into `processes`. They are born ignoring Ctrl-C, which the parent answers for all."""
    context = multiprocessing.get_context("spawn")
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        with _single_threaded_environment():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, function), daemon=True)
                process.start()
                theirs.close()
                processes[ours] = process
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


def raise_remote(payload: Any, item: object) -> NoReturn:
    """Raise what a worker raised while it worked on `item`, with a note that names it; `payload`: what it sent."""
    kind, arguments, notes, summary, trace = payload
    try:
        error: Exception = kind(*arguments) if kind is not None else RuntimeError(summary)
    except TypeError:  # its constructor wants something else than its args
        error = RuntimeError(summary)
    for note in notes:
        error.add_note(note)
    with _NamedItem(item):
        raise error from RuntimeError(f"in a worker process:\n{trace}")


@contextmanager
def _single_threaded_environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _leave_with_parent() -> None:
    """End this process when its parent ends, however that happens (SIGKILL gives the parent no time to tell us)."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Answer:
    """Sends what is raised inside to the parent, which raises it again, and ends the worker."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            return
        plain = all(isinstance(argument, str | int | float | bytes | None) for argument in error.args)
        # classes made inside functions cannot be sent; they travel as text
        sendable = type(error) if plain and "<locals>" not in type(error).__qualname__ else None
        notes = getattr(error, "__notes__", [])
        text = "".join(traceback.format_exception(error))
        summary = f"{type(error).__name__}: {error}"
        _send(self.connection, ERROR, (sendable, error.args if sendable else (), notes, summary, text))
        raise SystemExit(1)


def _send(connection: Connection, kind: bytes, payload: object) -> None:
    """An answer, in two messages, so that who only passes it on need not unpack the second."""
    connection.send_bytes(kind)
    connection.send(payload)


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """A worker of the pool."""
    _leave_with_parent()
    serve(connection, function)


def keep_freed_memory() -> None:
    """Let this process use the memory of freed arrays again, where the C library is glibc, instead of giving it back and asking anew.

    Images are as large as what glibc would give back at once, and a page that is asked for anew is cleared by the kernel first.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 256 << 20)
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most there is


def prepare_worker() -> None:
    """Set this process up as a worker: one thread of OpenCV, freed memory kept, and cycles of garbage, of which samples make none,
    looked for once in many thousand objects instead of 700.
    """
    cv2.setNumThreads(1)
    keep_freed_memory()
    gc.set_threshold(20_000)


def serve(connection: Connection, function: Callable[[Any], Any], idle_s: float | None = None) -> None:
    """Answer items until None comes, or nothing for `idle_s`."""
    global _report
    prepare_worker()
    pending = 0
    sent_at = 0.0

    def report(steps: int) -> None:
        nonlocal pending, sent_at
        pending += steps
        if time.monotonic() - sent_at > _REPORT_EVERY_S:
            _send(connection, STEPS, pending)
            pending, sent_at = 0, time.monotonic()

    _report = report
    while connection.poll(idle_s) and (message := connection.recv()) is not None:
        pending = 0
        with _Answer(connection):
            _send(connection, RESULT, function(*message))
