"""What differs between runs: params side by side, and the headline figures with their change from the first run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipelines.experiments.runs import RunRecord
from pipelines.summary import ROWS, Row, Verdict

ABSENT = "–"


@dataclass(frozen=True)
class ParamRow:
    """A param that is not the same in all runs, as text; ABSENT where a run has none."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class MetricCell:
    """A figure of one run, its change from the first run's, and its 95 % interval, as text; empty where there is none."""

    value: str
    change: str
    verdict: Verdict | Literal[""]
    interval: str


@dataclass(frozen=True)
class MetricRow:
    """One headline figure of one evaluation."""

    evaluation: str
    label: str
    more_is_better: bool
    cells: tuple[MetricCell, ...]

    @property
    def arrow(self) -> str:
        return "↑" if self.more_is_better else "↓"


def changed_params(runs: Sequence[RunRecord]) -> list[ParamRow]:
    """Params that differ between runs, in the order in which params.yaml has them."""
    names = dict.fromkeys(name for run in runs if run.params for name in run.params)
    rows = [ParamRow(name, tuple(_text(run.params[name]) if name in run.params else ABSENT for run in runs)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def metric_rows(runs: Sequence[RunRecord]) -> list[MetricRow]:
    """Headline figures of every evaluation that any run has; changes are from the first run."""
    evaluations = dict.fromkeys(name for run in runs for name in run.metrics)
    found = []
    for evaluation in evaluations:
        for row in ROWS:
            cells = tuple(_cell(row, run, runs[0], evaluation) for run in runs)
            if any(cell.value for cell in cells):
                found.append(MetricRow(evaluation, row.label, row.more_is_better, cells))
    return found


def figure(run: RunRecord, evaluation: str, name: str) -> float | None:
    """One of our figures, None where it was not measured."""
    value = run.metrics.get(evaluation, {}).get("ours", {}).get(name)
    return float(value) if isinstance(value, int | float) else None


def _cell(row: Row, run: RunRecord, first: RunRecord, evaluation: str) -> MetricCell:
    value, before = figure(run, evaluation, row.name), figure(first, evaluation, row.name)
    if value is None:
        return MetricCell("", "", "", "")
    limits = run.metrics[evaluation].get("ours_ci95", {}).get(row.name)
    interval = f"{row.pattern.format(limits[0])} to {row.pattern.format(limits[1])}" if limits else ""
    if before is None or run is first:
        return MetricCell(row.pattern.format(value), "", "", interval)
    verdict = row.verdict(value, before)
    change = "=" if verdict == "equal" else f"{'+' if value > before else '−'}{row.pattern.format(abs(value - before))}"
    return MetricCell(row.pattern.format(value), change, verdict, interval)


_COLORS = {"better": "green", "worse": "red", "equal": "dim", "": ""}


def print_comparison(runs: Sequence[RunRecord], console: Console | None = None) -> None:
    """Both tables, and what is missing, for people."""
    console = Console() if console is None else console
    params, metrics = changed_params(runs), metric_rows(runs)
    if params:
        table = _table("Params that differ", runs)
        for row in params:
            table.add_row(escape(row.name), *(escape(value) for value in row.values))
        console.print(table)
    else:
        console.print("No param differs.")
    table = _table(f"Figures on held-out data; changes are from {escape(runs[0].name)}, green is better", runs)
    for line in metrics:
        cells = [Text(cell.value or ABSENT) + Text(f" {cell.change}" if cell.change else "", _COLORS[cell.verdict]) for cell in line.cells]
        table.add_row(f"{escape(line.evaluation)}: {line.label} {line.arrow}", *cells)
    console.print(table if metrics else "No run has figures: `dvc repro` makes them.")
    for run in runs:
        for what in run.missing:
            console.print(f"missing in {run.name}: {what}", markup=False, highlight=False, soft_wrap=True)


def _table(title: str, runs: Sequence[RunRecord]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("")
    for run in runs:
        table.add_column(escape(run.name), justify="right", overflow="fold")
    return table
