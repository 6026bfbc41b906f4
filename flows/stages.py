"""A DVC stage as a Prefect task, and a whole plan of them: siblings in parallel, each once what it needs is there."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.tasks import Task

from flows import gpus
from flows.graph import Plan, Stage
from flows.processes import Processes, StageError
from flows.progress import ProgressArtifact
from flows.running import reproduce

JOBS_VARIABLE = "HANDNET_STAGE_JOBS"  # stages at a time; by default the CPUs there are
# how a stage's state is called in the UI
STATES = {"ran": "Completed", "cached": "Cached", "unchanged": "Skipped"}
KINDS = {"Completed": "ran", "Cached": "cached", "Skipped": "skipped"}


def num_jobs() -> int:
    """How many stages run at a time on this machine. ValueError for a setting that is no number."""
    value = os.environ.get(JOBS_VARIABLE, "")
    if value and (not value.isdecimal() or int(value) < 1):
        raise ValueError(f"{JOBS_VARIABLE}: expected a number from 1 on, got {value!r}")
    return int(value) if value else len(os.sched_getaffinity(0))


_MAKING = threading.Lock()


def job_slots() -> threading.BoundedSemaphore:
    """What every stage of this process holds while it runs."""
    with _MAKING:  # stages start in threads, several at a time
        return _job_slots()


@cache
def _job_slots() -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(num_jobs())


@dataclass(frozen=True)
class Surroundings:
    """Where stages run: the workspace, what is added to their environment, the locks that go with them, the remote they pull from."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    keep_open: tuple[int, ...] = ()
    max_gpus: int | None = None  # of one stage, where several runs share the machine
    remote: str | None = None  # the workspace's DVC remote
    credentials: Mapping[str, str] | None = field(default=None, repr=False)


def worth_another_try(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed stage is run again: it goes on from its own checkpoint or shards."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, StageError) or error.again


@task(
    name="stage",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=worth_another_try,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def run_stage(stage: Stage, surroundings: Surroundings, processes: Processes) -> State[str]:
    """Run one stage through DVC, holding the GPUs that it needs; the state's name says whether it ran."""
    logger = get_run_logger()
    for change in stage.changes:
        logger.info("outdated: %s", change)
    progress = ProgressArtifact(stage.name)

    def say(line: str) -> None:
        logger.info("%s", line)
        progress.see(line)

    # slots of the machine last: a stage that waits for a GPU keeps no other from running
    with gpus.reserved(gpu_need(stage, surroundings.max_gpus)) as devices, job_slots():
        outcome = reproduce(
            stage.name,
            surroundings.folder,
            processes=processes,
            say=say,
            environment={**surroundings.environment, **devices},
            keep_open=surroundings.keep_open,
            credentials=surroundings.credentials,
            pull=surroundings.remote is not None,
        )
    return Completed(name=STATES[outcome.kind], message=f"{outcome.kind} in {outcome.seconds:.0f} s", data=outcome.kind)


@task(name="stage up to date", persist_result=False, cache_policy=NO_CACHE)
def skip_stage() -> State[str]:
    """A stage that need not run, so that the UI shows it too."""
    return Completed(name="Skipped", message="up to date", data="skipped")


def gpu_need(stage: Stage, at_most: int | None) -> gpus.Need:
    """The slots a stage takes: what dvc.yaml says, or less where a run may have only so many."""
    if at_most is None or stage.gpus == 0:
        return stage.gpus
    return at_most if stage.gpus == "all" else min(stage.gpus, at_most)


def run_plan(plan: Plan, surroundings: Surroundings, processes: Processes) -> dict[str, str]:
    """Run what is outdated, siblings in parallel; returns how each stage ended: ran, cached or skipped.

    A stage that fails stops those that need it and no others; the first failure is raised when everything else has ended.
    However this ends, no process of a stage stays.
    """
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for stage in plan.stages:
            if stage.name not in plan.outdated:
                futures[stage.name] = skip_stage.with_options(name=stage.name, task_run_name=stage.name).submit()
        for stage in plan.stages:
            if stage.name in plan.outdated:
                after = [futures[name] for name in stage.needs if name in plan.outdated]
                named = run_stage.with_options(name=stage.name, task_run_name=stage.name)
                futures[stage.name] = named.submit(stage, surroundings, processes, return_state=False, wait_for=after)
        for future in futures.values():
            future.wait()
    finally:
        processes.stop()
    return outcomes(futures)


def outcomes(futures: Mapping[str, PrefectFuture[Any]]) -> dict[str, str]:
    """How the stages ended. Raises the first stage's own error, rather than that of a stage which only waited for it."""
    failed = [future.result(raise_on_failure=False) for future in futures.values() if future.state.is_failed() or future.state.is_crashed()]
    if failed:
        own = [error for error in failed if isinstance(error, StageError)]
        first: BaseException = (own or failed)[0]
        raise first
    unfinished = [name for name, future in futures.items() if not future.state.is_completed()]
    if unfinished:
        raise RuntimeError(f"stages {', '.join(unfinished)} did not run")
    return {name: KINDS[future.state.name or ""] for name, future in futures.items()}


def summary(found: Mapping[str, str]) -> str:
    """One line for people: how many stages ran, came from the cache, were up to date."""
    return ", ".join(f"{count} {kind}" for kind, count in _counted(list(found.values()))) or "nothing to do"


def _counted(kinds: Sequence[str]) -> list[tuple[str, int]]:
    return [(kind, kinds.count(kind)) for kind in ("ran", "cached", "skipped") if kind in kinds]
