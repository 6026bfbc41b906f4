"""Runs of an ablation as DVC experiments: which are there, and running or queueing the others.

Each runs in a workspace of DVC's own (`dvc exp run --temp`, `--queue`), so that nothing in this one changes; stages that an earlier run
has done come out of the run cache, and checkpoints lie in this one, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from ruamel.yaml import YAML

from pipelines.config import PARAMS_FILE, Params, ParamsError, load_params, parse_params
from pipelines.experiments.ablations import Ablation, Run
from pipelines.experiments.runs import experiment_names, open_revision, read_metrics, read_params
from pipelines.training.settings import CHECKPOINTS_VARIABLE, checkpoint_root

_SECTIONS = ("ingest", "compose", "train", "evaluate")  # what the figures of an evaluation hang on
_STOP_WITHIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run with the params it will have, and its figures if it is done: by evaluation, as in metrics/*.json."""

    run: Run
    params: Params
    tree: dict[str, Any]
    figures: dict[str, dict[str, Any]] | None


@dataclass(frozen=True, kw_only=True)
class Study:
    """An ablation as it stands: its runs by (variant, seed), and the wall time of those that were timed, by name; both grow with the runs.

    overrides: the user's own, which all runs have beside the variant's.
    """

    ablation: Ablation
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    evaluations: tuple[str, ...]
    planned: dict[tuple[str, int], Planned]
    seconds: dict[str, float]

    def todo(self) -> dict[tuple[str, int], Planned]:
        """The runs that are not done, in their order."""
        return {key: one for key, one in self.planned.items() if one.figures is None}

    def done(self, key: tuple[str, int], seconds: float) -> None:
        """Take in the figures of a run that has just ended."""
        one = self.planned[key]
        self.planned[key] = replace(one, figures=finished(one.run.name, one.tree, self.evaluations))
        self.seconds[one.run.name] = round(seconds, 1)


def resolved(overrides: Sequence[str], path: Path = PARAMS_FILE) -> tuple[Params, dict[str, Any]]:
    """params.yaml with overrides, as DVC applies them: validated, and as a tree. ParamsError names what is wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        try:
            shutil.copy(path, copy)
        except FileNotFoundError:
            load_params(path)  # says it in its own words
            raise
        try:
            apply_overrides(copy, list(overrides))
        except (HydraException, OmegaConfBaseException, DvcException) as error:
            told = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
            raise ParamsError(f"overrides: {' '.join(told.split())}") from None
        tree = YAML(typ="safe").load(copy)
    return parse_params(tree, f"{path} with overrides"), tree


def evaluations_of(ablation: Ablation, params: Params) -> list[str]:
    """The evaluations that belong to an ablation, in the order of params.yaml. ValueError if there is none."""
    found = [name for name, config in params.evaluate.items() if config.model in ablation.models]
    if not found:
        raise ValueError(f"evaluate: expected an evaluation of model {' or '.join(ablation.models)}, got none")
    return found


def plan(runs: Sequence[Run], evaluations: Sequence[str], path: Path = PARAMS_FILE) -> list[Planned]:
    """Every run with its params, and its figures where it is done on the current commit.

    ParamsError for overrides that do not fit; ValueError for two runs with the same params, or an experiment of that name with others.
    """
    names = set(experiment_names())
    planned: list[Planned] = []
    for run in runs:
        params, tree = resolved(run.overrides, path)
        twin = next((other for other in planned if other.tree == tree), None)
        if twin is not None:
            raise ValueError(f"{run.name}: expected other params than {twin.run.name}'s, got the same, so nothing to compare")
        figures = finished(run.name, tree, evaluations) if run.name in names else None
        planned.append(Planned(run=run, params=params, tree=tree, figures=figures))
    return planned


def finished(name: str, tree: Mapping[str, Any], evaluations: Sequence[str]) -> dict[str, dict[str, Any]] | None:
    """The figures of an experiment; None where it did not come to all its evaluations. ValueError if it had other params."""
    files = open_revision(name)
    had = read_params(files)
    for section in _SECTIONS:
        if had.get(section) != tree.get(section):
            raise ValueError(
                f"experiment {name}: expected the params that this run would have, got others in {section}; "
                f"`dvc exp remove {name}` makes room, `dvc exp rename {name} NEW` keeps it"
            )
    figures = read_metrics(files)
    return {name: figures[name] for name in evaluations} if set(evaluations) <= set(figures) else None


def environment() -> dict[str, str]:
    """What the stages of another folder need of this one: its python first, MANO's files where they are."""
    found = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found.get('PATH', '')}"
    mano = Path(found.get("HANDNET_MANO", "mano"))
    if mano.exists():
        found["HANDNET_MANO"] = str(mano.absolute())
    return found


def run_experiment(run: Run, evaluations: Sequence[str], *, queue: bool = False) -> float:
    """Run it, or only queue it; seconds taken. RuntimeError if DVC fails; Ctrl-C waits until DVC has put things in order."""
    where = "--queue" if queue else "--temp"
    overrides = [part for override in run.overrides for part in ("--set-param", override)]
    targets = [f"evaluate@{name}" for name in evaluations]
    # a folder of the run's own: DVC removes the one it works in, and two commands may run the same params
    checkpoints = checkpoint_root().absolute() / run.name
    variables = environment() if queue else {**environment(), CHECKPOINTS_VARIABLE: str(checkpoints)}
    started = time.monotonic()
    command = [sys.executable, "-m", "dvc", "exp", "run", where, "--name", run.name, *overrides, *targets]
    process = subprocess.Popen(command, env=variables, process_group=0)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        _settle(process)
        raise
    if code:
        raise RuntimeError(f"{run.name}: dvc exp run ended with exit code {code}")
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):  # batches kept because they were not finite stay
        checkpoints.rmdir()
    return time.monotonic() - started


def _settle(process: subprocess.Popen[bytes]) -> None:
    """Pass Ctrl-C on to DVC and its stage, and wait for them; a second one, or too long a wait, ends them."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(_STOP_WITHIN_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
