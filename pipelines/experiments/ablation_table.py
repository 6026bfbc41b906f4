"""An ablation's result: the paper's layout with our figures, mean and spread over seeds, beside the paper's; Markdown, JSON and a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import Params
from pipelines.experiments.ablations import Ablation, Variant
from pipelines.experiments.charts import seeds_chart
from pipelines.experiments.page import render, write_text
from pipelines.experiments.running import Planned, Study
from pipelines.plotting import Chart
from pipelines.published import NOT_PRINTED, PAPER
from pipelines.shards.manifest import to_json

FOLDER = Path("ablations")


@dataclass(frozen=True)
class Column:
    """A figure of the table: its name in metrics/*.json, heading, what its value is multiplied by, how it is written, its direction."""

    figure: str
    label: str
    factor: float
    pattern: str
    more_is_better: bool = False


COLUMNS = (
    Column("pa_mpjpe_mm", "MPJPE, cm", 0.1, "{:.3f}"),
    Column("pa_mpvpe_mm", "MPVPE, cm", 0.1, "{:.3f}"),
    Column("error_2d_fraction", "2D error, % of hand", 100.0, "{:.2f}"),
    Column("recall", "recall, %", 100.0, "{:.1f}", more_is_better=True),
)


@dataclass(frozen=True)
class Cell:
    """A figure over seeds: `values` by seed, None where a run is not done; `distinct` from the reference row, None where nobody can say."""

    values: dict[int, float]
    mean: float | None
    std: float | None
    text: str
    distinct: bool | None = None


@dataclass(frozen=True)
class TableRow:
    variant: Variant
    is_reference: bool
    cells: tuple[Cell, ...]
    published: tuple[str, ...]  # in the order of the published table's measures


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """Everything that the files say. `columns`: (evaluation, column); `seconds`: wall time by run, of those that were run and timed."""

    ablation: Ablation
    preset: str
    seeds: tuple[int, ...]
    columns: tuple[tuple[str, Column], ...]
    rows: tuple[TableRow, ...]
    setting: str
    finding: str
    limits: str
    seconds: dict[str, float]
    missing: tuple[str, ...]
    overrides: tuple[str, ...]


def summarise(values: dict[int, float], pattern: str) -> Cell:
    """Mean and sample standard deviation of a figure over seeds; one seed has no spread."""
    if not values:
        return Cell(values, None, None, "–")
    mean = math.fsum(values.values()) / len(values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values.values()) / (len(values) - 1)) if len(values) > 1 else None
    return Cell(values, mean, std, pattern.format(mean) + (f" ± {pattern.format(std)}" if std is not None else ""))


def is_distinct(cell: Cell, other: Cell) -> bool | None:
    """Whether two means differ by more than twice the spread of such a difference over seeds; None without two seeds of each."""
    if cell.mean is None or other.mean is None or cell.std is None or other.std is None:
        return None
    return abs(cell.mean - other.mean) > 2.0 * math.hypot(cell.std, other.std)


def build_table(study: Study) -> AblationTable:
    """Gather the figures of all runs."""
    ablation, seeds, planned, evaluations = study.ablation, study.seeds, study.planned, study.evaluations
    params = next(iter(planned.values())).params
    columns = tuple((name, column) for name in evaluations for column in COLUMNS if _measured(planned, name, column))
    found: dict[str, list[Cell]] = {}
    for variant in ablation.variants:
        cells = []
        for name, column in columns:
            values = {seed: _value(planned[variant.name, seed], name, column) for seed in seeds}
            cells.append(summarise({seed: value for seed, value in values.items() if value is not None}, column.pattern))
        found[variant.name] = cells
    reference = found[ablation.reference]
    rows = []
    for variant in ablation.variants:
        cells = [
            Cell(cell.values, cell.mean, cell.std, cell.text, None if variant.name == ablation.reference else is_distinct(cell, other))
            for cell, other in zip(found[variant.name], reference, strict=True)
        ]
        published = variant.published.values if variant.published else (NOT_PRINTED,) * len(ablation.published.measures)
        rows.append(TableRow(variant, variant.name == ablation.reference, tuple(cells), published))
    return AblationTable(
        ablation=ablation,
        preset=params.preset,
        seeds=seeds,
        columns=columns,
        rows=tuple(rows),
        setting=setting_text(ablation, params, evaluations),
        finding=finding_text(ablation, rows, columns),
        limits=limits_text(ablation),
        seconds=dict(study.seconds),
        missing=tuple(one.run.name for one in planned.values() if one.figures is None),
        overrides=study.overrides,
    )


def _value(planned: Planned, evaluation: str, column: Column) -> float | None:
    value = (planned.figures or {}).get(evaluation, {}).get("ours", {}).get(column.figure)
    return value * column.factor if isinstance(value, int | float) else None


def _measured(planned: dict[tuple[str, int], Planned], evaluation: str, column: Column) -> bool:
    return any(_value(one, evaluation, column) is not None for one in planned.values())


def setting_text(ablation: Ablation, params: Params, evaluations: Sequence[str]) -> str:
    """How much was trained, and what on."""
    stages = []
    for stage in ("crop", "multi") if "multi" in ablation.models else ("crop",):
        section = getattr(params.train, stage)
        parts = ", ".join(part.path for part in section.data.values())
        stages.append(f"{stage}: {section.steps} steps of {section.batch_size} images at {section.input_px} px from {parts}")
    measured = ", ".join(f"{name} (data/{params.evaluate[name].data})" for name in evaluations)
    training = f"Preset {params.preset}. Training: {'; '.join(stages)}."
    return f"{training} Measured on held-out hands: {measured}. MPJPE and MPVPE are after Procrustes alignment."


def finding_text(ablation: Ablation, rows: Sequence[TableRow], columns: Sequence[tuple[str, Column]]) -> str:
    """How many rows the seeds can tell from the reference row, by the first column."""
    judged = [row.cells[0].distinct for row in rows if row.cells and row.cells[0].distinct is not None]
    if not judged:
        return "With fewer than two finished seeds of a row nothing says which differences are chance."
    where, column = columns[0]
    return (
        f"By {column.label.split(',')[0]} of {where}, {sum(judged)} of {len(judged)} rows differ from the row {ablation.reference!r} by "
        f"more than twice the spread over the seeds that are done; the others, marked ≈, cannot be told from it."
    )


def limits_text(ablation: Ablation) -> str:
    """What such a run can say about the paper's claim, and what it cannot."""
    dataset = ablation.published.dataset
    return (
        f"The paper's numbers come from {dataset}'s photographs, a day of training and its server's hidden labels. The figures here come "
        "from the data and the steps named above: their size compares with nothing in the paper. At the scale of the "
        "demo, rendered hands and minutes of training, they show that every row trains, that the switches act, and effects much larger "
        "than the spread between seeds. They do not show which row wins after long training, nor anything about photographs: "
        "regularisation and augmentation act against overfitting, which short training hardly reaches. The spread is over training "
        "seeds only; the data is the same for all."
    )


def as_tree(table: AblationTable) -> dict[str, Any]:
    """The table for programs."""
    ablation, theirs = table.ablation, table.ablation.published
    rows = [
        {
            "variant": row.variant.name,
            "settings": dict(zip(ablation.settings, row.variant.settings, strict=True)),
            "overrides": list(row.variant.overrides),
            "figures": [
                {
                    "evaluation": evaluation,
                    "figure": column.figure,
                    "label": column.label,
                    "mean": cell.mean,
                    "std": cell.std,
                    "by_seed": {str(seed): value for seed, value in cell.values.items()},
                    "distinct_from_reference": cell.distinct,
                }
                for (evaluation, column), cell in zip(table.columns, row.cells, strict=True)
            ],
            "published": dict(zip(ablation.published.measures, row.published, strict=True)),
        }
        for row in table.rows
    ]
    return {
        "ablation": ablation.name,
        "title": ablation.title,
        "preset": table.preset,
        "setting": table.setting,
        "seeds": list(table.seeds),
        "overrides": list(table.overrides),
        "reference": ablation.reference,
        "rows": rows,
        "published": {"paper": PAPER, "where": theirs.source, "dataset": theirs.dataset, "unit": theirs.unit},
        "finding": table.finding,
        "limits": table.limits,
        "notes": ablation.notes,
        "seconds": table.seconds,
        "missing": list(table.missing),
    }


def charts_of(table: AblationTable) -> list[Chart]:
    """The seeds of every variant, for each column."""
    found = []
    for index, (evaluation, column) in enumerate(table.columns):
        rows = [(row.variant.name, list(row.cells[index].values.values())) for row in table.rows]
        arrow = "↑" if column.more_is_better else "↓"
        found.append(seeds_chart(f"{evaluation}-{column.figure}", f"{evaluation}: {column.label} {arrow}", rows))
    return found


def write_table(table: AblationTable, folder: Path = FOLDER) -> list[Path]:
    """NAME.md, NAME.json and NAME.html."""
    name, charts = table.ablation.name, charts_of(table)
    return [
        write_text(folder / f"{name}.md", render("ablation.md", table=table, paper=PAPER, not_printed=NOT_PRINTED)),
        write_text(folder / f"{name}.json", to_json(as_tree(table)).decode()),
        write_text(folder / f"{name}.html", render("ablation.html", table=table, charts=charts, paper=PAPER, not_printed=NOT_PRINTED)),
    ]
