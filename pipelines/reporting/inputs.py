"""The files of the other stages that the report needs, and their reading.

A missing one is a ValueError that names the stage which makes it, a damaged one a ValueError that names the file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from handnet.json_object import parse_object
from handnet.network.files import DESCRIPTION_NAME, WEIGHTS_NAME
from pipelines.config import EvaluationConfig
from pipelines.reporting.stages import Stage, require
from pipelines.shards.manifest import MANIFEST
from pipelines.summary import METRICS

LOGS, RESULTS, SUBMISSIONS, MODELS, DATA = Path("logs"), Path("results"), Path("submissions"), Path("models"), Path("data")
TRAINING_CURVES, VALIDATION_CURVES = Path("plots/metrics/train"), Path("plots/metrics/validation")
SPEED = RESULTS / "speed.json"
PACKAGE, META = "pred.zip", "meta.json"
HANDS, STRATA, PCK_FILES = "hands.parquet", "strata.json", ("pck.csv", "pck_vertices.csv", "pck_2d.csv")
TRAINING_STAGES = ("crop", "multi")
HAND_COLUMNS = ("key", "hand", "labelled", "found", "error_2d_fraction", "pa_mpjpe_mm", "mean_hand_error_2d_fraction")

Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One package for a server and what meta.json says of it."""

    name: str
    path: Path
    num_bytes: int
    meta: dict[str, Any]

    @property
    def meta_path(self) -> Path:
        return self.path.with_name(META)

    @property
    def summary(self) -> str:
        """The layout and how many samples it holds, as far as meta.json says so, to follow the package's name in a sentence."""
        parts = [f"layout {self.meta['layout']}"] if "layout" in self.meta else []
        num, wanted = self.meta.get("num_samples"), self.meta.get("num_samples_server")
        if isinstance(num, int):
            parts.append(
                f"{num:,} samples" + (f" of the {wanted:,} that its server wants" if isinstance(wanted, int) and wanted != num else "")
            )
        return "".join(f", {part}" for part in parts)


def check_inputs(evaluate: Mapping[str, EvaluationConfig], submit: Iterable[str], stages: Sequence[Stage]) -> None:
    """ValueError for the first file, in the order of the stages, that is not there."""
    for config in evaluate.values():
        require(DATA / config.data / MANIFEST, stages)
    for stage in TRAINING_STAGES:
        for path in (MODELS / stage / DESCRIPTION_NAME, MODELS / stage / WEIGHTS_NAME, LOGS / stage / TRAINING_CURVES / "loss.tsv"):
            require(path, stages)
    for name in evaluate:
        require(METRICS / f"{name}.json", stages)
        for file in (HANDS, STRATA, *PCK_FILES):
            require(RESULTS / name / file, stages)
    for name in submit:
        for file in (PACKAGE, META):
            require(SUBMISSIONS / name / file, stages)
    require(SPEED, stages)


def read_columns(path: Path, delimiter: str = ",") -> Columns:
    """A table of numbers with a header, column by column."""
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"{path}: expected a header and rows of the same length, got {len(rows)} rows")
    try:
        values = np.array(rows[1:], np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers below the header: {error}") from None
    return dict(zip(rows[0], values.T, strict=True))


def read_curve(path: Path) -> tuple[str, Columns]:
    """A PCK curve as (name of its threshold column, columns ours and mean_hand and the thresholds)."""
    columns = read_columns(path)
    thresholds = [name for name in columns if name.startswith("threshold")]
    if len(thresholds) != 1 or not {"ours", "mean_hand"} <= set(columns):
        raise ValueError(f"{path}: expected columns threshold_..., ours, mean_hand, got {list(columns)}")
    return thresholds[0], columns


def read_training(stage: str) -> dict[str, Columns]:
    """Every logged term of a training stage, {name: {"step": ..., "value": ...}}, the loss first and the learning rate last."""
    paths = (LOGS / stage / TRAINING_CURVES).glob("*.tsv")
    return _read_logged(sorted(paths, key=lambda path: ({"loss": 0, "lr": 2}.get(path.stem, 1), path.stem)))


def read_validation(stage: str) -> dict[str, Columns]:
    """The figures of a stage's validations in the same form; nothing if it had none."""
    return _read_logged(sorted((LOGS / stage / VALIDATION_CURVES).glob("*.tsv")))


def _read_logged(paths: Iterable[Path]) -> dict[str, Columns]:
    found = {}
    for path in paths:
        columns = read_columns(path, delimiter="\t")
        if "step" not in columns or path.stem not in columns:
            raise ValueError(f"{path}: expected columns step and {path.stem}, got {list(columns)}")
        found[path.stem] = {"step": columns["step"], "value": columns[path.stem]}
    return found


def read_hands(name: str) -> dict[str, NDArray]:
    """The labelled hands of the evaluation's table: the columns the report needs."""
    path = RESULTS / name / HANDS
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file: {error}") from None
    missing = [column for column in HAND_COLUMNS if column not in table.column_names]
    if missing:
        raise ValueError(f"{path}: expected columns {list(HAND_COLUMNS)}, {missing} missing")
    columns = {column: table.column(column).to_numpy() for column in HAND_COLUMNS}
    return {name: values[columns["labelled"]] for name, values in columns.items()}


def read_submission(name: str) -> Submission:
    """A package's size, and meta.json beside it."""
    path = SUBMISSIONS / name / PACKAGE
    meta_path = path.with_name(META)
    return Submission(name=name, path=path, num_bytes=path.stat().st_size, meta=parse_object(meta_path.read_bytes(), meta_path))
