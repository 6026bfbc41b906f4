"""One process per device: a stage's plain command starts itself again through torchrun's launcher where there are several devices.

With HANDNET_NODES the launchers of several machines meet (`nodes`).
"""

from __future__ import annotations

import os
import sys
import uuid

import torch

from pipelines.training.nodes import nodes, wait_for_first
from pipelines.training.processes import PATIENCE, in_group
from pipelines.training.settings import whole_number
from pipelines.training.stopping import EXIT_CODES

# Longer than any checkpoint takes to write: after this, processes that were asked to stop are killed.
SHUTDOWN_S = 300


def num_processes() -> int:
    """HANDNET_DEVICES: a number, or `auto` (the default), which is every visible GPU, or one process without any."""
    value = os.environ.get("HANDNET_DEVICES", "auto")
    if value == "auto":
        return max(1, torch.cuda.device_count())
    return whole_number("HANDNET_DEVICES", value, 1)


def needs_launch() -> bool:
    """Whether this process should start one per device; those that torchrun started train."""
    return not in_group() and (num_processes() > 1 or nodes().count > 1)


def launch(module: str, arguments: list[str]) -> int:
    """Run `python -m module arguments` in one process per device as torchrun does; returns the first failure's exit code."""
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # of the launcher: our processes say themselves what went wrong
    # these take a second to import, and start threads
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    num, here = num_processes(), nodes()
    if here.rank > 0:
        wait_for_first(here, PATIENCE.total_seconds())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num)))
    alone = here.count == 1
    config = LaunchConfig(
        min_nodes=here.count,
        max_nodes=here.count,
        nproc_per_node=num,
        # nodes find each other by the stage's name; one that is alone must not be found
        run_id=uuid.uuid4().hex if alone else "-".join([module, *arguments]),
        # with several nodes the ranks are those of the environment: node 0, which writes, is where DVC runs
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else here.address,
        rdzv_configs={} if alone else {"rank": here.rank, "timeout": int(PATIENCE.total_seconds())},
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=SHUTDOWN_S,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except SignalException as stop:
        return EXIT_CODES.get(int(stop.sigval), 1)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        return first.exitcode if first.exitcode > 0 else 1
    return 0
