"""Flow train-multi: bring the second training stage and all that hangs on it up to date, or any other target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.credentials import from_block
from flows.runs import Request, run_request
from flows.stages import summary


@flow(name="train-multi", persist_result=False)
def train_multi(
    target: str | None = None,
    overrides: list[str] | None = None,
    experiment: str | None = None,
    queue: bool = True,
    max_gpus: int | None = None,
    credentials: str | None = None,
    dask_workers: int | None = None,
) -> State[dict[str, Any]]:
    """Run what is outdated of the stage graph in the current folder.

    target: a stage of dvc.yaml with all it needs; none: train_multi, what it needs and what hangs on it.
    overrides: params that differ, as `dvc exp run -S` takes them, such as train.multi.lr=0.0005.
    experiment: the name of the run's own workspace and DVC experiment; without overrides and name it works in the project's folder.
    queue: wait while another run holds the workspace, instead of failing.
    max_gpus: GPUs that one stage may take; none: what dvc.yaml says.
    credentials: a Secret block with the DVC remote's variables.
    dask_workers: workers of a Dask cluster that is started for ingest and composition; none: this machine's processes.
    """
    request = Request(
        target=target,
        overrides=tuple(overrides or ()),
        experiment=experiment,
        queue=queue,
        max_gpus=max_gpus,
        credentials=from_block(credentials),
        dask_workers=dask_workers,
    )
    found = run_request(Path.cwd(), request)
    return Completed(message=summary(found), data=found)
