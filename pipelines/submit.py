"""Stage entry point: python -m pipelines.submit NAME, one of params.yaml's submit sections.

Writes submissions/NAME/{pred.zip, meta.json}: what the FreiHAND or HO3D server takes, checked, and where it comes from.
"""

from __future__ import annotations

import sys
from pathlib import Path

from handnet.predict import Predictor
from pipelines.config import ParamsError, SubmissionConfig, load_params
from pipelines.evaluation.frames import center_definition, crop_scale
from pipelines.evaluation.joints import ConvertedJoints
from pipelines.shards import ShardReader
from pipelines.shards.manifest import to_json, write_atomic
from pipelines.stage_command import run_stage, usage_error
from pipelines.submission.layouts import find_layout
from pipelines.submission.meta import describe
from pipelines.submission.packing import write_package
from pipelines.submission.predicting import fallback_hand, predict_all

DATA, MODELS, SUBMISSIONS = Path("data"), Path("models"), Path("submissions")
PACKAGE, META = "pred.zip", "meta.json"


def submit(name: str, config: SubmissionConfig) -> Path:
    """Predict, pack and check; returns the package. ValueError for unusable data, models or predictions."""
    reader, layout = ShardReader(DATA / config.data), find_layout(config.layout)
    predictor = Predictor.load(MODELS / config.model)
    model = predictor.description
    convention = layout.convention
    converted = predictor if model.network.joints == convention else ConvertedJoints(predictor, predictor.layer, convention)
    definition, box_scale = center_definition(model.provenance), crop_scale(model.provenance)
    predictions = predict_all(
        reader, converted, config, model.input_px, definition, fallback_hand(predictor.layer, convention), box_scale
    )
    package = SUBMISSIONS / name / PACKAGE
    doubts = write_package(package, predictions.joints_m, predictions.vertices_m, layout)
    for doubt in doubts:
        print(f"{package}: note: {doubt}", file=sys.stderr)
    if predictions.missing:
        print(f"{package}: note: no hand found in {len(predictions.missing)} samples, filled with the mean hand", file=sys.stderr)
    if len(predictions.keys) != layout.num_samples:
        print(f"{package}: note: {len(predictions.keys):,} samples; the {layout.name} server wants {layout.num_samples:,}", file=sys.stderr)
    write_atomic(package.with_name(META), to_json(describe(package, predictions, layout, config, model, doubts)))
    return package


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        return usage_error("python -m pipelines.submit NAME")
    (name,) = arguments

    def work() -> Path:
        sections = load_params().submit
        if name not in sections:
            raise ParamsError(f"params.yaml: submit: expected one of {sorted(sections)}, got {name!r}")
        return submit(name, sections[name])

    return run_stage(work, interrupted="no package was written, run it again")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
