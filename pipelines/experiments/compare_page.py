"""The page of a comparison: params and figures as tables, all runs' training, validation and PCK curves on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.experiments.charts import curves_chart, pck_chart, run_style
from pipelines.experiments.comparing import ABSENT, MetricRow, ParamRow, changed_params, metric_rows
from pipelines.experiments.page import render, write_text
from pipelines.experiments.runs import RunRecord
from pipelines.plotting import MEAN_HAND, OURS, Chart

PAGE = Path("comparisons/index.html")
_VARIABLES = {OURS: "var(--ours)", MEAN_HAND: "var(--mean)"}
_PCK_TITLES = {
    "pck.csv": "3D PCK of joints, after Procrustes alignment",
    "pck_vertices.csv": "3D PCK of vertices, after Procrustes alignment",
    "pck_2d.csv": "2D PCK",
}


@dataclass(frozen=True, kw_only=True)
class StageCurves:
    """A training stage's charts: the total loss and the validation's figures first, its terms behind a fold."""

    name: str
    main: tuple[Chart, ...]
    terms: tuple[Chart, ...]


@dataclass(frozen=True, kw_only=True)
class Key:
    """How a run is drawn."""

    name: str
    color: str
    dashes: str


def write_page(runs: Sequence[RunRecord], path: Path = PAGE) -> Path:
    """Draw and write the page; returns its path."""
    params: list[ParamRow] = changed_params(runs)
    metrics: list[MetricRow] = metric_rows(runs)
    text = render(
        "compare.html",
        runs=runs,
        keys=[_key(index, run.name) for index, run in enumerate(runs)],
        params=params,
        metrics=metrics,
        stages=stage_curves(runs),
        pck=pck_curves(runs),
        absent=ABSENT,
    )
    return write_text(path, text)


def _key(index: int, name: str) -> Key:
    color, dashes = run_style(index)
    style = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "double"}[dashes]
    return Key(name=name, color=_VARIABLES.get(color, color), dashes=style)


def stage_curves(runs: Sequence[RunRecord]) -> list[StageCurves]:
    """Charts of every stage that a run has curves of."""
    names = [run.name for run in runs]
    keys = sorted({key for run in runs for key in run.curves}, key=lambda key: (key[0], key[1], key[2] != "loss", key[2]))
    found: dict[str, tuple[list[Chart], list[Chart]]] = {}
    for stage, group, value in keys:
        curves = {index: run.curves[stage, group, value] for index, run in enumerate(runs) if (stage, group, value) in run.curves}
        drawing = curves_chart(f"{stage}-{group}-{value}", f"{stage}, {group}: {value}", curves, names)
        main, terms = found.setdefault(stage, ([], []))
        (main if group == "validation" or value == "loss" else terms).append(drawing)
    return [StageCurves(name=stage, main=tuple(main), terms=tuple(terms)) for stage, (main, terms) in found.items()]


def pck_curves(runs: Sequence[RunRecord]) -> list[Chart]:
    """A chart for every evaluation and kind of PCK; runs whose thresholds are of another kind than the first's are not on its axis."""
    names, found = [run.name for run in runs], []
    for evaluation, file in dict.fromkeys(key for run in runs for key in sorted(run.pck)):
        having = {index: run.pck[evaluation, file] for index, run in enumerate(runs) if (evaluation, file) in run.pck}
        threshold = next(iter(having.values()))[0]
        curves = {index: columns for index, (name, columns) in having.items() if name == threshold}
        title = f"{evaluation}: {_PCK_TITLES[file]}"
        found.append(pck_chart(f"{evaluation}-{Path(file).stem}", title, threshold, curves, names))
    return found
