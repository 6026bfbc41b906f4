"""Flow retrain: train on what is new, compare with the promoted model on the same evaluation, promote the better one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows import gpus
from flows.artifacts import read_figures
from flows.credentials import from_block
from flows.evaluations import Evaluation, measure, read_evaluation, read_ours
from flows.graph import read_graph
from flows.naming import artifact_key
from flows.processes import Processes
from flows.promotion import CURRENT, STORE, Rule, Verdict, exclusive, judge, promote, read_record
from flows.runs import Request, opened, reproduce_in, show, targets
from flows.stages import summary
from flows.workspaces import Workspace, git, save_experiment

WORKSPACE = "retrain"


@task(name="promoted model on this evaluation", cache_policy=NO_CACHE, persist_result=False)
def measure_promoted(space: Workspace, evaluation: Evaluation, store: Path) -> dict[str, float]:
    """Figures of the promoted model on the candidate's data, by the candidate's code, on as many GPUs as the stage takes."""
    processes, say = Processes(), get_run_logger().info
    try:
        with gpus.reserved(read_graph(space.folder)[evaluation.stage].gpus) as devices:
            return measure(space.folder, evaluation, store / CURRENT, processes, say, devices, (space.lock,))
    finally:
        processes.stop()


def compare(space: Workspace, store: Path, evaluation: Evaluation, rule: Rule, candidate: dict[str, float]) -> Verdict:
    """Judge a candidate by its figures and the promoted model's, which are measured again where they are of another evaluation."""
    record = read_record(store)
    if record is not None and record["model_hash"] == evaluation.model_hash:
        return Verdict(False, "it is the promoted model itself")
    promoted = None
    if record is not None and record["fingerprint"] == evaluation.fingerprint:
        promoted = record["figures"]
    elif record is not None:
        get_run_logger().info("data, code or params of the evaluation are others than when the model was promoted: it is measured again")
        promoted = measure_promoted(space, evaluation, store)
    return judge(rule, candidate, promoted)


@task(name="compare and promote", cache_policy=NO_CACHE, persist_result=False)
def compare_and_promote(space: Workspace, project: Path, evaluation: Evaluation, rule: Rule, experiment: str) -> Verdict:
    """Judge a workspace's model, save the run as an experiment, and promote the model if the rule says so."""
    store = project / STORE
    with exclusive(store):
        candidate = read_ours(space.folder / evaluation.metrics)
        verdict = compare(space, store, evaluation, rule, candidate)
        # before the promotion, whose record names the experiment: a run killed in between promotes when it is started again
        save_experiment(project, space, experiment, verdict.reason)
        if verdict.promote:
            entry = {
                "model_hash": evaluation.model_hash,
                "evaluation": evaluation.stage,
                "fingerprint": evaluation.fingerprint,
                "figures": candidate,
                "reason": verdict.reason,
                "experiment": experiment,
                "commit": git(space.folder, "rev-parse", "HEAD").strip(),
            }
            get_run_logger().info(f"promoted: {promote(store, space.folder / evaluation.model, entry)}")
    return verdict


@flow(name="retrain", persist_result=False)
def retrain(
    evaluation: str = "multi",
    figure: str = "error_2d_fraction",
    margin: float = 0.01,
    guards: list[str] | None = None,
    overrides: list[str] | None = None,
    queue: bool = True,
    credentials: str | None = None,
    dask_workers: int | None = None,
) -> State[Any]:
    """Bring the graph up to date in a workspace of its own and promote its model to promoted/current if it is better.

    evaluation: the evaluation whose model and figures are compared. figure: what must be better by the share `margin` of the
    promoted model's value. guards: figures that must not be worse by more than that; none: recall.
    overrides, queue, credentials, dask_workers: as in train-multi.
    """
    rule = Rule(figure=figure, margin=margin, guards=tuple(["recall"] if guards is None else guards))
    project = Path.cwd()
    request = Request(
        experiment=WORKSPACE,
        overrides=tuple(overrides or ()),
        queue=queue,
        credentials=from_block(credentials),
        dask_workers=dask_workers,
    )
    experiment = f"{WORKSPACE}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with opened(project, request) as space:
        former = read_figures(project)
        found = reproduce_in(space, request, lambda graph: targets(graph, None))
        show(experiment, space.folder, former)
        verdict = compare_and_promote(space, project, read_evaluation(space.folder, evaluation), rule, experiment)
    decision = "promoted" if verdict.promote else "kept the promoted model"
    text = f"## {experiment}: {decision}\n\n{verdict.reason}\n\nStages: {summary(found)}. Promoted model: `{STORE / CURRENT}`."
    create_markdown_artifact(text, key=artifact_key("promotion"), description=f"{experiment}: {decision}")
    return Completed(message=f"{decision}: {verdict.reason}", data={"promoted": verdict.promote, "reason": verdict.reason})
