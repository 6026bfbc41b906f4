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
    for x, v, gx, gv in zip(xyz, verts, gt_xyz, gt_verts, strict=True):
        pairs = {"xyz": (x, gx), "mesh": (v, gv), "mesh_al": (align(gv, v), gv)}
        if layout == "freihand":
            pairs["xyz_al"] = (align(gx, x), gx)
        else:
            pairs["xyz_procrustes_al"] = (align(gx, x), gx)
            pairs["xyz_scale_trans_al"] = (scale_translate(gx, x), gx)
        for name, (a, b) in pairs.items():
            distances.setdefault(name, []).append(np.linalg.norm(a - b, axis=1))
        for t in (5, 15):
            f_scores.setdefault(f"f_score_{t}", []).append(f(gv, v, t / 1000))
            f_scores.setdefault(f"f_al_score_{t}", []).append(f(gv, align(gv, v), t / 1000))
    scores = {name: float(np.mean(values)) for name, values in f_scores.items()}
    thresholds = np.linspace(0, 0.05, 100)
    for name, values in distances.items():
        values = np.array(values)
        curves = np.array([(values <= t).mean(axis=0) for t in thresholds])
        scores[f"{name}_mean3d"] = float(values.mean()) * 100
        scores[f"{name}_auc3d"] = float(np.mean([np.trapezoid(curve, thresholds) for curve in curves.T]) / 0.05)
    return scores


@pytest.mark.parametrize("name", ["freihand", "ho3d"])
def test_scores_are_the_servers(tmp_path, hands, name):
    rng = np.random.default_rng(1)
    gt_xyz, gt_verts = in_layout(hands, name)
    predicted = [points + rng.normal(0, 0.01, points.shape) for points in hands]
    path = tmp_path / "pred.zip"
    write_package(path, *predicted, LAYOUTS[name])
    scores = score_submission(path, gt_xyz, gt_verts, name)
    expected = naive_scores(*load_submission(path), gt_xyz, gt_verts, name)
    assert set(scores) == set(expected)
    for key, value in expected.items():
        assert scores[key] == pytest.approx(value, abs=1e-6), key
    assert scores["f_score_5"] < scores["f_score_15"]
    perfect = score_submission((gt_xyz, gt_verts), gt_xyz, gt_verts, name)
    assert perfect["xyz_mean3d"] == 0
    assert perfect["f_score_5"] == 1


def test_scoring_refuses_what_it_cannot_score(tmp_path, hands):
    xyz, verts = hands
    with pytest.raises(ValueError, match="xyz: expected predictions and truth of one shape"):
        score_submission((xyz[:3], verts[:3]), xyz, verts, "freihand")
    with pytest.raises(ValueError, match=r"pred\.json: not at the zip's root"):
        score_submission(write_zip(tmp_path / "x.zip", [], "x.json"), xyz, verts, "freihand")
