"""Being asked to stop: between two steps SIGTERM and SIGINT are answered with the state saved, before and after them at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.stage_command import EXIT_INTERRUPTED, Stopped

# What a scheduler sends before it takes the machine away: the run is to be started again. EX_TEMPFAIL of sysexits.h.
EXIT_AGAIN = 75
EXIT_CODES = {int(signal.SIGTERM): EXIT_AGAIN, int(signal.SIGINT): EXIT_INTERRUPTED}


def stopped(number: int, message: str) -> Stopped:
    """What to raise once the state is saved: signal `number` asked for it."""
    return Stopped(EXIT_CODES[number], message)


@contextmanager
def again_after_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises Stopped at once: what is lost is made again by the same command, as after a signal between two steps."""

    def handle(number: int, _: object) -> None:
        raise stopped(number, "stopped; the same command goes on from the last checkpoint")

    former = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def stop_signals(*, patient: bool) -> Iterator[Callable[[], int]]:
    """Inside, SIGINT and SIGTERM are only noted: the yielded function gives the first one's number, or 0.

    A second one interrupts at once, unless `patient`: a launcher passes on what its processes have been sent already.
    """
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if received and not patient:
            raise KeyboardInterrupt
        received.append(number)

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
