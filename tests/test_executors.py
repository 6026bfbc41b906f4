"""The process pool: results in order, errors named, single-threaded workers, and nothing left running."""

from __future__ import annotations

import os
import platform
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.executors import WorkerDiedError, default_num_workers, report_progress, run

GLIBC = platform.libc_ver()[0] == "glibc"  # no other C library can be told to keep freed memory


class OddError(ValueError):
    def __init__(self, number, other):
        super().__init__(f"odd {number}")


def square(number):
    time.sleep(0.002 * (number % 3))
    report_progress(2)
    return number * number


def fail_at(bad, number):
    if number == bad:
        raise ValueError(f"cannot do {number}")
    time.sleep(600 if number > bad else 0)
    return number


def fail_oddly(number):
    raise OddError(number, None)


def facts(_):
    return cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"], os.getpid(), kept_mib() if GLIBC else None


def die(number):
    os._exit(9)


def resident_mib():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def kept_mib():
    """Memory that a process still holds after it freed 96 MiB of arrays, of 24 MiB each."""
    before = resident_mib()
    arrays = [np.ones(24 << 20, np.uint8) for _ in range(4)]
    del arrays
    return resident_mib() - before


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_the_order_of_the_items(num_workers, capfd):
    assert run(square, range(20), num_workers=num_workers, description="squares", steps=lambda n: 2, unit="steps") == [
        n * n for n in range(20)
    ]
    errors = capfd.readouterr().err
    assert errors.startswith("squares: 40/40 steps, ")
    assert errors.endswith("done\n")


def test_none_is_an_item_and_nothing_is_no_work():
    assert run(str, [None, None], num_workers=2, description="none") == ["None", "None"]
    assert run(str, [], num_workers=2, description="nothing") == []


def test_workers_are_other_processes_single_threaded_and_keep_freed_memory():
    before = os.environ.get("OMP_NUM_THREADS")
    for threads, omp, numba, pid, kept in run(facts, range(2), num_workers=2, description="facts"):
        assert (threads, omp, numba) == (1, "1", "1")
        assert pid != os.getpid()
        assert not GLIBC or kept > 80
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert not GLIBC or kept_mib() < 16  # this process gives freed memory back


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_is_raised_at_once_with_the_item_named(num_workers):
    started = time.monotonic()
    with pytest.raises(ValueError, match="cannot do 1") as caught:
        run(partial(fail_at, 1), range(4), num_workers=num_workers, description="failing")
    assert "while working on 1" in caught.value.__notes__
    assert time.monotonic() - started < 300  # the other worker's 600 s were not waited for


def test_an_error_that_cannot_be_rebuilt_still_says_what_it_was():
    with pytest.raises(RuntimeError, match=r"OddError: odd \d"):
        run(fail_oddly, range(2), num_workers=2, description="odd")


def test_a_dead_worker_is_an_error_not_a_hang():
    with pytest.raises(WorkerDiedError, match="exit code 9 on 0"):
        run(die, [0, 0], num_workers=2, description="dying")


def test_number_of_workers(monkeypatch):
    monkeypatch.setenv("HANDNET_WORKERS", "3")
    assert default_num_workers() == 3
    for bad in ("0", "many", "-1", ""):
        monkeypatch.setenv("HANDNET_WORKERS", bad)
        with pytest.raises(ValueError, match="HANDNET_WORKERS: expected a positive number"):
            default_num_workers()
    monkeypatch.delenv("HANDNET_WORKERS")
    assert default_num_workers() == len(os.sched_getaffinity(0))
