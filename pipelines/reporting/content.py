"""Figures as text: the headline numbers, the table beside the mean hand, everything that was measured, and what was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.config import EvaluationConfig
from pipelines.reporting.pictures import joined, plural
from pipelines.reporting.predictions import shows_single_hands
from pipelines.summary import COLUMNS, DETECTION, ROWS, Figures, Row, Verdict

HEADLINE = ("error_2d_fraction", "root_aligned_mpjpe_mm", "pa_mpjpe_mm", "precision", "recall")
INTERVALS, HEADLINE_INTERVALS = "ours_ci95", "headline_ci95"  # {name: [low, high]}
_BY_NAME = {row.name: row for row in ROWS}


@dataclass(frozen=True, kw_only=True)
class Number:
    """One figure of ours beside the mean hand's, written out; `verdict`: better, worse or equal, "" where there is nothing to compare.

    interval: the 95 % interval of ours, "" if there is none.
    """

    label: str
    ours: str
    mean_hand: str
    interval: str
    verdict: str
    more_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation: its settings in words and its figures."""

    name: str
    config: EvaluationConfig
    figures: Figures

    @property
    def is_single(self) -> bool:
        return shows_single_hands(self.config)

    @property
    def title(self) -> str:
        return "single hands" if self.is_single else "whole images"

    @property
    def setting(self) -> str:
        """What was measured, in one sentence."""
        count = self.figures.get("count", {})
        centers = "true centres given"
        if self.config.centers == "predicted":
            what = "mask overlap" if self.config.protocol == "masks" else "keypoint similarity"
            centers = (
                f"centres predicted, score from {self.config.score_threshold:g}, found from a {what} of {self.config.min_similarity:g}"
            )
        measured, hands = count.get("measured_hands", 0), count.get("hands", 0)
        return (
            f"models/{self.config.model} on data/{self.config.data}, {centers}: "
            f"{measured:,} of {plural(int(hands), 'hand')} measured in {plural(int(count.get('images', 0)), 'image')}."
        )

    @property
    def headline(self) -> list[Number]:
        return [number for name in HEADLINE if (number := number_of(_BY_NAME[name], self.figures)).ours]

    @property
    def everything(self) -> list[tuple[str, str, str, str]]:
        """(name, ours, its 95 % interval, mean hand) of every measured figure, then the protocol's own figures and the counts."""
        ours, mean_hand = (self.figures.get(who, {}) for who in COLUMNS)
        intervals: Mapping[str, Any] = self.figures.get(INTERVALS, {})
        of_group: Mapping[str, Any] = {"headline": self.figures.get(HEADLINE_INTERVALS, {})}
        names = [*ours, *(name for name in mean_hand if name not in ours)]
        rows = [(name, _raw(ours.get(name)), _between(intervals, name), _raw(mean_hand.get(name))) for name in names]
        groups = [(group, figures) for group, figures in self.figures.items() if group not in (*COLUMNS, INTERVALS, HEADLINE_INTERVALS)]
        for group, figures in groups:
            rows += [(f"{group}: {name}", _raw(value), _between(of_group.get(group, {}), name), "") for name, value in figures.items()]
        return rows


def number_of(row: Row, figures: Figures) -> Number:
    """One row of the table for one evaluation; empty texts where nothing was measured."""
    ours, mean_hand = (figures.get(who, {}).get(row.name) for who in COLUMNS)
    verdict: Verdict | Literal[""] = ""
    if ours is not None and mean_hand is not None and row.name not in DETECTION:
        verdict = row.verdict(ours, mean_hand)
    texts = ["" if value is None else row.pattern.format(value) for value in (ours, mean_hand)]
    bounds: Any = figures.get(INTERVALS, {}).get(row.name, ())
    interval = " to ".join(row.pattern.format(bound) for bound in bounds)
    return Number(label=row.label, ours=texts[0], mean_hand=texts[1], interval=interval, verdict=verdict, more_is_better=row.more_is_better)


def results_table(evaluations: list[Evaluation]) -> list[tuple[str, bool, list[Number]]]:
    """(label, whether more is better, a number for each evaluation) for every figure that any evaluation has."""
    rows = [(row.label, row.more_is_better, [number_of(row, evaluation.figures) for evaluation in evaluations]) for row in ROWS]
    return [(label, more, numbers) for label, more, numbers in rows if any(number.ours or number.mean_hand for number in numbers)]


def bold_best(number: Number, who: str) -> str:
    """One of the two values in Markdown, bold if it is the better one."""
    text: str = getattr(number, who) or "–"
    winner = {"better": "ours", "worse": "mean_hand"}.get(number.verdict)
    return f"**{text}**" if winner == who else text


def meta_lines(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """meta.json as (key, value) lines; long lists as their length."""
    lines = []
    for key, value in meta.items():
        if isinstance(value, Mapping):
            lines += [(f"{key}.{inner}", text) for inner, text in meta_lines(value)]
        elif isinstance(value, list) and (len(value) > 4 or not value):
            lines.append((key, plural(len(value), "entry") if len(value) == 1 else f"{len(value):,} entries"))
        elif isinstance(value, list):
            lines.append((key, joined([str(item) for item in value])))
        else:
            lines.append((key, _raw(value)))
    return lines


def _between(intervals: Mapping[str, Any], name: str) -> str:
    return " to ".join(_raw(bound) for bound in intervals.get(name, ()))


def _raw(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
