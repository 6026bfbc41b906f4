"""One run of the pipeline as DVC keeps it: params, figures and curves of a commit, branch, tag, experiment or the workspace.

Everything is read through DVC's file system at that revision, from its cache or remote, so that nothing has to be checked out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import RevError, SCMError
from dvc_data.index import DataIndexError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from handnet.json_object import parse_object
from pipelines.config import PARAMS_FILE
from pipelines.reporting.inputs import PCK_FILES, TRAINING_STAGES, Columns, read_columns, read_curve

WORKSPACE = "workspace"
LOGGED = ("train", "validation")  # the groups of a stage's curves
_DVC_ERRORS = (DvcException, DataIndexError, OSError)


@dataclass(kw_only=True)
class RunRecord:
    """What one revision holds. `curves` by (stage, "train" | "validation", name), `pck` by (evaluation, file).

    missing: what it should hold and does not, or what cannot be fetched, for people.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)  # by dotted name
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # by evaluation, as in metrics/*.json
    curves: dict[tuple[str, str, str], Columns] = field(default_factory=dict)
    pck: dict[tuple[str, str], tuple[str, Columns]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def open_revision(name: str) -> DVCFileSystem:
    """DVC's file system at a revision. ValueError for a name that is none, or outside a DVC repository with commits."""
    try:
        fs = DVCFileSystem(".", rev=None if name == WORKSPACE else name)
        fs.repo.root_dir  # noqa: B018  what is wrong shows here, not at the first file
    except RevError:
        known = "a commit, branch, tag or experiment (`git log`, `git branch`, `dvc exp list`)"
        raise ValueError(f"{name}: expected {WORKSPACE}, or {known}, got no such name") from None
    except (DvcException, SCMError) as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from None
    return fs


def experiment_names() -> list[str]:
    """The experiments that were run on the current commit, oldest first. ValueError outside a DVC repository with commits."""
    try:
        with Repo(".") as repo:
            return [name for found in repo.experiments.ls().values() for name, _ in found if name]
    except (DvcException, SCMError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def queued_names() -> set[str]:
    """The experiments that wait or run in DVC's queue. ValueError outside a DVC repository with commits."""
    try:
        with Repo(".") as repo:
            queue = repo.experiments.celery_queue
            return {entry.name for entries in (queue.iter_queued(), queue.iter_active()) for entry in entries if entry.name}
    except (DvcException, SCMError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_params(fs: DVCFileSystem) -> dict[str, Any]:
    """params.yaml of a revision as a tree; nothing where there is none. ValueError if it is no YAML."""
    path = PARAMS_FILE.as_posix()
    if not fs.exists(path):
        return {}
    try:
        with fs.open(path, mode="r") as file:
            tree = YAML(typ="safe").load(file)
    except YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return tree if isinstance(tree, dict) else {}


def read_metrics(fs: DVCFileSystem) -> dict[str, dict[str, Any]]:
    """The metrics files of a revision, by evaluation. ValueError names one that is not a JSON object."""
    found = {}
    for path in sorted(fs.glob("metrics/*.json")):
        with fs.open(path, mode="r") as file:
            found[Path(path).stem] = parse_object(file.read(), path)
    return found


def read_run(name: str, fs: DVCFileSystem) -> RunRecord:
    """Everything of one opened revision. ValueError for a damaged file; what is merely missing is listed in the record."""
    run = RunRecord(name=name)
    try:
        run.params, run.metrics = dict(flatten(read_params(fs))), read_metrics(fs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not run.params:
        run.missing.append(PARAMS_FILE.as_posix())
    if not run.metrics:
        run.missing.append("metrics")
    with tempfile.TemporaryDirectory() as scratch:
        for stage in TRAINING_STAGES:
            for group in LOGGED:
                folder = f"logs/{stage}/plots/metrics/{group}"
                for path in _fetch(fs, run, folder, Path(scratch), ".tsv"):
                    columns = _read(run, folder, path)
                    if columns is not None:
                        run.curves[stage, group, path.stem] = {"step": columns["step"], "value": columns[path.stem]}
        for evaluation in run.metrics:
            folder = f"results/{evaluation}"
            for path in _fetch(fs, run, folder, Path(scratch), PCK_FILES):
                try:
                    run.pck[evaluation, path.name] = read_curve(path)
                except ValueError as error:
                    run.missing.append(_damaged(folder, path, error))
    return run


def _fetch(fs: DVCFileSystem, run: RunRecord, folder: str, scratch: Path, ends: str | tuple[str, ...]) -> list[Path]:
    """Copy the wanted files of a folder; note it as missing when there are none or they cannot be had."""
    target = scratch / folder
    try:
        paths = sorted(path for path in fs.find(folder) if path.endswith(ends)) if fs.exists(folder) else []
        target.mkdir(parents=True)
        for path in paths:
            fs.get_file(path, str(target / Path(path).name))
    except _DVC_ERRORS:
        run.missing.append(f"{folder} (its files are in neither DVC's cache nor the remote: `dvc fetch` or run it again)")
        return []
    if not paths:
        run.missing.append(folder)
    return [target / Path(path).name for path in paths]


def _read(run: RunRecord, folder: str, path: Path) -> Columns | None:
    """A curve's columns, or None and a note: one that is damaged keeps none of the others from being shown."""
    try:
        columns = read_columns(path, delimiter="\t")
    except ValueError as error:
        run.missing.append(_damaged(folder, path, error))
        return None
    if not {"step", path.stem} <= set(columns):
        run.missing.append(f"{folder}/{path.name} (expected columns step and {path.stem}, got {', '.join(columns)})")
        return None
    return columns


def _damaged(folder: str, path: Path, error: ValueError) -> str:
    return f"{folder}/{path.name} ({str(error).removeprefix(f'{path}: ')})"


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries by dotted name; a list is one leaf."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
