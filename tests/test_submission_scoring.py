"""Scores of packages against the servers' scripts, spelled out one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
from fake_packages import in_layout, right_hands, write_zip
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import cdist

from pipelines.submission.layouts import LAYOUTS
from pipelines.submission.packing import write_package
from pipelines.submission.scoring import load_submission, score_submission


@pytest.fixture(scope="module")
def hands():
    return right_hands()


def naive_scores(xyz, verts, gt_xyz, gt_verts, layout):
    """The servers' scripts, one sample at a time."""

    def align(a, b):
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        size = np.linalg.norm(a) + 1e-8
        a, b = a / size, b / (np.linalg.norm(b) + 1e-8)
        rotation, scale = orthogonal_procrustes(a, b)
        return b @ rotation.T * scale * size + mean_a

    def rotate(a, b):
        """Kabsch's: the least-squares similarity among those that are no reflections."""
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        u, d, vt = np.linalg.svd(b.T @ a)
        fix = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        return (d * fix).sum() / (b**2).sum() * b @ (u * fix) @ vt + mean_a

    def scale_translate(a, b):
        length = np.linalg.norm(b[4] - b[0])
        b = b / length * np.linalg.norm(a[4] - a[0])
        return b - b[0] + a[0]

    def f(a, b, threshold):
        distances = cdist(a, b)
        recall, precision = (distances.min(0) < threshold).mean(), (distances.min(1) < threshold).mean()
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0

    distances = {}
    f_scores = {}
    ours = "al_no_reflection"
    for x, v, gx, gv in zip(xyz, verts, gt_xyz, gt_verts, strict=True):
        pairs = {"xyz": (x, gx), "mesh": (v, gv), "mesh_al": (align(gv, v), gv)}
        if layout == "freihand":
            pairs["xyz_al"] = (align(gx, x), gx)
        else:
            pairs["xyz_procrustes_al"] = (align(gx, x), gx)
            pairs["xyz_scale_trans_al"] = (scale_translate(gx, x), gx)
        pairs |= {f"xyz_{ours}": (rotate(gx, x), gx), f"mesh_{ours}": (rotate(gv, v), gv)}
        for name, (a, b) in pairs.items():
            distances.setdefault(name, []).append(np.linalg.norm(a - b, axis=1))
        for t in (5, 15):
            f_scores.setdefault(f"f_score_{t}", []).append(f(gv, v, t / 1000))
            f_scores.setdefault(f"f_al_score_{t}", []).append(f(gv, align(gv, v), t / 1000))
            f_scores.setdefault(f"f_{ours}_score_{t}", []).append(f(gv, rotate(gv, v), t / 1000))
    scores = {name: float(np.mean(values)) for name, values in f_scores.items()}
    thresholds = np.linspace(0, 0.05, 100)
    for name, values in distances.items():
        values = np.array(values)
        curves = np.array([(values <= t).mean(axis=0) for t in thresholds])
        scores[f"{name}_mean3d"] = float(values.mean()) * 100
        scores[f"{name}_auc3d"] = float(np.mean([np.trapezoid(curve, thresholds) for curve in curves.T]) / 0.05)
    return scores


FREIHAND_KEYS = """xyz_mean3d xyz_auc3d xyz_al_mean3d xyz_al_auc3d mesh_mean3d mesh_auc3d mesh_al_mean3d mesh_al_auc3d
    f_score_5 f_al_score_5 f_score_15 f_al_score_15"""
HO3D_KEYS = """xyz_mean3d xyz_auc3d xyz_procrustes_al_mean3d xyz_procrustes_al_auc3d xyz_scale_trans_al_mean3d xyz_scale_trans_al_auc3d
    mesh_mean3d mesh_auc3d mesh_al_mean3d mesh_al_auc3d f_score_5 f_al_score_5 f_score_15 f_al_score_15"""


@pytest.mark.parametrize(("name", "keys"), [("freihand", FREIHAND_KEYS), ("ho3d", HO3D_KEYS), ("ho3d-v3", HO3D_KEYS)])
def test_scores_are_the_servers(tmp_path, hands, name, keys, monkeypatch):
    rng = np.random.default_rng(1)
    gt_xyz, gt_verts = in_layout(hands, name)
    predicted = [points + rng.normal(0, 0.01, points.shape) for points in hands]
    predicted[0][4] *= [-1, 1, 1]  # a mirrored hand
    predicted[1][4] *= [-1, 1, 1]
    path = tmp_path / "pred.zip"
    write_package(path, *predicted, LAYOUTS[name])
    monkeypatch.setattr("pipelines.submission.scoring.CHUNK", 4)  # a remainder of 2
    scores = score_submission(path, gt_xyz, gt_verts, name)
    assert list(scores.server) == keys.split()
    expected = naive_scores(*(points.astype(np.float64) for points in load_submission(path)), gt_xyz, gt_verts, name)
    found = scores.server | scores.ours
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    assert found["f_score_5"] < found["f_score_15"]


@pytest.mark.parametrize("name", ["freihand", "ho3d"])
def test_scores_of_degenerate_predictions(hands, name):
    gt_xyz, gt_verts = in_layout(hands, name)
    perfect = score_submission((gt_xyz, gt_verts), gt_xyz, gt_verts, name)
    assert perfect.server["xyz_mean3d"] == 0
    assert perfect.server["f_score_5"] == perfect.ours["f_al_no_reflection_score_5"] == 1
    mirrored = score_submission((gt_xyz * [-1, 1, 1], gt_verts * [-1, 1, 1]), gt_xyz, gt_verts, name)
    assert mirrored.server["mesh_al_mean3d"] == pytest.approx(0, abs=1e-6)
    assert mirrored.ours["mesh_al_no_reflection_mean3d"] > 0.3
    zero = score_submission((gt_xyz * 0, gt_verts * 0), gt_xyz, gt_verts, name)
    assert zero.server["xyz_mean3d"] == pytest.approx(100 * np.linalg.norm(gt_xyz, axis=2).mean())
    spread = np.linalg.norm(gt_verts - gt_verts.mean(1, keepdims=True), axis=2).mean()
    assert zero.server["mesh_al_mean3d"] == pytest.approx(100 * spread, abs=1e-6)
    assert zero.server["mesh_mean3d"] == pytest.approx(100 * np.linalg.norm(gt_verts, axis=2).mean())
    near = np.linalg.norm(gt_verts - gt_verts.mean(1, keepdims=True), axis=2)  # every vertex of a zero lands on the mean
    precision, recall = (near.min(1) < 0.015).astype(float), (near < 0.015).mean(1)
    assert zero.server["f_al_score_15"] == pytest.approx((2 * precision * recall / np.maximum(precision + recall, 1e-12)).mean())
    one = score_submission((gt_xyz[:1] + [0.01, 0, 0], gt_verts[:1]), gt_xyz[:1], gt_verts[:1], name)
    assert one.server["xyz_mean3d"] == pytest.approx(1.0)
    assert one.server["xyz_auc3d"] == pytest.approx(0.80303, abs=5e-6)


def test_rounding_to_five_decimals_hardly_moves_a_score(tmp_path, hands):
    rng = np.random.default_rng(2)
    many = [np.tile(points, (40, 1, 1)) for points in hands]
    predicted = [points + rng.normal(0, 0.005, points.shape) for points in many]
    layout = LAYOUTS["ho3d"]
    truth = layout.joints(many[0]), layout.vertices(many[1])
    write_package(tmp_path / "pred.zip", *predicted, layout)
    read_back = score_submission(tmp_path / "pred.zip", *truth, "ho3d").server
    exact = score_submission((layout.joints(predicted[0]), layout.vertices(predicted[1])), *truth, "ho3d").server
    for name, value in exact.items():
        # 2.9 um of rounding, averaged over 240 wrists, is 2e-5 cm; a vertex more or less within 5 mm is 5e-6
        assert read_back[name] == pytest.approx(value, abs=5e-5 if name.endswith("mean3d") else 1e-4), name


def test_scoring_refuses_what_it_cannot_score(tmp_path, hands):
    xyz, verts = hands
    with pytest.raises(ValueError, match="xyz: expected predictions and truth of one shape"):
        score_submission((xyz[:3], verts[:3]), xyz, verts, "freihand")
    with pytest.raises(ValueError, match=r"pred\.json: not at the zip's root"):
        score_submission(write_zip(tmp_path / "x.zip", [], "x.json"), xyz, verts, "freihand")
