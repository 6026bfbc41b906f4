"""The table of hands, and what is made of it: curves over parts, intervals, strata, predictions under other joint conventions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation_stages import write_model

from handnet.hand.layer import tip_vertices
from handnet.hand.resolve import resolve_hand
from handnet.metrics import AUC_THRESHOLDS_M, Matches, auc, average_precision, pck
from handnet.predict import Predictor
from handnet.skeleton import FINGERTIP_VERTICES, JOINT_CONVENTIONS, MANO_TO_STD
from pipelines.evaluation.curves import PckCounter
from pipelines.evaluation.figures import resampled_ap
from pipelines.evaluation.joints import ConvertedJoints
from pipelines.evaluation.measures_3d import hand_aucs
from pipelines.evaluation.strata import FIGURES, STRATIFICATIONS, stratify
from pipelines.evaluation.table import COLUMNS, MEAN_HAND, HandColumns, HandTable, Rows

DOCS = Path(__file__).parents[1] / "docs/evaluation.md"


def test_every_column_is_documented() -> None:
    text = DOCS.read_text()
    for name in COLUMNS:
        assert name.startswith(MEAN_HAND) or f"`{name}`" in text, name


def rows(num: int, first: int = 0) -> Rows:
    rows = Rows(num)
    rows.put("image", np.arange(num), first + np.arange(num))
    rows.put("key", np.arange(num), np.array([f"{first + i}" for i in range(num)], object))
    return rows


def test_a_table_is_written_in_parts_and_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluation.table.ROWS_PER_GROUP", 4)
    path = tmp_path / "hands.parquet"
    with HandTable(path) as table:
        for part in range(5):
            table.add(rows(3, 3 * part))
        table.add(rows(0))
    columns = HandColumns(path)
    assert columns["image"].tolist() == list(range(15))
    assert columns["key"].tolist() == [str(i) for i in range(15)]
    # what was never said is missing
    assert columns["source_id"].tolist() == [None] * 15
    assert np.isnan(columns["epe_mm"]).all()
    assert set(columns["predicted_side"]) == {-1}
    assert not columns["found"].any()
    assert list(columns) == list(COLUMNS)
    before = path.read_bytes()

    def fail_halfway() -> None:
        with HandTable(path) as table:
            for part in range(3):
                table.add(rows(3, part))
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyError):
        columns["no_such_column"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 30), parts=st.integers(1, 4))
def test_curves_and_areas_of_parts_are_those_of_the_whole(seed: int, num: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.choice([0.0, 0.0125, 0.05, 0.051, 1.0, *rng.uniform(0, 0.06, 5)], (num, 21))
    valid = rng.random((num, 21)) < 0.7
    valid[0, 0] = True
    counter, masked = PckCounter(AUC_THRESHOLDS_M), PckCounter(AUC_THRESHOLDS_M)
    for part in np.array_split(np.arange(num), parts):
        counter.add(errors[part])
        masked.add(errors[part], valid[part])
    np.testing.assert_allclose(counter.curve(), pck(errors), atol=1e-12)
    np.testing.assert_allclose(masked.curve(), pck(errors, valid=valid), atol=1e-12)
    assert hand_aucs(errors).mean() == pytest.approx(auc(errors), abs=1e-12)


def test_a_curve_of_nothing_is_zero() -> None:
    counter = PckCounter(AUC_THRESHOLDS_M)
    assert counter.curve().tolist() == [0.0] * 100
    counter.add(np.zeros((0, 21)))
    counter.add(np.ones((2, 21)), np.zeros((2, 21), bool))
    assert counter.curve().tolist() == [0.0] * 100


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_average_precision_of_drawn_images_is_that_of_repeated_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_images = int(rng.integers(1, 6))
    per_image = []
    for _ in range(num_images):
        hands, detections = int(rng.integers(0, 4)), int(rng.integers(0, 5))
        found = rng.permutation(detections)[: min(hands, detections)]
        per_image.append((hands, np.isin(np.arange(detections), found), rng.random(detections)))

    def matches(images: np.ndarray) -> Matches:
        hands = np.array([per_image[i][0] for i in images], int)
        detections = np.array([len(per_image[i][1]) for i in images], int)
        found = np.concatenate([np.zeros(0, bool), *(per_image[i][1] for i in images)])
        scores = np.concatenate([np.zeros(0), *(per_image[i][2] for i in images)])
        numbers = np.arange(len(images))
        return Matches(np.where(found, 0, -1), np.full(hands.sum(), -1), scores, np.repeat(numbers, detections), np.repeat(numbers, hands))

    whole = matches(np.arange(num_images))
    if not len(whole.detection_of_hand):
        return
    statistic = resampled_ap(whole, num_images)
    assert statistic(np.arange(num_images)) == pytest.approx(average_precision(whole))
    drawn = rng.integers(0, num_images, num_images)
    np.testing.assert_allclose(statistic(drawn), average_precision(matches(drawn)))


def test_strata_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    num = 300
    table: dict[str, np.ndarray] = {
        "image": np.sort(rng.integers(0, 90, num)),
        "labelled": rng.random(num) < 0.9,
        "num_hands": rng.integers(1, 10, num),
        "occluded": rng.choice([0.0, 0.1, 0.25, 0.5, 1.0, np.nan], num),
        "box_px": rng.choice([10.0, 48.0, 95.9, 96.0, 500.0], num),
        "side": rng.integers(0, 2, num),
        "distance_m": rng.choice([0.3, 0.4, 0.79, 2.0, np.nan], num),
        "truncated": rng.random(num) < 0.5,
    }
    table["found"] = table["labelled"] & (rng.random(num) < 0.7)
    for name in FIGURES:
        table[name] = np.where(table["found"], rng.random(num), np.nan)
    table["mask_iou"] = np.full(num, np.nan)
    strata = stratify(table)
    assert list(strata) == [cut.name for cut in STRATIFICATIONS]
    for cut in STRATIFICATIONS:
        counted = 0
        for stratum in strata[cut.name]:
            low = -np.inf if stratum["low"] is None else stratum["low"]
            high = np.inf if stratum["high"] is None else stratum["high"]
            inside = [i for i in range(num) if table["labelled"][i] and low <= float(table[cut.column][i]) < high]
            counted += len(inside)
            assert stratum["label"] in cut.labels
            assert stratum["hands"] == len(inside)
            assert stratum["images"] == len({int(table["image"][i]) for i in inside})
            assert stratum["found"] == sum(bool(table["found"][i]) for i in inside)
            assert stratum["figures"]["recall"]["mean"] == pytest.approx(stratum["found"] / len(inside), rel=1e-4)
            values = [table["epe_mm"][i] for i in inside if table["found"][i]]
            figure = stratum["figures"]["epe_mm"]
            assert figure["mean"] == pytest.approx(np.mean(values), rel=1e-4)
            assert figure["hands"] == len(values)
            assert figure["ci95"][0] < figure["mean"] < figure["ci95"][1]
            assert "mask_iou" not in stratum["figures"]
        known = ~np.isnan(table[cut.column].astype(float))
        assert counted == (known & table["labelled"]).sum(), cut.name


def test_predictions_under_another_joint_convention(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model = Predictor.load(tmp_path / "model")
    hand = resolve_hand("free")
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    centers = [np.array([[20.0, 30.0], [40.0, 30.0]]), np.zeros((0, 2))]
    (own, nothing) = model.predict(images, None, centers)
    assert nothing == []
    for name, convention in JOINT_CONVENTIONS.items():
        first, none = ConvertedJoints(model, model.layer, name).predict(images, None, centers)
        assert none == []
        for before, after in zip(own, first, strict=True):
            np.testing.assert_array_equal(after.vertices_m, before.vertices_m)
            if name == "model":  # what the model was trained with
                np.testing.assert_allclose(after.keypoints_m, before.keypoints_m, atol=2e-6)
                np.testing.assert_allclose(after.keypoints_px, before.keypoints_px, atol=1e-2)
            if name == "manopth":
                tips = before.vertices_m[FINGERTIP_VERTICES[before.side]]
                np.testing.assert_allclose(after.keypoints_m[4::4], tips, atol=1e-6)
                kinematic = [0, *(finger + k for finger in range(1, 21, 4) for k in range(3))]
                np.testing.assert_allclose(after.keypoints_m[kinematic], before.keypoints_m[kinematic], atol=2e-6)
            if convention.regressed:
                regressor = model.layer.J_regressor[min(before.side, len(model.layer.J_regressor) - 1)].numpy()
                tips = before.vertices_m[tip_vertices(hand, convention)[before.side]]  # the free hand's own where MANO's lie elsewhere
                joints = np.concatenate([regressor @ before.vertices_m, tips])[MANO_TO_STD]
                np.testing.assert_allclose(after.keypoints_m, joints, atol=1e-6)
            pixels = after.keypoints_m @ after.K.T
            np.testing.assert_allclose(after.keypoints_px, pixels[:, :2] / pixels[:, 2:], atol=1e-2)
