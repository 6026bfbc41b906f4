"""The error by stratum: results/KEY/strata.json as charts with their 95 % intervals and as a table."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from handnet.json_object import parse_object
from pipelines.plotting import INK, OURS, Chart, as_png, chart, drawn
from pipelines.reporting.inputs import RESULTS, STRATA

TITLES = {
    "hands_per_image": "hands per image",
    "occlusion": "keypoints hidden",
    "size": "size of the hand",
    "side": "side",
    "distance": "distance",
    "truncation": "at the border",
}
FIGURES = {
    "error_2d_fraction": ("2D error, share of hand size", "{:.1%}"),
    "pa_mpjpe_mm": ("PA-MPJPE, mm", "{:.1f}"),
    "recall": ("recall", "{:.1%}"),
}
SIZE_IN = (3.1, 2.1)


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """One stratum: hands in it, how many were found, and (mean, low, high) per figure that was measured."""

    label: str
    hands: int
    found: int
    figures: dict[str, tuple[float, float, float]]

    def text(self, figure: str) -> str:
        """Mean and interval, "–" where nothing was measured."""
        if figure not in self.figures:
            return "–"
        pattern = FIGURES[figure][1]
        mean, low, high = (pattern.format(value) for value in self.figures[figure])
        return f"{mean} ({low} to {high})"


@dataclass(frozen=True, kw_only=True)
class Strata:
    """All stratifications of one evaluation that have more than one stratum, each with a chart of its 2D error."""

    name: str
    groups: dict[str, tuple[Stratum, ...]]
    charts: tuple[Chart, ...]
    sheet: bytes

    @property
    def alt(self) -> str:
        return f"2D error of {self.name} as a share of hand size, by {', '.join(TITLES.get(group, group) for group in self.groups)}"


def read_strata(name: str) -> Strata:
    """The strata of one evaluation, drawn. ValueError names the file and what is wrong with it."""
    path = RESULTS / name / STRATA
    tree = parse_object(path.read_bytes(), path)
    try:
        groups = {group: tuple(_stratum(entry) for entry in entries) for group, entries in tree["strata"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: expected strata with label, hands, found and figures: {type(error).__name__} {error}") from None
    groups = {group: strata for group, strata in groups.items() if len(strata) > 1}
    charts = tuple(_chart(f"strata-{name}-{group}", group, strata) for group, strata in groups.items())
    return Strata(name=name, groups=groups, charts=charts, sheet=_sheet(groups) if groups else b"")


def _stratum(entry: dict[str, Any]) -> Stratum:
    figures = {
        name: (float(figure["mean"]), float(figure["ci95"][0]), float(figure["ci95"][1]))
        for name, figure in entry["figures"].items()
        if name in FIGURES
    }
    return Stratum(label=str(entry["label"]), hands=int(entry["hands"]), found=int(entry["found"]), figures=figures)


def _chart(name: str, group: str, strata: tuple[Stratum, ...]) -> Chart:
    def draw(figure: Figure) -> None:
        _draw(figure, group, strata, (1, 1, 1))

    words = ", ".join(f"{stratum.label}: {stratum.text('error_2d_fraction')}" for stratum in strata)
    return chart(name, f"2D error by {TITLES.get(group, group)}, with 95 % intervals; {words}", draw, SIZE_IN)


def _sheet(groups: dict[str, tuple[Stratum, ...]], columns: int = 3) -> bytes:
    rows = -(-len(groups) // columns)

    def draw(figure: Figure) -> None:
        for i, (group, strata) in enumerate(groups.items()):
            _draw(figure, group, strata, (rows, columns, i + 1))

    return drawn(draw, (SIZE_IN[0] * columns, SIZE_IN[1] * rows), as_png)


def _draw(figure: Figure, group: str, strata: tuple[Stratum, ...], place: tuple[int, int, int]) -> None:
    axes = figure.add_subplot(*place)
    shown = [(i, stratum.figures["error_2d_fraction"]) for i, stratum in enumerate(strata) if "error_2d_fraction" in stratum.figures]
    if shown:
        x = [i for i, _ in shown]
        mean, low, high = np.array([values for _, values in shown]).T
        axes.bar(x, mean, 0.62, color=OURS, alpha=0.8)
        axes.errorbar(x, mean, [np.maximum(mean - low, 0), np.maximum(high - mean, 0)], fmt="none", ecolor=INK, elinewidth=1, capsize=3)
    labels = [textwrap.fill(stratum.label, 9, break_long_words=False) for stratum in strata]
    axes.set_xticks(range(len(strata)), [f"{label}\n({stratum.hands:,})" for label, stratum in zip(labels, strata, strict=True)])
    axes.tick_params("x", labelsize=6.5)
    axes.set_title(TITLES.get(group, group), loc="left")
    axes.set_ylim(0)
    axes.grid(False, axis="x")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
