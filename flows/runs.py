"""One run of the graph: a workspace, its plan, the stages that are outdated, what came out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect.logging import get_run_logger

from flows import remote_data
from flows.artifacts import Figures, read_figures, show_figures, show_overlays, show_report
from flows.dask_cluster import dask_cluster
from flows.graph import Graph, Plan, dependents, make_plan, matching, read_graph
from flows.naming import experiment_name, name_of_overrides
from flows.processes import Processes, StageError
from flows.running import keep
from flows.stages import Surroundings, run_plan, summary
from flows.workspaces import Workspace, save_experiment, set_params, workspace

MAIN_STAGE = "train_multi"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run: a target (None: train_multi and all that hangs on it), params that differ, the name it is recorded under.

    queue: wait for a workspace that another run holds, instead of ending at once.
    max_gpus: GPUs that one stage may take; None: what dvc.yaml says.
    credentials: variables of the DVC remote. dask_workers: of a Dask cluster that is started for the run; None: none is.
    """

    target: str | None = None
    overrides: Sequence[str] = ()
    experiment: str | None = None
    queue: bool = True
    max_gpus: int | None = None
    credentials: Mapping[str, str] | None = field(default=None, repr=False)
    dask_workers: int | None = None

    def __post_init__(self) -> None:
        if self.max_gpus is not None and self.max_gpus < 1:
            raise ValueError(f"max_gpus: expected a number from 1 on, got {self.max_gpus}")

    @property
    def name(self) -> str | None:
        """The workspace: None is the project's own folder, which a run with neither params nor name of its own works in."""
        if self.experiment:
            return experiment_name(self.experiment)
        return name_of_overrides(self.overrides) if self.overrides else None


@contextmanager
def opened(project: Path, request: Request) -> Iterator[Workspace]:
    """The request's workspace with its params set."""
    with workspace(project, request.name, wait=request.queue, say=get_run_logger().info) as space:
        if request.overrides:
            set_params(space.folder, request.overrides)
        yield space


def targets(graph: Graph, target: str | None) -> Iterable[str]:
    """The stages that a target stands for. ValueError for one there is none of."""
    return matching(graph, target) if target is not None else dependents(graph, matching(graph, MAIN_STAGE))


def reproduce_in(space: Workspace, request: Request, wanted: Callable[[Graph], Iterable[str]]) -> dict[str, str]:
    """Bring the wanted stages up to date; how each one ended. What a remote has is fetched before and sent after, if one is set."""
    say = get_run_logger().info
    graph = read_graph(space.folder)
    plan = make_plan(graph, wanted(graph))
    names = [stage.name for stage in plan.stages]
    if unkept := [stage.name for stage in plan.stages if stage.unkept]:
        _keep(space, unkept)
        graph = read_graph(space.folder)
        plan = make_plan(graph, wanted(graph))
    remote = None
    if plan.outdated or remote_data.owes(space.folder):
        pulled = remote_data.pull(space.folder, names, credentials=request.credentials, keep_open=(space.lock,))
        say(pulled.message)
        remote = pulled.remote
        if pulled.num_files:
            graph = read_graph(space.folder)
            plan = make_plan(graph, wanted(graph))
    say(_announced(plan))
    with dask_cluster(request.dask_workers if plan.outdated else None, say) as environment:
        if request.max_gpus is not None:
            environment["HANDNET_DEVICES"] = str(request.max_gpus)
        surroundings = Surroundings(space.folder, environment, (space.lock,), request.max_gpus, remote, request.credentials)
        try:
            found = run_plan(plan, surroundings, Processes())
        except StageError:
            try:  # what was made before it is not made again, here or elsewhere
                _send(remote, space, names, request)
            except remote_data.RemoteError as error:
                get_run_logger().warning("not sent either: %s", error)
            raise
    _send(remote, space, names, request)
    say(summary(found))
    return found


def _keep(space: Workspace, names: Sequence[str]) -> None:
    """Put what stages made while the disk was full into DVC's cache, instead of making it again."""
    logger = get_run_logger()
    processes = Processes()
    try:
        for name in names:
            logger.info("%s: its outs are there, but not in DVC's cache: they are put there", name)
            keep(name, space.folder, processes=processes, say=logger.info, keep_open=(space.lock,))
    finally:
        processes.stop()


def _send(remote: str | None, space: Workspace, names: Sequence[str], request: Request) -> None:
    if remote is not None:
        pushed = remote_data.push(space.folder, names, credentials=request.credentials, keep_open=(space.lock,))
        get_run_logger().info("%s", pushed.message)


def _announced(plan: Plan) -> str:
    names = [stage.name for stage in plan.stages if stage.name in plan.outdated]
    return f"{len(plan.stages)} stages, outdated: {', '.join(names) or 'none'}"


def run_request(project: Path, request: Request) -> dict[str, str]:
    """Run a request inside a flow, show its artifacts, record it as a DVC experiment if it has a name; how each stage ended."""
    with opened(project, request) as space:
        former = read_figures(project)  # those of the run it waited for, if it did
        found = reproduce_in(space, request, lambda graph: targets(graph, request.target))
        name = space.name or "the project's state"
        if any(kind != "skipped" for kind in found.values()):
            show(name, space.folder, former)
        if space.name is not None:
            save_experiment(project, space, space.name, summary(found))
            get_run_logger().info("recorded as DVC experiment %s; its files are in %s", space.name, space.folder)
    return found


def show(name: str, folder: Path, former: Figures) -> None:
    """The artifacts of a run that did something."""
    show_figures(name, read_figures(folder), former)
    show_overlays(name, folder)
    show_report(name, folder)
