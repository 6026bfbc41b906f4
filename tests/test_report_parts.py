"""Parts of the report that stand on their own: meshes for the viewer, the paper's tables, images by error, Table IV's marks."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ruamel.yaml import YAML
from test_report_pieces import ROOT

from handnet.hand.layer import HandLayer
from pipelines import published
from pipelines.config import load_params
from pipelines.evaluation.predicted import PredictedHands
from pipelines.reporting.content import Evaluation
from pipelines.reporting.meshes import MeshScene, quantised, viewer_data
from pipelines.reporting.paper import dataset_of, loss_terms, paper_tables, text_results
from pipelines.reporting.predictions import image_errors


def hands(num: int, seed: int = 0) -> PredictedHands:
    rng = np.random.default_rng(seed)
    return PredictedHands(
        side=np.arange(num) % 2,
        score=rng.random(num),
        center_px=np.zeros((num, 2)),
        keypoints_px=np.zeros((num, 21, 2)),
        keypoints_m=np.zeros((num, 21, 3), np.float32),
        vertices_m=rng.normal([0, 0, 0.8], 0.1, (num, 778, 3)).astype(np.float32),
        K=np.repeat(np.array([[[500.0, 0, 111.5], [0, 480, 90], [0, 0, 1]]]), num, 0),
        frame_px=np.zeros(num),
    )


# meshes


@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 9), st.just(3)), elements=st.floats(-5, 5, width=32)))
def test_quantised_coordinates_come_back_to_half_a_step(points: np.ndarray) -> None:
    numbers, low, step = quantised(points)
    assert numbers.dtype == np.dtype("<u2")
    assert (np.abs(low + step * numbers - points) <= step * 0.5001 + 1e-12).all()
    assert (step <= np.ptp(points.astype(np.float64)) / 65535 + 2e-12).all()


def test_the_viewer_gets_every_hand_in_its_camera() -> None:
    colors = np.random.default_rng(1).random((3, 778, 3)).astype(np.float32)
    shown = MeshScene(caption="one", size_px=(224, 180), hands=hands(3), colors=colors)
    plain = MeshScene(caption="two", size_px=(224, 180), hands=hands(1), colors=None)
    nothing = MeshScene(caption="three", size_px=(224, 180), hands=hands(0), colors=None)
    faces = HandLayer().both_faces[1].numpy()
    data = viewer_data([("a", "input-a", shown), ("b", "input-b", plain), ("c", "input-c", nothing)], faces)
    assert [scene["name"] for scene in data["scenes"]] == ["a", "b"]  # nothing to show of the third
    first = data["scenes"][0]
    assert first["lens"] == [500.0, 480.0, 111.5, 90.0]
    assert first["size"] == [224, 180]
    for i, hand in enumerate(first["hands"]):
        numbers = np.frombuffer(base64.b64decode(hand["vertices"]), "<u2").reshape(778, 3)
        np.testing.assert_allclose(np.array(first["low"]) + np.array(first["step"]) * numbers, shown.hands.vertices_m[i], atol=1e-5)
        read = np.frombuffer(base64.b64decode(hand["colors"]), np.uint8).reshape(778, 3)
        np.testing.assert_allclose(read / 255, colors[i], atol=0.5 / 255 + 1e-6)
        assert hand["side"] == i % 2
    assert first["picture_m"] > shown.hands.vertices_m[..., 2].max()
    assert data["scenes"][1]["hands"][0]["colors"] is None
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(data["faces"]), "<u2").reshape(-1, 3), faces)


def test_both_sides_have_the_same_triangles() -> None:
    """The viewer draws left hands with the right hand's faces, seen from either side."""
    left, right = (np.sort(faces.numpy(), axis=1) for faces in HandLayer().both_faces)
    assert {tuple(face) for face in left.tolist()} == {tuple(face) for face in right.tolist()}


# published numbers


def test_published_tables_agree_with_themselves() -> None:
    """The paper's text repeats some numbers of its tables; each column's arrow points to what the paper calls better."""
    own = [row for row in published.TABLE_I.rows if row.is_the_papers]
    assert [published.TABLE_I.number(row, "MPJPE") for row in own] == [0.80, 1.07]
    assert published.TABLE_I.number(published.TABLE_I.rows[6], "MPVPE") is None
    by_terms = {row.settings: row for row in published.TABLE_IV.rows}
    assert len(by_terms) == len(published.TABLE_IV.rows) == 11
    everything = by_terms[("✓",) * 7]
    assert [published.TABLE_IV.number(everything, name) for name in ("MPJPE", "MPVPE")] == [0.80, 0.81]
    assert published.TABLE_III.rows[-1].values == ("20.72",)
    assert {result.error_mm for result in published.IN_THE_TEXT if result.key == "rhd"} == {"20.72", "21.02"}
    for table in (*published.TABLES, published.CENTERS):
        for row in table.rows:
            for name, arrow in zip(table.measures, table.better, strict=True):
                value = table.number(row, name)
                assert value is None or (0 < value < 1) == (arrow == "↑") or name.startswith("MP")


def params_tree(**evaluate: str) -> dict:
    tree = YAML(typ="safe", pure=True).load((ROOT / "pipelines/presets/tiny.yaml").read_text())
    for name, data in evaluate.items():
        tree["evaluate"][name]["data"] = data
    return tree


def evaluated(name: str, **changes: str) -> Evaluation:
    config = load_params(ROOT / "pipelines/presets/tiny.yaml").evaluate[name].model_copy(update=changes)
    ours = {
        "pa_mpjpe_mm": 12.34,
        "pa_mpvpe_mm": 13.46,
        "auc": 0.7654,
        "auc_vertices": 0.7543,
        "f5": 0.4321,
        "f15": 0.9876,
        "epe_mm": 23.456,
    }
    return Evaluation(name=name, config=config, figures={"ours": ours, "count": {}})


def models(supervision: str = "2d") -> dict:
    return {name: SimpleNamespace(description=SimpleNamespace(provenance={"supervision": supervision})) for name in ("crop", "multi")}


def test_only_the_same_dataset_compares() -> None:
    crop, multi = evaluated("crop", data="ingest/freihand/eval"), evaluated("multi")
    tables = {table.published.name: table for table in paper_tables([crop, multi], models("3d"), params_tree())}  # type: ignore[arg-type]
    (row,) = tables["I"].ours
    assert row.settings == ("3D", "yes")
    assert row.values == ("1.23", "0.765", "1.35", "0.754", "0.432", "0.988")
    assert tables["I"].elsewhere == ()
    assert not tables["II"].ours
    assert [row.data for row in tables["II"].elsewhere] == ["FreiHAND"]
    assert "on FreiHAND, not on HO-3D v2: NOT comparable" in tables["II"].not_comparable
    assert not tables["III"].ours
    assert [row.evaluation for row in tables["III"].elsewhere] == ["crop", "multi"]
    assert tables["III"].elsewhere[0].values == ("23.46",)
    rows = text_results([crop, multi], params_tree()).ours
    assert [row.comparable for row in rows] == [True, False]


def test_data_by_name() -> None:
    params = params_tree()
    assert dataset_of("ingest/rhd/eval", params) == ("rhd", "RHD")
    assert dataset_of("ingest/procedural/eval", params) == ("procedural", "rendered procedural hands")
    assert dataset_of("scenes/eval", params) == ("scenes", "scenes composed of rendered procedural hands")


@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({}, "✓✓✓✓✓✓–"),
        ({"loss": {"photometric": 0.0}}, "✓✓✓✓✓––"),
        ({"loss": {"pose_limits": 0.0, "shape_prior": 0.0, "consistency": 0.0, "bones": 0.0}}, "✓–✓––✓–"),
        ({"augment": {"rotate_deg": 0.0, "translate": 0.0, "scale": [1.0, 1.0], "color": 0.0}}, "✓✓–✓✓✓–"),
        ({"supervision": "3d"}, "✓✓✓✓✓✓✓"),
    ],
)
def test_a_runs_place_in_table_iv(changes: dict, marks: str) -> None:
    stage = YAML(typ="safe", pure=True).load((ROOT / "pipelines/presets/demo.yaml").read_text())["train"]["crop"]
    for key, value in changes.items():
        stage[key] = {**stage[key], **value} if isinstance(value, dict) else value
    assert "".join(loss_terms(stage)) == marks


# images by error


def test_images_by_error_follow_the_loop() -> None:
    rng = np.random.default_rng(0)
    keys = np.array([f"{i:03d}" for i in rng.integers(0, 9, 40)])
    errors = np.where(rng.random(40) < 0.3, np.nan, rng.random(40))
    errors[keys == keys[0]] = np.nan  # an image in which nothing was found
    names, means = image_errors({"key": keys, "error_2d_fraction": errors})
    assert names == sorted(set(keys.tolist()))
    for name, mean in zip(names, means, strict=True):
        own = [error for key, error in zip(keys, errors, strict=True) if key == name and not np.isnan(error)]
        assert (np.isnan(mean) and not own) or mean == pytest.approx(np.mean(own))
