"""Run one function over many items: by processes of this machine, or by a Dask cluster; the results are the same.

Where the work is done is a fact about machines, not a parameter: HANDNET_DASK_SCHEDULER names a cluster's scheduler;
without it, HANDNET_WORKERS is the number of processes here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipelines.executors.pool import WORKERS_VARIABLE, WorkerDiedError, default_num_workers, report_progress, run_here, run_in_pool
from pipelines.progress import Progress

__all__ = ["SCHEDULER_VARIABLE", "WORKERS_VARIABLE", "WorkerDiedError", "default_num_workers", "report_progress", "run"]

Item = TypeVar("Item")
Result = TypeVar("Result")

SCHEDULER_VARIABLE = "HANDNET_DASK_SCHEDULER"


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_workers: int | None = None,
    description: str,
    steps: Callable[[Item], int] | None = None,
    unit: str = "",
) -> list[Result]:
    """`[function(item) for item in items]`, in parallel.

    By `num_workers` processes (1: in this one); None: by the cluster that HANDNET_DASK_SCHEDULER names, if it does, else by
    `default_num_workers()` processes. `function` and items must be picklable (a module-level function, or functools.partial
    of one). `steps(item)` is an item's length on the progress bar, for functions that call `report_progress`. A worker's
    exception is raised here, with a note that names the item; other workers are then stopped at once, as they are on Ctrl-C.
    """
    work = list(items)
    lengths = [steps(item) if steps else 1 for item in work]
    address = os.environ.get(SCHEDULER_VARIABLE, "").strip()
    with Progress(description, sum(lengths), unit) as progress:
        if address and num_workers is None and work:
            from pipelines.executors.cluster import run_on_cluster  # not needed, and slow to load, without a cluster

            return run_on_cluster(function, work, lengths, address, progress)
        count = min(num_workers if num_workers is not None else default_num_workers(), len(work))
        if count <= 1:
            return run_here(function, work, lengths, progress)
        return run_in_pool(function, work, lengths, count, progress)
