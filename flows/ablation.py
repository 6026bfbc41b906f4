"""Flow ablation: the runs of an ablation side by side, each in a workspace of its own and on one GPU."""

from __future__ import annotations

from typing import Any

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.processes import stop_every_stage
from flows.train_multi import train_multi
from pipelines.experiments.ablations import ABLATIONS


@task(name="experiment", cache_policy=NO_CACHE, persist_result=False)
def run_experiment(name: str, overrides: list[str], target: str | None) -> State[Any]:
    """One run as a flow of its own, on one GPU."""
    return train_multi.with_options(flow_run_name=name)(target=target, overrides=overrides, experiment=name, max_gpus=1)


@flow(name="ablation", persist_result=False)
def ablation(names: list[str] | None = None, seeds: list[int] | None = None, target: str | None = None) -> State[Any]:
    """Run ablations of pipelines.experiments.ablations; each run is recorded as a DVC experiment.

    names: which of them; none: all. seeds: every run once for each; none: 0. target: as in train-multi.
    How many run at a time follows from the GPU slots and HANDNET_STAGE_JOBS.
    """
    wrong = sorted(set(names or ()) - set(ABLATIONS))
    if wrong:
        raise ValueError(f"names: expected some of {sorted(ABLATIONS)}, got {wrong}")
    runs = {run.name: run for name in names or list(ABLATIONS) for run in ABLATIONS[name].runs(seeds or [0])}
    try:
        futures = {
            name: run_experiment.with_options(task_run_name=name).submit(name, list(run.overrides), target) for name, run in runs.items()
        }
        for future in futures.values():
            future.wait()
    finally:
        stop_every_stage()
    failed = [name for name, future in futures.items() if not future.state.is_completed()]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same command goes on with them")
    return Completed(message=f"{len(runs)} runs; `dvc exp show` has them side by side")
