"""A Dask cluster for as long as a run lasts: ingest and composition hand their items to it (HANDNET_DASK_SCHEDULER).

Processes of this machine by default. HANDNET_DASK_CLUSTER names another class of clusters, such as dask_jobqueue.SLURMCluster or
dask_kubernetes.operator.KubeCluster, and HANDNET_DASK_CLUSTER_OPTIONS its arguments as a JSON object.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.executors import SCHEDULER_VARIABLE

CLASS_VARIABLE, OPTIONS_VARIABLE = "HANDNET_DASK_CLUSTER", "HANDNET_DASK_CLUSTER_OPTIONS"
START_WAIT_S = 600.0  # for the first worker: a batch system may let it wait


@contextmanager
def dask_cluster(num_workers: int | None, say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """The variables by which a run's stages find their cluster of so many workers; none are started for None.

    A scheduler that the environment names already is used as it is. ValueError for a class or options that cannot be used.
    """
    if num_workers is None:
        yield {}
        return
    if num_workers < 1:
        raise ValueError(f"dask_workers: expected a number from 1 on, got {num_workers}")
    if address := os.environ.get(SCHEDULER_VARIABLE, "").strip():
        say(f"{SCHEDULER_VARIABLE} names a Dask cluster: {address}; none is started")
        yield {}
        return
    from prefect_dask import DaskTaskRunner

    name, options = cluster_of_environment()
    if name is None:
        # one item at a time in each, in a process of the stage's own
        options = {"n_workers": num_workers, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None, **options}
    with DaskTaskRunner(cluster_class=name, cluster_kwargs=options) as runner:
        client = runner.client
        if name is not None:
            client.cluster.scale(num_workers)
        client.wait_for_workers(1, timeout=START_WAIT_S)
        address = client.scheduler.address
        say(f"started a Dask cluster of {num_workers} workers: {address}")
        yield {SCHEDULER_VARIABLE: address}


def cluster_of_environment() -> tuple[str | None, dict[str, Any]]:
    """The class and the options that the environment names: (None, {}) for this machine's processes. ValueError if they are wrong."""
    name = os.environ.get(CLASS_VARIABLE, "").strip() or None
    text = os.environ.get(OPTIONS_VARIABLE, "").strip() or "{}"
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{OPTIONS_VARIABLE}: expected a JSON object, got text that is none: {error}") from None
    if not isinstance(options, dict):
        raise ValueError(f"{OPTIONS_VARIABLE}: expected a JSON object, got {type(options).__name__}")
    if name is not None:
        module, _, attribute = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"{CLASS_VARIABLE}: expected the dotted name of a class of Dask clusters, got {name!r}: {error}") from None
    return name, options
