"""The evaluation that models are compared on: what dvc.lock records of its stage, and the same measurement of another model."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from flows.processes import Processes, StageError
from flows.running import follow, stage_environment

MODELS, METRICS = "models/", "metrics/"


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation stage: command, the model it measured and that one's hash, its metrics file, what else decided the figures."""

    stage: str
    command: str
    model: str
    model_hash: str
    metrics: str
    outs: tuple[str, ...]
    fingerprint: str


def read_evaluation(folder: Path, name: str) -> Evaluation:
    """Evaluation `name` of a workspace whose dvc.lock records it. ValueError says what is not as expected."""
    stage = f"evaluate@{name}"
    path = folder / "dvc.lock"
    try:
        tree = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; the stage graph has not run yet") from None
    stages = (tree or {}).get("stages", {})
    if stage not in stages:
        raise ValueError(f"{path}: expected stage {stage}, got {sorted(stages)}")
    entry = stages[stage]
    models = [dep for dep in entry["deps"] if dep["path"].startswith(MODELS)]
    metrics = [out["path"] for out in entry["outs"] if out["path"].startswith(METRICS)]
    if len(models) != 1 or len(metrics) != 1:
        raise ValueError(
            f"{path}: {stage}: expected one dep below {MODELS} and one out below {METRICS}, got {len(models)} and {len(metrics)}"
        )
    others = [(dep["path"], dep["md5"]) for dep in entry["deps"] if dep is not models[0]]
    decides = json.dumps([entry["cmd"], sorted(others), entry.get("params", {})], sort_keys=True)
    return Evaluation(
        stage=stage,
        command=entry["cmd"],
        model=models[0]["path"],
        model_hash=models[0]["md5"],
        metrics=metrics[0],
        outs=tuple(out["path"] for out in entry["outs"]),
        fingerprint=hashlib.sha256(decides.encode()).hexdigest(),
    )


def read_ours(path: Path) -> dict[str, float]:
    """Our figures in a metrics file."""
    try:
        return json.loads(path.read_text())["ours"]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected JSON with `ours`, got {error!r}") from None


def measure(
    folder: Path,
    evaluation: Evaluation,
    model: Path,
    processes: Processes,
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
) -> dict[str, float]:
    """Figures of another model on a workspace's evaluation: the stage's command where everything but the model is the workspace's.

    environment, keep_open: as of `reproduce`. StageError where the model cannot be measured by this code.
    """
    place = folder / ".dvc/tmp"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob("measure-*"):  # by a run that was killed: the workspace is this one's alone
        shutil.rmtree(left)
    scratch = Path(tempfile.mkdtemp(prefix="measure-", dir=place))
    try:
        own = {Path(path).parts[0] for path in (evaluation.model, *evaluation.outs)}
        for entry in folder.iterdir():
            if entry.name not in own and not entry.name.startswith("."):
                (scratch / entry.name).symlink_to(entry)
        target = scratch / evaluation.model
        target.parent.mkdir(parents=True)
        target.symlink_to(model.resolve())
        variables = stage_environment(folder, environment or {})
        tail, code = follow(["sh", "-c", evaluation.command], scratch, processes, say, variables, keep_open)
        if code != 0:
            raise StageError(f"{evaluation.stage} of {model}", code, list(tail), stopped=processes.stopping)
        return read_ours(scratch / evaluation.metrics)
    finally:
        shutil.rmtree(scratch)
