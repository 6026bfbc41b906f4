"""3D metrics against loops that spell the servers' definitions out one sample at a time, and against known values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from handnet.metrics import (
    AUC_THRESHOLDS_M,
    auc,
    f_score,
    mpjpe,
    mpvpe,
    mrrpe,
    pck,
    point_errors,
    procrustes,
    root_align,
    scale_root_align,
    surface_distances,
)

TOLERANCE = 1e-6


def naive_procrustes(predicted, target):
    aligned = np.empty_like(target)
    for n in range(len(target)):
        mean_target = target[n].mean(0)
        a, b = target[n] - mean_target, predicted[n] - predicted[n].mean(0)
        size = np.linalg.norm(a) + 1e-8
        a, b = a / size, b / (np.linalg.norm(b) + 1e-8)
        rotation, scale = orthogonal_procrustes(a, b)
        aligned[n] = (b @ rotation.T * scale) * size + mean_target
    return aligned


def naive_rotation_only(predicted, target):
    aligned = np.empty_like(target)
    for n in range(len(target)):
        mean_target, mean = target[n].mean(0), predicted[n].mean(0)
        a, b = target[n] - mean_target, predicted[n] - mean
        u, d, vt = np.linalg.svd(b.T @ a)
        fix = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        scale = np.trace(np.diag(d) @ fix) / (b**2).sum()
        aligned[n] = scale * b @ u @ fix @ vt + mean_target
    return aligned


def naive_pck(errors, thresholds):
    curve = []
    for threshold in thresholds:
        per_point = []
        for point in range(errors.shape[1]):
            correct = [errors[n, point] <= threshold for n in range(len(errors))]
            per_point.append(sum(correct) / len(correct))
        curve.append(sum(per_point) / len(per_point))
    return np.array(curve)


def naive_f_score(predicted, target, threshold):
    scores = []
    for a, b in zip(predicted, target, strict=True):
        precision = sum(min(math.dist(p, q) for q in b) < threshold for p in a) / len(a)
        recall = sum(min(math.dist(p, q) for q in a) < threshold for p in b) / len(b)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0)
    return np.array(scores)


def hands(rng, num=7, points=21, noise=0.01):
    target = rng.normal(0, 0.05, (num, points, 3)) + np.array([0, 0, 0.7])
    return target + rng.normal(0, noise, target.shape), target


def random_rotation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, [1, 0, 2]]


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.05, 1.0])
@pytest.mark.parametrize("num", [1, 7])
def test_procrustes_follows_the_servers_loop(noise, num):
    predicted, target = hands(np.random.default_rng(3), num, noise=noise)
    np.testing.assert_allclose(procrustes(predicted, target), naive_procrustes(predicted, target), atol=TOLERANCE)
    np.testing.assert_allclose(
        procrustes(predicted, target, allow_reflection=False), naive_rotation_only(predicted, target), atol=TOLERANCE
    )


def test_procrustes_of_single_precision_is_computed_in_double():
    predicted, target = hands(np.random.default_rng(0))
    single = procrustes(predicted.astype(np.float32), target.astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, naive_procrustes(predicted, target), atol=TOLERANCE)


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
@settings(max_examples=30, deadline=None)
def test_procrustes_undoes_any_similarity(seed, scale):
    rng = np.random.default_rng(seed)
    _, target = hands(rng, 3)
    moved = scale * target @ random_rotation(rng) + rng.normal(size=3)
    for allow_reflection in (True, False):
        np.testing.assert_allclose(procrustes(moved, target, allow_reflection=allow_reflection), target, atol=TOLERANCE)


def test_a_mirrored_hand_scores_0_only_with_reflections():
    _, target = hands(np.random.default_rng(5))
    mirrored = target * [-1, 1, 1]
    assert mpjpe(procrustes(mirrored, target), target) < 1e-7
    assert mpjpe(procrustes(mirrored, target, allow_reflection=False), target) > 0.01


def test_procrustes_of_degenerate_predictions():
    _, target = hands(np.random.default_rng(6))
    zero = np.zeros_like(target)
    for allow_reflection in (True, False):
        collapsed = procrustes(zero, target, allow_reflection=allow_reflection)
        np.testing.assert_allclose(collapsed, np.broadcast_to(target.mean(1, keepdims=True), target.shape), atol=TOLERANCE)
        # all points on a line, and a target that is a single point
        line = np.zeros_like(target)
        line[..., 0] = np.linspace(0, 1, 21)
        assert np.isfinite(procrustes(line, target, allow_reflection=allow_reflection)).all()
        np.testing.assert_allclose(procrustes(target, zero, allow_reflection=allow_reflection), 0, atol=TOLERANCE)
    np.testing.assert_allclose(procrustes(line, target), naive_procrustes(line, target), atol=TOLERANCE)


def test_root_alignment():
    predicted, target = hands(np.random.default_rng(7))
    aligned = root_align(predicted, target, root=9)
    np.testing.assert_allclose(aligned[:, 9], target[:, 9], atol=1e-12)
    np.testing.assert_allclose(aligned - aligned[:, :1], predicted - predicted[:, :1], atol=1e-12)


def test_scale_root_alignment_follows_the_servers_loop():
    predicted, target = hands(np.random.default_rng(8), noise=0.03)
    predicted[3, 9] = predicted[3, 0]  # a bone of length 0
    aligned = scale_root_align(predicted, target)
    for n in range(len(target)):
        hand = predicted[n].copy()
        length = np.sqrt(((hand[9] - hand[0]) ** 2).sum())
        if length > 0:
            hand = hand / length
        hand = hand * np.sqrt(((target[n, 9] - target[n, 0]) ** 2).sum())
        np.testing.assert_allclose(aligned[n], hand - hand[0] + target[n, 0], atol=TOLERANCE)


def test_mean_errors_follow_the_loop():
    predicted, target = hands(np.random.default_rng(9))
    total = [math.dist(p, t) for a, b in zip(predicted, target, strict=True) for p, t in zip(a, b, strict=True)]
    assert mpjpe(predicted, target) == pytest.approx(sum(total) / len(total), abs=TOLERANCE)
    assert mpvpe(predicted, target) == pytest.approx(sum(total) / len(total), abs=TOLERANCE)
    assert point_errors(predicted[..., :2], target[..., :2])[2, 4] == pytest.approx(math.dist(predicted[2, 4, :2], target[2, 4, :2]))
    assert mpjpe(target, target) == 0


def test_mrrpe():
    left, right = np.array([[0.1, 0, 0.5]]), np.array([[-0.1, 0, 0.5]])
    assert mrrpe(left, right, left + 0.3, right + 0.3) == pytest.approx(0)
    assert mrrpe(left, right, left, right + np.array([[0, 0.03, 0]])) == pytest.approx(0.03)


@pytest.mark.parametrize(("error_m", "expected"), [(0.0, 1.0), (0.010, 0.80303), (0.025, 0.5), (0.050, 0.00505), (0.051, 0.0)])
def test_auc_of_a_constant_error(error_m, expected):
    assert auc(np.full((5, 21), error_m)) == pytest.approx(expected, abs=5e-6)


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_pck_and_auc_follow_the_loop(seed, num):
    rng = np.random.default_rng(seed)
    errors = rng.exponential(0.02, (num, 5))
    errors[rng.random(errors.shape) < 0.3] = rng.choice(AUC_THRESHOLDS_M)  # ties: exactly at a threshold is correct
    curve = naive_pck(errors, AUC_THRESHOLDS_M)
    np.testing.assert_allclose(pck(errors), curve, atol=1e-12)
    area = sum((curve[i] + curve[i + 1]) / 2 * (AUC_THRESHOLDS_M[i + 1] - AUC_THRESHOLDS_M[i]) for i in range(99)) / 0.05
    assert auc(errors) == pytest.approx(area, abs=1e-9)


def test_pck_with_invalid_points():
    errors = np.array([[0.01, 0.04, np.nan], [0.03, np.nan, np.nan]])
    valid = np.array([[True, True, False], [True, False, False]])
    # point 0: one of two below 2 cm, point 1: none of one, point 2 does not count
    np.testing.assert_allclose(pck(errors, np.array([0.02]), valid), [(0.5 + 0.0) / 2])
    with pytest.raises(ValueError, match="at least one valid point"):
        pck(errors, valid=np.zeros_like(valid))


@pytest.mark.parametrize("threshold", [0.005, 0.015])
def test_f_score_follows_the_loop(threshold):
    rng = np.random.default_rng(11)
    target = rng.normal(0, 0.02, (3, 60, 3))
    predicted = target + rng.normal(0, 0.006, target.shape)
    predicted[2] += 1.0  # far away: nothing is near
    scores = f_score(surface_distances(predicted, target), threshold)
    np.testing.assert_allclose(scores, naive_f_score(predicted, target, threshold), atol=TOLERANCE)
    assert scores[2] == 0
    assert 0 < scores[0] < 1


def test_surface_distances_are_the_nearest_neighbours_of_a_search_tree():
    rng = np.random.default_rng(12)
    predicted, target = rng.normal(0, 0.05, (4, 778, 3)), rng.normal(0, 0.05, (4, 500, 3))
    to_target, to_predicted = surface_distances(predicted, target)
    for n in range(4):
        np.testing.assert_allclose(to_target[n], cKDTree(target[n]).query(predicted[n])[0], atol=1e-12)
        np.testing.assert_allclose(to_predicted[n], cKDTree(predicted[n]).query(target[n])[0], atol=1e-12)


def test_f_score_is_strict_at_the_threshold():
    target = np.zeros((1, 1, 3))
    predicted = np.array([[[0.5, 0.0, 0.0]]])
    distances = surface_distances(predicted, target)
    assert f_score(distances, 0.5)[0] == 0
    assert f_score(distances, np.nextafter(0.5, 1))[0] == 1
    assert f_score(surface_distances(target, target), 0.005)[0] == 1


POINT_METRICS = [procrustes, lambda p, t: root_align(p, t, root=0), scale_root_align, mpjpe, mpvpe, point_errors, surface_distances]


@pytest.mark.parametrize("metric", POINT_METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_by_name(metric, bad):
    predicted, target = hands(np.random.default_rng(13))
    predicted[4, 2, 1] = bad
    with pytest.raises(ValueError, match=r"predicted: expected finite numbers.*first in sample 4"):
        metric(predicted, target)
    with pytest.raises(ValueError, match="target: expected finite"):
        metric(target, predicted)


@pytest.mark.parametrize("metric", POINT_METRICS)
def test_wrong_shapes_are_refused(metric):
    predicted, target = hands(np.random.default_rng(14))
    with pytest.raises(ValueError, match=r"expected (one shape|the same number)"):
        metric(predicted[:3], target)
    with pytest.raises(ValueError, match="expected shape"):
        metric(predicted[0], target[0])


def test_other_impossible_arguments_are_refused():
    predicted, target = hands(np.random.default_rng(15))
    with pytest.raises(ValueError, match="root: expected a point index"):
        root_align(predicted, target, root=21)
    with pytest.raises(ValueError, match="tip: expected a point index"):
        scale_root_align(predicted, target, tip=-1)
    with pytest.raises(ValueError, match="at least one sample"):
        mpjpe(predicted[:0], target[:0])
    with pytest.raises(ValueError, match="threshold"):
        f_score(surface_distances(predicted, target), 0.0)
    with pytest.raises(ValueError, match="ascending"):
        pck(np.zeros((2, 2)), np.array([0.2, 0.1]))
    with pytest.raises(ValueError, match="finite"):
        pck(np.array([[np.nan]]))
