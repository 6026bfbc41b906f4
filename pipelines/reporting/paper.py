"""The paper's tables with this run's figures below: the published numbers as printed, ours in the same columns and units.

Ours stand beside theirs as comparable only where they were measured on the same dataset; otherwise every row says that they are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.published import IN_THE_TEXT, LOSS_TERMS, TABLE_IV, TABLES, PublishedResult, PublishedTable
from pipelines.reporting.content import Evaluation
from pipelines.reporting.facts import ModelRow

NOT_MEASURED = "–"
_SYMBOLS = {"AUC_J": "AUC_J", "AUC_V": "AUC_V", "F_5": "F@5", "F_15": "F@15"}
_KNOWN = {
    "freihand": "FreiHAND",
    "ho3d": "HO-3D",
    "rhd": "RHD",
    "interhand": "InterHand2.6M",
    "egohands": "EgoHands",
    "coco": "COCO-style photos",
}
_MM_PER = {"cm": 10.0, "mm": 1.0}


@dataclass(frozen=True, kw_only=True)
class OurRow:
    """This run's figures in a table's columns. `data`: what they were measured on, for people."""

    evaluation: str
    data: str
    settings: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A published table and this run's rows: measured on its dataset (`ours`), or on other data and not comparable (`elsewhere`)."""

    published: PublishedTable
    ours: tuple[OurRow, ...]
    elsewhere: tuple[OurRow, ...]

    @property
    def headings(self) -> list[str]:
        """Columns after the method: settings, then measures with their unit and arrow."""
        table = self.published
        measures = [
            f"{_SYMBOLS.get(name, name)}{f' [{table.unit}]' if figure.endswith('_mm') else ''} {arrow}"
            for name, figure, arrow in zip(table.measures, table.figures, table.better, strict=True)
        ]
        return [*table.settings, *measures]

    @property
    def not_comparable(self) -> str:
        """What the rows of `elsewhere` are; said in the table itself."""
        data = " and ".join(sorted({row.data for row in self.elsewhere}))
        return f"This run, on {data}, not on {self.published.dataset}: NOT comparable with the rows above"


@dataclass(frozen=True, kw_only=True)
class OurResult:
    """This run's figures in the columns of `IN_THE_TEXT`: error in pixels of the network's input, EPE in mm, hand type."""

    evaluation: str
    data: str
    comparable: bool
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextResults:
    """The results in the paper's text and this run's. The paper's scenes are made of other hands, so even ours compare with nothing."""

    published: tuple[PublishedResult, ...]
    ours: tuple[OurResult, ...]


def dataset_of(data: str, params: Mapping[str, Any]) -> tuple[str, str]:
    """(adapter's name or "scenes", words for people) of a folder below data/."""
    parts = data.split("/")
    if parts[0] == "scenes":
        source = str(params["compose"][parts[1]]["source"])
        return "scenes", f"scenes composed of {'rendered procedural' if source == 'procedural' else _KNOWN.get(source, source)} hands"
    name = parts[1] if len(parts) > 1 else data
    return name, "rendered procedural hands" if name == "procedural" else _KNOWN.get(name, name)


def paper_tables(evaluations: Sequence[Evaluation], models: Mapping[str, ModelRow], params: Mapping[str, Any]) -> list[PaperTable]:
    """Tables I to IV. params: the whole tree."""
    return [_table(table, evaluations, models, params) for table in TABLES]


def text_results(evaluations: Sequence[Evaluation], params: Mapping[str, Any]) -> TextResults:
    """The results in the paper's text, and the same figures of every evaluation of this run."""
    patterns = {"error_2d_input_px": "{:.2f}", "epe_mm": "{:.2f}", "hand_type_accuracy": "{:.2%}"}
    ours = []
    for evaluation in evaluations:
        figures = evaluation.figures.get("ours", {})
        key, words = dataset_of(evaluation.config.data, params)
        cells = tuple(pattern.format(figures[name]) if name in figures else NOT_MEASURED for name, pattern in patterns.items())
        comparable = any(result.key == key for result in IN_THE_TEXT) and key != "scenes"
        ours.append(OurResult(evaluation=evaluation.name, data=words, comparable=comparable, values=cells))
    return TextResults(published=IN_THE_TEXT, ours=tuple(ours))


def loss_terms(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """Which columns of Table IV a training section has on: marks in the order of its settings."""
    loss, augment = stage["loss"], stage["augment"]
    turned = augment["rotate_deg"] > 0 or augment["translate"] > 0 or tuple(augment["scale"]) != (1.0, 1.0) or augment["color"] > 0
    on = {
        "baseline": loss["reprojection"] > 0,
        "reg": loss["pose_limits"] > 0 or loss["shape_prior"] > 0,
        "aug": turned,
        "con": loss["consistency"] > 0,
        "bone": loss["bones"] > 0,
        "pho": loss["photometric"] > 0,
        "3D": stage["supervision"] == "3d",
    }
    return tuple("✓" if on[term] else "–" for term in LOSS_TERMS)


def _table(
    table: PublishedTable, evaluations: Sequence[Evaluation], models: Mapping[str, ModelRow], params: Mapping[str, Any]
) -> PaperTable:
    ours: list[OurRow] = []
    elsewhere: list[OurRow] = []
    for evaluation in evaluations:
        key, words = dataset_of(evaluation.config.data, params)
        figures = evaluation.figures.get("ours", {})
        if not any(name in figures for name in table.figures) or (key != table.key and table.name != "III" and not evaluation.is_single):
            continue  # nothing to show; on other data, hands of whole images stand for Table III only
        row = OurRow(
            evaluation=evaluation.name,
            data=words,
            settings=_settings(table, evaluation, models, params),
            values=tuple(_value(figures.get(name), name, table.unit) for name in table.figures),
        )
        (ours if key == table.key else elsewhere).append(row)
    return PaperTable(published=table, ours=tuple(ours), elsewhere=tuple(elsewhere))


def _settings(table: PublishedTable, evaluation: Evaluation, models: Mapping[str, ModelRow], params: Mapping[str, Any]) -> tuple[str, ...]:
    model = evaluation.config.model
    if table is TABLE_IV:
        return loss_terms(params["train"][model])
    supervision = str(models[model].description.provenance.get("supervision", "")).upper() or NOT_MEASURED
    # evaluation gives the camera of the label; scale and hand type are always the network's own
    known = {"supervision": supervision, "camera intrinsics": "yes"}
    return tuple(known.get(name, "no") for name in table.settings)


def _value(value: float | None, name: str, unit: str) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value / _MM_PER[unit]:.2f}" if name.endswith("_mm") else f"{value:.3f}"
