"""Flow ingest: bring datasets up to date, and tell those that wait for new data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.events import emit_event
from prefect.states import Completed

from flows.credentials import from_block
from flows.runs import Request, run_request
from flows.stages import summary

NEW_DATA = "handnet.new-data"


@flow(name="ingest", persist_result=False)
def ingest(
    dataset: str | None = None,
    pool: str = "local",
    queue: bool = True,
    credentials: str | None = None,
    dask_workers: int | None = None,
) -> State[dict[str, Any]]:
    """Run the ingest stages that are outdated, in the project's folder.

    dataset: a key of `ingest` in params.yaml; none: all. Event handnet.new-data of resource handnet.data.POOL follows when one
    of them ran: the `retrain` deployment of that pool waits for it. queue, credentials, dask_workers: as in train-multi.
    """
    request = Request(
        target=f"ingest@{dataset}" if dataset else "ingest",
        queue=queue,
        credentials=from_block(credentials),
        dask_workers=dask_workers,
    )
    found = run_request(Path.cwd(), request)
    fresh = sorted(name for name, kind in found.items() if kind in ("ran", "cached"))
    if fresh:
        emit_event(event=NEW_DATA, resource={"prefect.resource.id": f"handnet.data.{pool}"}, payload={"stages": fresh})
    return Completed(message=summary(found), data=found)
