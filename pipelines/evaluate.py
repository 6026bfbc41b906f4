"""Stage entry point: python -m pipelines.evaluate NAME, one of params.yaml's evaluate sections.

Writes metrics/NAME.json and results/NAME/{hands.parquet, strata.json, pck.csv, pck_vertices.csv, pck_2d.csv, predictions.npz}.
"""

from __future__ import annotations

import sys
from pathlib import Path

from handnet.predict import Predictor
from pipelines.config import EvaluationConfig, ParamsError, load_params
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.frames import center_definition, crop_scale
from pipelines.evaluation.ground_truth import GroundTruth
from pipelines.evaluation.joints import ConvertedJoints
from pipelines.evaluation.mean_hand import fit_mean_hand
from pipelines.evaluation.outputs import write_curve, write_json, write_metrics, write_predictions
from pipelines.evaluation.predicted import PredictorLike
from pipelines.evaluation.runner import EvaluatedImage, evaluate_images, shown
from pipelines.evaluation.strata import setting
from pipelines.evaluation.table import HandColumns, HandTable
from pipelines.evaluation.training_hands import read_training_hands
from pipelines.shards import ShardReader
from pipelines.stage_command import run_stage, usage_error

DATA, MODELS, METRICS, RESULTS = Path("data"), Path("models"), Path("metrics"), Path("results")
NUM_DRAWN_IMAGES = 16  # first images whose predictions are kept for the report


def evaluate(name: str, config: EvaluationConfig) -> Path:
    """Measure one model on one data set and write the figures; returns the metrics file. ValueError for unusable data or models."""
    reader, training = ShardReader(DATA / config.data), ShardReader(DATA / config.mean_hand_data)
    model = Predictor.load(MODELS / config.model)
    input_px, definition = model.description.input_px, center_definition(model.description.provenance)
    box_scale = crop_scale(model.description.provenance) if config.model == "crop" else None
    truth = None if config.ground_truth is None else GroundTruth.load(config.ground_truth, len(reader))
    trained = model.description.network.joints
    joints = trained if config.joints == "trained" else config.joints
    predictor: PredictorLike = model if joints == trained else ConvertedJoints(model, model.layer, joints)
    mean_hand = fit_mean_hand(read_training_hands(training, input_px, definition, box_scale), model.layer)
    folder = RESULTS / name
    drawn: list[EvaluatedImage] = []
    conventions: set[str] = set()
    with HandTable(folder / "hands.parquet") as table:
        evaluator = Evaluator(mean_hand, config, input_px=input_px, definition=definition, table=table)
        for image in evaluate_images(reader, predictor, config, input_px, definition, model.layer, truth, box_scale):
            evaluator.add(image)
            conventions.update(hand.joint_convention for hand in image.hands if hand.keypoints_m is not None)
            if len(drawn) < NUM_DRAWN_IMAGES:
                drawn.append(image)
        evaluator.finish()
    results = evaluator.results(HandColumns(folder / "hands.parquet"))
    compared = {"trained": trained, "compared": joints, "labels": sorted(conventions)}
    write_json(folder / "strata.json", setting(config, compared) | {"strata": results.strata})
    write_curve(folder / "pck.csv", results.pck)
    write_curve(folder / "pck_vertices.csv", results.pck_vertices)
    write_curve(folder / "pck_2d.csv", results.pck_2d)
    kept = [image.chosen(shown(image.predicted, config)) for image in drawn]
    write_predictions(folder / "predictions.npz", [i.key for i in drawn], [p for p, _ in kept], [raw for _, raw in kept])
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
