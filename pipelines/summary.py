"""What `make demo` prints at its end: every evaluation's figures beside the mean hand's, and where to look further.

    python -m pipelines.summary
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from handnet.json_object import parse_object
from pipelines.config import ParamsError, load_params

METRICS, SUBMISSIONS, REPORT = Path("metrics"), Path("submissions"), Path("reports/index.html")
COLUMNS = {"ours": "ours", "mean_hand": "mean hand"}
# the mean hand has no detector: it stands where ours found a hand, so these compare nothing but the matching
DETECTION = ("precision", "recall", "ap")

Verdict = Literal["better", "worse", "equal"]
Figures = Mapping[str, Mapping[str, float]]  # {"ours": {name: value}, "mean_hand": {...}, "count": {...}}


@dataclass(frozen=True)
class Row:
    """One figure: its name in the metrics file, for people, how it is written, and whether more is better."""

    name: str
    label: str
    pattern: str = "{:.2f}"
    more_is_better: bool = False

    def verdict(self, value: float, other: float) -> Verdict:
        """What the value is beside another one, by the figure's own direction."""
        return "equal" if value == other else "better" if (value > other) == self.more_is_better else "worse"


ROWS = (
    Row("error_2d_px", "2D error, px"),
    Row("error_2d_fraction", "2D error, share of hand size", "{:.1%}"),
    Row("root_aligned_mpjpe_mm", "root-aligned MPJPE, mm", "{:.1f}"),
    Row("pa_mpjpe_mm", "PA-MPJPE, mm", "{:.1f}"),
    Row("pa_mpvpe_mm", "PA-MPVPE, mm", "{:.1f}"),
    Row("auc", "PA-AUC of joints, 0 to 50 mm", "{:.3f}", more_is_better=True),
    Row("f15", "F-score at 15 mm", "{:.3f}", more_is_better=True),
    Row("hand_type_accuracy", "hand type right", "{:.1%}", more_is_better=True),
    Row("precision", "detection precision", "{:.1%}", more_is_better=True),
    Row("recall", "detection recall", "{:.1%}", more_is_better=True),
    Row("ap", "detection AP", "{:.3f}", more_is_better=True),
)


def read_metrics(names: list[str], folder: Path = METRICS) -> dict[str, Figures]:
    """The metrics files of the named evaluations. ValueError names one that is missing or no JSON object."""
    found: dict[str, Figures] = {}
    for name in names:
        path = folder / f"{name}.json"
        try:
            found[name] = parse_object(path.read_bytes(), path)
        except FileNotFoundError:
            raise ValueError(f"{path}: not found; `dvc repro` makes it") from None
    return found


def metrics_table(evaluations: Mapping[str, Figures]) -> Table:
    """Rows are figures, columns ours and the mean hand's of each evaluation; the better one of the two is green."""
    table = Table(title="Held-out data", title_justify="left", header_style="bold")
    table.add_column("")
    for evaluation in evaluations:
        for heading in COLUMNS.values():
            table.add_column(f"{evaluation}\n{heading}", justify="right", no_wrap=True)
    for row in ROWS:
        cells = [cell for figures in evaluations.values() for cell in row_cells(row, figures)]
        if any(cell.plain for cell in cells):
            table.add_row(f"{row.label} {'↑' if row.more_is_better else '↓'}", *cells)
    return table


def row_cells(row: Row, figures: Figures) -> list[Text]:
    """Our value and the mean hand's, each empty where it was not measured."""
    values = [figures.get(who, {}).get(row.name) for who in COLUMNS]
    known = [value for value in values if value is not None]
    compared = row.name not in DETECTION and len(set(known)) > 1
    best = (max if row.more_is_better else min)(known) if compared else None
    texts = ["" if value is None else row.pattern.format(value) for value in values]
    return [Text(text, "green" if text and value == best else "") for text, value in zip(texts, values, strict=True)]


def main() -> int:
    """Print the table and the paths; one line on stderr when there is nothing to print."""
    try:
        params = load_params()
        evaluations = read_metrics(list(params.evaluate))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ParamsError) else 1
    console = Console()
    console.print(metrics_table(evaluations))
    for name, figures in evaluations.items():
        count, config = figures.get("count", {}), params.evaluate[name]
        centers = "true centres" if config.centers == "true" else "predicted centres"
        print(f"{name}: {count.get('measured_hands', 0)} of {count.get('hands', 0)} hands measured in data/{config.data}, {centers}")
    for name in params.submit:
        print(f"submission: {SUBMISSIONS / name / 'pred.zip'}")
    print(f"report: {REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
