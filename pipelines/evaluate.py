"""Stage entry point: python -m pipelines.evaluate NAME, one of params.yaml's evaluate sections.

Writes metrics/NAME.json and results/NAME/{samples.parquet, pck.csv, pck_2d.csv, predictions.npz}.
"""

from __future__ import annotations

import sys
from pathlib import Path

from handnet.predict import Predictor
from pipelines.config import EvaluationConfig, ParamsError, load_params
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.frames import center_definition
from pipelines.evaluation.mean_hand import fit_mean_hand
from pipelines.evaluation.outputs import write_curve, write_metrics, write_predictions, write_table
from pipelines.evaluation.runner import EvaluatedImage, evaluate_images, read_training_hands
from pipelines.shards import ShardReader
from pipelines.stage_command import run_stage, usage_error

DATA, MODELS, METRICS, RESULTS = Path("data"), Path("models"), Path("metrics"), Path("results")
NUM_DRAWN_IMAGES = 16  # first images whose predictions are kept for the report


def evaluate(name: str, config: EvaluationConfig) -> Path:
    """Measure one model on one data set and write the figures; returns the metrics file. ValueError for unusable data or models."""
    reader, training = ShardReader(DATA / config.data), ShardReader(DATA / config.mean_hand_data)
    predictor = Predictor.load(MODELS / config.model)
    input_px, definition = predictor.description.input_px, center_definition(predictor.description.provenance)
    mean_hand = fit_mean_hand(read_training_hands(training, input_px, definition), predictor.layer)
    given = config.centers == "true"
    evaluator = Evaluator(
        mean_hand,
        placement="crop" if given and config.model == "crop" else "detection",
        centers_given=given,
        score_threshold=config.score_threshold,
        match_threshold=config.match_threshold,
    )
    drawn: list[EvaluatedImage] = []
    for image in evaluate_images(reader, predictor, config, input_px, definition):
        evaluator.add(image.key, image.hands, image.predicted)
        if len(drawn) < NUM_DRAWN_IMAGES:
            drawn.append(image if given else image.above(config.score_threshold))
    results = evaluator.results()
    folder = RESULTS / name
    write_table(folder / "samples.parquet", results.hands)
    write_curve(folder / "pck.csv", results.pck)
    write_curve(folder / "pck_2d.csv", results.pck_2d)
    write_predictions(folder / "predictions.npz", [i.key for i in drawn], [i.predicted for i in drawn], [i.raw for i in drawn])
    write_metrics(METRICS / f"{name}.json", results.metrics)
    return METRICS / f"{name}.json"


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        return usage_error("python -m pipelines.evaluate NAME")
    (name,) = arguments

    def work() -> Path:
        sections = load_params().evaluate
        if name not in sections:
            raise ParamsError(f"params.yaml: evaluate: expected one of {sorted(sections)}, got {name!r}")
        return evaluate(name, sections[name])

    return run_stage(work, interrupted="nothing was measured to the end, run it again")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
