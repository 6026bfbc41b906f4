"""Gathers the figures and writes them: reports/index.html, self-contained, and reports/README.md with its pictures as files.

Nothing is written before everything has been read and drawn; each file then takes its name in one step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from handnet.predict import Predictor
from pipelines import published
from pipelines.config import EvaluationConfig, ReportConfig, SubmissionConfig
from pipelines.drawing import SIDE_COLORS
from pipelines.pages import page_environment
from pipelines.plotting import Chart
from pipelines.progress import Progress
from pipelines.reporting import facts
from pipelines.reporting.content import Evaluation, bold_best, meta_lines, results_table
from pipelines.reporting.figures import TrainingCurves, composed_scenes, pck_charts, sample_hands, training_curves
from pipelines.reporting.inputs import (
    DATA,
    MODELS,
    TRAINING_STAGES,
    Submission,
    check_inputs,
    read_hands,
    read_submission,
    read_training,
    read_validation,
)
from pipelines.reporting.meshes import MeshScene, viewer_data
from pipelines.reporting.paper import PaperTable, TextResults, paper_tables, text_results
from pipelines.reporting.pictures import PictureTable
from pipelines.reporting.predictions import Hands, PredictionTable, num_ranked
from pipelines.reporting.regularization import Comparison, commands, compare_regularization, has_second_model
from pipelines.reporting.speed import Speed, read_speed
from pipelines.reporting.stages import read_stages, require
from pipelines.reporting.strata import FIGURES as STRATUM_FIGURES
from pipelines.reporting.strata import TITLES as STRATUM_TITLES
from pipelines.reporting.strata import Strata, read_strata
from pipelines.shards import ShardReader
from pipelines.shards.manifest import MANIFEST, write_atomic
from pipelines.summary import read_metrics

REPORTS = Path("reports")
ASSETS = "assets"
COMPARISON = Path("comparisons/index.html")  # of this run with others, where somebody has made it
SCENE_REPORTS, SCENE_PAGE = "scene_reports", "index.html"  # what composition says of its own scenes, below data/
OWN_STAGE = "report"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything on the page."""

    preset: str
    revision: str | None
    params_digest: str
    params_text: str
    models: list[facts.ModelRow]
    evaluations: list[Evaluation]
    tables: list[PaperTable]
    text_results: TextResults
    predictions: dict[str, list[PictureTable]]
    regularization: Comparison | None
    unregularized: str
    viewer: dict[str, Any]
    strata: list[Strata]
    pck: dict[str, list[Chart]]
    speed: Speed
    training: list[TrainingCurves]
    samples: PictureTable
    scenes: PictureTable
    scene_reports: list[str]
    submissions: list[Submission]
    stages: list[facts.StageRow]


def build_report(
    params: dict[str, Any], config: ReportConfig, evaluate: dict[str, EvaluationConfig], submit: dict[str, SubmissionConfig]
) -> Path:
    """Write the report; returns the page. `params` is the whole parameter tree. ValueError names a missing or damaged input."""
    stages = read_stages(params)
    check_inputs(evaluate, submit, stages)
    evaluations = [Evaluation(name=name, config=evaluate[name], figures=figures) for name, figures in read_metrics(list(evaluate)).items()]
    models = {stage: facts.read_model(stage) for stage in TRAINING_STAGES}
    for model in models.values():
        shards = facts.training_shards(model)
        if shards is not None:
            require(shards / MANIFEST, stages)
    hands = {name: read_hands(name) for name in evaluate}
    logged = {stage: (read_training(stage), read_validation(stage)) for stage in TRAINING_STAGES}
    submissions, speed = [read_submission(name) for name in submit], read_speed()
    single = next((evaluation for evaluation in evaluations if evaluation.is_single), None)
    compared = single is not None and has_second_model(Path(config.unregularized))
    num_whole = sum(not evaluation.is_single for evaluation in evaluations)
    num_pictures = config.num_samples + config.num_scenes * (1 + num_whole + compared) + num_ranked(config.num_scenes) * len(evaluations)
    with Progress("report", num_pictures + 2 * len(evaluations) + len(TRAINING_STAGES), "figures") as progress:
        pck, strata = {}, []
        for evaluation in evaluations:
            pck[evaluation.name] = pck_charts(evaluation.name, evaluation.figures)
            progress.advance()
            strata.append(read_strata(evaluation.name))
            progress.advance()
        training = []
        for stage in TRAINING_STAGES:
            training.append(training_curves(stage, *logged[stage]))
            progress.advance()
        samples = sample_hands(models["crop"], config.num_samples, progress)
        scenes = composed_scenes(models["multi"], config.num_scenes, progress)
        predictors = {model: Predictor.load(MODELS / model) for model in {evaluation.config.model for evaluation in evaluations}}
        predictions = {
            e.name: predict_tables(e, predictors[e.config.model], hands[e.name], config.num_scenes, progress) for e in evaluations
        }
        regularization = None
        if single is not None and compared:
            maker = prediction_table(single, predictors[single.config.model])
            regularization = compare_regularization(maker, Path(config.unregularized), config.num_scenes, progress)
    faces = predictors[evaluations[0].config.model].layer.both_faces[1].numpy()
    report = Report(
        preset=str(params["preset"]),
        revision=facts.git_revision(),
        params_digest=facts.params_digest(params),
        params_text=facts.params_text(params),
        models=list(models.values()),
        evaluations=evaluations,
        tables=paper_tables(evaluations, models, params),
        text_results=text_results(evaluations, params),
        predictions=predictions,
        regularization=regularization,
        unregularized=config.unregularized,
        viewer=viewer_data(mesh_scenes(predictions), faces),
        strata=strata,
        pck=pck,
        speed=speed,
        training=training,
        samples=samples,
        scenes=scenes,
        scene_reports=sorted(page.parent.name for page in DATA.glob(f"{SCENE_REPORTS}/*/{SCENE_PAGE}")),
        submissions=submissions,
        stages=facts.stage_rows(stages, OWN_STAGE),
    )
    return write_report(report)


def predict_tables(evaluation: Evaluation, predictor: Predictor, hands: Hands, num: int, progress: Progress) -> list[PictureTable]:
    """Predictions of one evaluation's model on `num` of its images; `hands`: the evaluation's table of labelled hands."""
    maker = prediction_table(evaluation, predictor)
    if evaluation.is_single:
        return [maker.of_hands(hands, num, progress)]
    return [maker.of_images(hands, num, progress), maker.of_ranked_images(hands, num, progress)]


def prediction_table(evaluation: Evaluation, predictor: Predictor) -> PredictionTable:
    """The maker of one evaluation's pictures."""
    return PredictionTable(evaluation.name, evaluation.config, ShardReader(DATA / evaluation.config.data), predictor)


def input_id(table: PictureTable, row: int) -> str:
    """The id on the page of the picture that a row of predictions begins with."""
    return f"input-{table.name}-{row}"


def mesh_scenes(predictions: dict[str, list[PictureTable]]) -> list[tuple[str, str, MeshScene]]:
    """What the viewer shows: (name in its list, id of the input picture, meshes), each image once."""
    found: dict[tuple[str, str], tuple[str, str, MeshScene]] = {}
    for name, tables in predictions.items():
        for table in tables:
            for i, row in enumerate(table.rows):
                label = f"{name}, {row.name}"
                if row.meshes is not None:
                    found.setdefault((name, row.subject), (label, input_id(table, i), row.meshes))
    return list(found.values())


def write_report(report: Report, folder: Path = REPORTS) -> Path:
    """The page, the README and its pictures; pictures of an earlier report that this one has not are removed."""
    assets = asset_bytes(report)
    page, readme = render("page.html", report), render("report.md", report)
    (folder / ASSETS).mkdir(parents=True, exist_ok=True)
    for name, data in assets.items():
        write_atomic(folder / ASSETS / name, data)
    for path in (folder / ASSETS).iterdir():
        if path.name not in assets:
            path.unlink()
    write_atomic(folder / "README.md", readme.encode())
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"


def asset_bytes(report: Report) -> dict[str, bytes]:
    """The README's pictures by file name."""
    tables = [report.samples, report.scenes, *(table for tables in report.predictions.values() for table in tables)]
    if report.regularization is not None:
        tables.append(report.regularization.pictures)
    charts = [chart for charts in report.pck.values() for chart in charts] + [curves.loss for curves in report.training]
    sheets = {f"terms-{curves.stage}.png": curves.terms_png for curves in report.training}
    sheets |= {f"validation-{curves.stage}.png": curves.validation_png for curves in report.training}
    sheets |= {f"strata-{strata.name}.png": strata.sheet for strata in report.strata}
    return {
        **{f"{table.name}.jpg": table.sheet() for table in tables if table.rows},
        **{f"{chart.name}.png": chart.png for chart in [*charts, report.speed.chart]},
        **{name: data for name, data in sheets.items() if data},
    }


def render(template: str, report: Report) -> str:
    """One of the templates with the report's content; text is escaped in HTML, charts are inserted as they are."""
    environment = page_environment(_TEMPLATES)
    environment.filters["size"] = facts.size_text
    text = environment.get_template(template).render(
        report=report,
        rows=results_table(report.evaluations),
        css=Markup((_TEMPLATES / "page.css").read_text()),
        viewer_js=Markup((_TEMPLATES / "viewer.js").read_text()),
        input_id=input_id,
        unregularized_commands=commands(report.unregularized),
        published=published,
        comparison=COMPARISON.as_posix(),
        comparison_is_there=COMPARISON.is_file(),
        scene_report=lambda name: (DATA / SCENE_REPORTS / name / SCENE_PAGE).as_posix(),
        stratum_titles=STRATUM_TITLES,
        stratum_figures=STRATUM_FIGURES,
        svg=lambda chart: Markup(chart.svg),
        meta_lines=meta_lines,
        bold=bold_best,
        colors=[f"rgb{color}" for color in SIDE_COLORS],
        assets=ASSETS,
    )
    return re.sub(r"\n{3,}", "\n\n", text)
