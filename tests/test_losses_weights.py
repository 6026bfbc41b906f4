"""Weights and presets: the rows of Table IV, the released code's values, the paper's presets of the pipeline, and what is refused."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest
from fake_batches import unchecked

from handnet.losses.weights import LOSS_PRESETS, TABLE_IV, LossOptions, LossWeights
from pipelines.config import LossConfig, load_params

PRESETS = Path(__file__).parents[1] / "pipelines" / "presets"

# Table IV as printed: baseline, reg, aug, con, bone, pho, 3D
PRINTED = """
x - - - - - -
x x - - - - -
x x x - - - -
x x - x - - -
x x - x x - -
x x x x - - -
x x x - x - -
x x x x x - -
x x x x x x -
x x x x x - x
x x x x x x x
"""
COLUMNS = {
    "rep": ("reprojection",),
    "reg": ("pose_limits", "shape_prior"),
    "aug": (),
    "con": ("consistency",),
    "bone": ("bones",),
    "pho": ("photometric",),
    "3d": ("joints_3d", "vertices_3d"),
}


def test_the_rows_of_table_iv():
    rows = [line.split() for line in PRINTED.strip().splitlines()]
    assert len(TABLE_IV) == len(rows) == 11
    full = TABLE_IV["rep+reg+aug+con+bone+pho+3d"]
    for marks, (name, weights) in zip(rows, TABLE_IV.items(), strict=True):
        assert [column in name.split("+") for column in COLUMNS] == [mark == "x" for mark in marks]
        for column, mark in zip(COLUMNS, marks, strict=True):
            for term in COLUMNS[column]:
                assert getattr(weights, term) == (getattr(full, term) if mark == "x" else 0)
                assert getattr(full, term) > 0
        localization = {f.name for f in fields(LossWeights)} - {term for terms in COLUMNS.values() for term in terms}
        assert {term: getattr(weights, term) for term in localization} == {term: getattr(full, term) for term in localization}


def test_the_released_code_s_weights():
    weights = LOSS_PRESETS["released"]
    assert (weights.center, weights.hand_type, weights.heatmap * 21) == (100, 20, 10)
    assert (weights.reprojection, weights.bones, weights.photometric) == (10, 100, 100)
    assert (weights.pose_limits, weights.shape_prior) == (1000, 0.1 * 1000)
    assert (weights.consistency, weights.pull, weights.push) == (0, 0, 0)  # absent from it


@pytest.mark.parametrize("path", sorted(PRESETS.glob("paper-*.yaml")), ids=lambda path: path.stem)
def test_the_paper_s_presets_train_with_the_paper_s_weights(path):
    train = load_params(path).train
    how = {field.name for field in fields(LossOptions)}
    for stage, name in ((train.crop, "paper-crop"), (train.multi, "paper")):
        assert LossWeights(**stage.loss.model_dump(exclude=how)) == LOSS_PRESETS[name]
        options = LossOptions(**stage.loss.model_dump(include=how))
        assert (options.reprojection_form, options.limits) == ("paper", "anatomical")
    assert train.model.tag_channels > 0


def test_params_name_every_weight_and_option():
    names = [field.name for kind in (LossWeights, LossOptions) for field in fields(kind)]
    assert sorted(LossConfig.model_fields) == sorted(names)


def test_defaults_are_the_paper_s_forms():
    assert (LossOptions().reprojection_form, LossOptions().limits) == ("paper", "anatomical")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(value):
    for name in asdict(LossWeights()):
        with pytest.raises(ValueError, match=rf"LossWeights\.{name}: expected a finite weight >= 0, got"):
            LossWeights(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reprojection_form": "printed"}, r"reprojection_form: expected one of \['paper', 'released'\], got 'printed'"),
        ({"limits": "raw"}, r"limits: expected one of \['anatomical', 'released'\], got 'raw'"),
        ({"render_px": 0}, "render_px: expected 1 or more, got 0"),
        ({"render_images": -2}, "render_images: expected 1 or more, got -2"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        LossOptions(**changes)
