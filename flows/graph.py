"""The stage graph as DVC knows it: which stages there are, what each one reads, which of them are not up to date.

Nothing of it is written down here; tests hold it to what `dvc dag` and `dvc status --json` print.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dvc.repo import Repo

LOCK_WAIT_S = 120.0
LOCK_LOOK_S = 0.3


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: the stages whose outs it reads, its `meta: {gpus: ...}`, and what `dvc status` says has changed.

    unkept: nothing but that its outs, which are there as dvc.lock records them, are missing from DVC's cache.
    """

    name: str
    needs: tuple[str, ...]
    gpus: int | Literal["all"]
    changes: tuple[str, ...]
    unkept: bool = False


Graph = Mapping[str, Stage]  # by name, every stage after those it needs


@contextmanager
def repository(folder: Path) -> Iterator[Repo]:
    """The DVC repository of a folder. ValueError where there is none."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(str(folder))
    except NotDvcRepoError as error:
        raise ValueError(f"{folder}: expected a DVC repository, got: {error}") from None
    try:
        yield repo
    finally:
        repo.close()


def read_graph(folder: Path) -> Graph:
    """Stages of the repository in `folder`, and their state. Waits while another DVC command holds the repository.

    ValueError names what DVC cannot read.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    given_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            with repository(folder) as repo:
                return _read(repo, folder)
        except LockError:
            if time.monotonic() > given_up:
                raise
            time.sleep(LOCK_LOOK_S)
        except DvcException as error:
            causes = "; ".join(dict.fromkeys(str(said) for said in (error, error.__cause__) if said))
            raise ValueError(f"{folder}/dvc.yaml: {causes}") from error


def _read(repo: Repo, folder: Path) -> Graph:
    import networkx

    graph = repo.index.graph
    status = repo.status()
    names = {stage: getattr(stage, "name", None) or Path(stage.path).relative_to(folder.resolve()).as_posix() for stage in graph}
    found = {}
    # an edge leads from a stage to what it needs
    for stage in networkx.lexicographical_topological_sort(graph.reverse(), key=lambda stage: names[stage]):
        # a frozen stage runs whatever became of what it reads
        needs = () if stage.frozen else tuple(sorted(names[needed] for needed in graph.successors(stage)))
        changes = status.get(stage.addressing, [])
        found[names[stage]] = Stage(
            names[stage], needs, _gpus(names[stage], stage.meta), tuple(_describe(change) for change in changes), _unkept(changes)
        )
    return found


def _gpus(name: str, meta: object) -> int | Literal["all"]:
    need = meta.get("gpus", 0) if isinstance(meta, Mapping) else 0
    if need == "all" or (isinstance(need, int) and not isinstance(need, bool) and need >= 0):
        return need
    raise ValueError(f"dvc.yaml: {name}: meta.gpus: expected a number from 0 on, or all, got {need!r}")


def _unkept(changes: Sequence[object]) -> bool:
    states = [change.get("changed outs") if isinstance(change, Mapping) and len(change) == 1 else None for change in changes]
    return bool(states) and all(state and set(state.values()) == {"not in cache"} for state in states)


def _describe(change: object) -> str:
    """One entry of `dvc status`, such as {"changed deps": {"data": "modified"}}, as text."""
    if not isinstance(change, Mapping):
        return str(change)
    parts = []
    for what, entries in change.items():
        listed = ", ".join(f"{path} ({state})" for path, state in entries.items()) if isinstance(entries, Mapping) else str(entries)
        parts.append(f"{what}: {listed}")
    return "; ".join(parts)


def matching(graph: Graph, target: str) -> list[str]:
    """The stages a target means: the one of that name, or all of a foreach stage. ValueError lists what there is."""
    found = [name for name in graph if name == target or name.startswith(f"{target}@")]
    if not found:
        raise ValueError(f"target: expected a stage of dvc.yaml, one of {sorted(graph)}, got {target!r}")
    return found


def dependents(graph: Graph, names: Iterable[str]) -> set[str]:
    """The named stages and every stage that reads their outs, directly or not."""
    found = set(names)
    for name, stage in graph.items():
        if found & set(stage.needs):
            found.add(name)
    return found


def needed(graph: Graph, names: Iterable[str]) -> set[str]:
    """The named stages and every stage whose outs they read, directly or not."""
    found = set(names)
    for name in reversed(list(graph)):
        if name in found:
            found |= set(graph[name].needs)
    return found


@dataclass(frozen=True)
class Plan:
    """What a run does: its stages, every one after those it needs, and which of them may have to run."""

    stages: tuple[Stage, ...]
    outdated: frozenset[str]


def make_plan(graph: Graph, names: Iterable[str]) -> Plan:
    """The run that brings the named stages up to date.

    A stage is outdated when DVC says it changed, or when one before it is: then only running those tells.
    """
    wanted = needed(graph, names)
    outdated = dependents(graph, [name for name in wanted if graph[name].changes]) & wanted
    return Plan(tuple(stage for name, stage in graph.items() if name in wanted), frozenset(outdated))
