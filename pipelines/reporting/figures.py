"""The report's own figures in one place: samples, scenes, curves and PCK, from the files of the other stages."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.evaluation.frames import center_definition
from pipelines.plotting import Chart
from pipelines.progress import Progress
from pipelines.reporting.charts import loss_chart, pck_chart, term_chart, terms_sheet
from pipelines.reporting.facts import ModelRow, training_data, training_shards
from pipelines.reporting.inputs import PCK_FILES, RESULTS, Columns, read_curve
from pipelines.reporting.overlays import labelled_centers, labelled_masks, labelled_skeletons, plain
from pipelines.reporting.pictures import Cell, PictureTable, Row, evenly_spaced, joined, plural
from pipelines.shards import ShardReader
from pipelines.summary import COLUMNS, Figures

# of each PCK file: its thresholds, their axis label, the title, and the figure that holds the area under the curve, if one does
_PCK = {
    "pck.csv": ("threshold_mm", "threshold in mm", "3D PCK of joints, after Procrustes alignment", "auc"),
    "pck_vertices.csv": ("threshold_mm", "threshold in mm", "3D PCK of vertices, after Procrustes alignment", "auc_vertices"),
    "pck_2d.csv": ("threshold_fraction", "threshold as a share of hand size", "2D PCK of keypoints", ""),
}


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """One training stage: the loss, its terms, the figures of its validations (none without any), and each group in one PNG."""

    stage: str
    loss: Chart
    terms: tuple[Chart, ...]
    terms_png: bytes
    terms_alt: str
    validation: tuple[Chart, ...]
    validation_png: bytes
    validation_alt: str


def sample_hands(model: ModelRow, num: int, progress: Progress) -> PictureTable:
    """Single hands the first training stage learns from, each beside its labelled skeleton."""
    columns, shards = ("image", "labels"), training_shards(model)
    if shards is None:
        return _elsewhere("samples", model, columns)
    reader, rows = ShardReader(shards), []
    for index in evenly_spaced(len(reader), num):
        sample = reader.read(index, labels_3d=False)
        sides = joined([("left", "right")[hand.side] for hand in sample.hands])
        cells = (
            Cell(image=plain(sample), alt=f"Training image {sample.key}"),
            Cell(image=labelled_skeletons(sample), alt=f"Training image {sample.key} with its labelled keypoints, {sides}"),
        )
        rows.append(Row(name=sample.key, caption=sample.key, cells=cells))
        progress.advance()
    alt = f"Single hands of {shards.as_posix()} beside their labelled keypoints."
    return PictureTable(name="samples", alt=alt, columns=columns, rows=tuple(rows), rows_abreast=3)


def composed_scenes(model: ModelRow, num: int, progress: Progress) -> PictureTable:
    """Scenes the second training stage learns from, with masks and boxes, and with keypoints and centres."""
    columns, shards = ("scene", "masks and boxes", "keypoints and centres"), training_shards(model)
    if shards is None:
        return _elsewhere("scenes", model, columns)
    reader, definition = ShardReader(shards), center_definition(model.description.provenance)
    rows = []
    for index in evenly_spaced(len(reader), num):
        sample = reader.read(index, labels_3d=False)
        count = plural(len(sample.hands), "labelled hand")
        cells = (
            Cell(image=plain(sample), alt=f"Training scene {sample.key}"),
            Cell(image=labelled_masks(sample), alt=f"Training scene {sample.key}, instance masks and boxes of {count}"),
            Cell(image=labelled_centers(sample, definition), alt=f"Training scene {sample.key}, keypoints and centres of {count}"),
        )
        rows.append(Row(name=sample.key, caption=f"{sample.key}: {count if sample.hands else 'no hand'}", cells=cells))
        progress.advance()
    alt = f"Composed scenes of {shards.as_posix()} with their labels. Columns: {', '.join(columns)}."
    return PictureTable(name="scenes", alt=alt, columns=columns, rows=tuple(rows), rows_abreast=2)


def _elsewhere(name: str, model: ModelRow, columns: tuple[str, ...]) -> PictureTable:
    """No pictures of data that is read from URLs: making a page must not need the network."""
    note = f"{model.folder} learned from {training_data(model)}; what is behind URLs is not shown."
    return PictureTable(name=name, alt=note, columns=columns, rows=(), note=note)


def pck_charts(name: str, figures: Figures) -> list[Chart]:
    """The PCK curves of one evaluation; the 3D one only where hands had 3D labels."""
    charts = []
    for file in PCK_FILES:
        path = RESULTS / name / file
        threshold, columns = read_curve(path)
        expected, label, title, area_name = _PCK[file]
        if threshold != expected:
            raise ValueError(f"{path}: expected a column {expected}, got {threshold}")
        if threshold == "threshold_mm" and not columns["ours"].any() and not columns["mean_hand"].any():
            continue  # no hand had a 3D label
        area = {who: figures[who][area_name] for who in COLUMNS if area_name in figures.get(who, {})}
        charts.append(pck_chart(f"{path.stem.replace('_', '-')}-{name}", title, threshold, columns, label=label, area=area))
    return charts


def training_curves(stage: str, logged: dict[str, Columns], validated: dict[str, Columns]) -> TrainingCurves:
    """What a training stage logged, drawn."""
    curves = {name: curve for name, curve in logged.items() if name != "loss"}
    names = [term.replace("_", " ") if term != "lr" else "learning rate" for term in curves]
    figures = {name.replace("_", " ").replace("fraction", "/ hand size"): curve for name, curve in validated.items()}
    return TrainingCurves(
        stage=stage,
        loss=loss_chart(f"loss-{stage}", "total loss", logged["loss"]),
        terms=tuple(term_chart(f"term-{stage}-{term}", name, curve) for (term, curve), name in zip(curves.items(), names, strict=True)),
        terms_png=terms_sheet(f"Stage {stage}: terms of the loss, before their weights", dict(zip(names, curves.values(), strict=True))),
        terms_alt=f"Terms of the loss of stage {stage} over its steps: {', '.join(names)}",
        validation=tuple(
            term_chart(f"validation-{stage}-{name.replace(' ', '-').replace('/', '')}", name, figures[name]) for name in figures
        ),
        validation_png=terms_sheet(f"Stage {stage}: validation", figures) if figures else b"",
        validation_alt=f"Validation of stage {stage} over its steps: {', '.join(figures)}",
    )
