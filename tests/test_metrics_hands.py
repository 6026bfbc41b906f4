"""Measures of images with two hands, of camera space and of keypoint similarity, against loops written from their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handnet.metrics import (
    SIGMAS,
    average_precision,
    camera_space_errors,
    epe,
    hand_similarities,
    handedness_accuracy,
    interhand_mpjpe,
    keypoint_similarity,
    match_detections,
    mpjpe,
    root_align,
    root_offset,
    scale_root_align,
    scale_root_offset,
)

TOLERANCE = 1e-6


def two_hands(rng, num, noise=5.0):
    target = rng.normal(0, 60, (num, 2, 21, 3)) + [0, 0, 900]
    return target + rng.normal(0, noise, target.shape), target, rng.random((num, 2, 21)) < 0.8


def naive_interhand(predicted, target, valid):
    """Joint by joint, as the benchmark describes it: 42 lists of errors, then means of means."""
    lists = {kind: [[] for _ in range(42)] for kind in ("all", "single", "interacting")}
    for n in range(len(target)):
        counted = [[bool(valid[n, h, j] and valid[n, h, 0]) for j in range(21)] for h in range(2)]
        kind = "interacting" if any(counted[0]) and any(counted[1]) else "single"
        for h in range(2):
            for j in range(21):
                if counted[h][j]:
                    a = predicted[n, h, j] - predicted[n, h, 0]
                    b = target[n, h, j] - target[n, h, 0]
                    for name in ("all", kind):
                        lists[name][21 * h + j].append(math.dist(a, b))
    means = {name: [sum(errors) / len(errors) for errors in joints if errors] for name, joints in lists.items()}
    return {name: sum(values) / len(values) if values else math.nan for name, values in means.items()}


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_interhand_errors_follow_the_loop(seed, num):
    rng = np.random.default_rng(seed)
    predicted, target, valid = two_hands(rng, num)
    valid[rng.random(num) < 0.4, rng.integers(0, 2)] = False  # images of one hand
    valid[rng.random((num, 2)) < 0.2, 0] = False  # hands without a valid root
    target[~valid] = np.nan  # what is not labelled is never looked at
    found, expected = interhand_mpjpe(predicted, target, valid), naive_interhand(predicted, target, valid)
    assert found.keys() == expected.keys()
    for kind, value in expected.items():
        assert found[kind] == pytest.approx(value, abs=TOLERANCE, nan_ok=True), kind


def test_interhand_errors_of_degenerate_images():
    _, target, _ = two_hands(np.random.default_rng(0), 1)
    everything = np.ones((1, 2, 21), bool)
    same = interhand_mpjpe(target, target, everything)
    assert same["all"] == same["interacting"] == 0
    assert math.isnan(same["single"])
    assert interhand_mpjpe(target + [5.0, -3.0, 90.0], target, everything)["all"] == pytest.approx(0, abs=TOLERANCE)
    mirrored = target * [-1, 1, 1]
    assert interhand_mpjpe(mirrored, target, everything)["all"] == pytest.approx(naive_interhand(mirrored, target, everything)["all"])
    zero = np.zeros_like(target)
    assert interhand_mpjpe(zero, target, everything)["all"] == pytest.approx(naive_interhand(zero, target, everything)["all"])
    assert math.isnan(interhand_mpjpe(target, target, ~everything)["all"])
    broken = target.copy()
    broken[0, 1, 3] = np.nan
    with pytest.raises(ValueError, match="predicted: expected finite numbers"):
        interhand_mpjpe(broken, target, everything)
    with pytest.raises(ValueError, match="expected one shape"):
        interhand_mpjpe(target[:, 0], target[:, 0], everything)


def test_handedness_counts_images_where_both_hands_are_right():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.51], [0.5, 0.9], [0.2, 0.1]])
    present = np.array([[True, False], [True, True], [False, True], [False, True]])
    assert handedness_accuracy(probabilities, present) == pytest.approx(0.75)  # exactly 0.5 is not present
    assert handedness_accuracy(probabilities, present, np.array([False, False, True, True])) == pytest.approx(0.5)
    assert math.isnan(handedness_accuracy(probabilities, present, np.zeros(4, bool)))
    with pytest.raises(ValueError, match="expected one shape"):
        handedness_accuracy(probabilities, present[:2])


def test_epe_and_camera_space_errors_follow_the_loop():
    rng = np.random.default_rng(1)
    target = rng.normal(0, 0.05, (5, 21, 3)) + [0, 0, 0.7]
    predicted = target + rng.normal(0, 0.01, target.shape)
    distances = [[math.dist(p - a[0], t - b[0]) for p, t in zip(a, b, strict=True)] for a, b in zip(predicted, target, strict=True)]
    assert epe(predicted, target) == pytest.approx(np.mean(distances), abs=TOLERANCE)
    assert epe(predicted, target, root=None) == pytest.approx(mpjpe(predicted, target))
    assert epe(predicted + 1.0, target) == pytest.approx(epe(predicted, target), abs=TOLERANCE)
    expected = [sum(math.dist(p, t) for p, t in zip(a, b, strict=True)) / 21 for a, b in zip(predicted, target, strict=True)]
    np.testing.assert_allclose(camera_space_errors(predicted, target), expected, atol=TOLERANCE)
    with pytest.raises(ValueError, match="at least one sample"):
        epe(predicted[:0], target[:0])


def test_meshes_move_with_their_joints():
    rng = np.random.default_rng(2)
    target, predicted = rng.normal(size=(2, 4, 21, 3))
    vertices = np.concatenate([predicted, rng.normal(size=(4, 30, 3))], axis=1)
    moved = vertices + root_offset(predicted, target, root=9)
    np.testing.assert_allclose(moved[:, :21], root_align(predicted, target, root=9), atol=1e-12)
    factor, offset = scale_root_offset(predicted, target)
    np.testing.assert_allclose((vertices * factor + offset)[:, :21], scale_root_align(predicted, target), atol=1e-12)
    np.testing.assert_allclose(moved[:, 25] - moved[:, 9], vertices[:, 25] - vertices[:, 9], atol=1e-12)


def naive_similarity(predicted, target, known):
    points = [i for i in range(21) if known[i]]
    size = max(max(target[i, axis] for i in points) - min(target[i, axis] for i in points) for axis in (0, 1))
    terms = [math.exp(-(math.dist(predicted[i], target[i]) ** 2) / (2 * size**2 * (2 * SIGMAS[i]) ** 2)) for i in points]
    return sum(terms) / len(terms)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_keypoint_similarity_follows_the_loop(seed):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 100, (3, 21, 2))
    predicted = np.concatenate([target + rng.normal(0, 4, target.shape), rng.uniform(0, 100, (1, 21, 2))])
    known = rng.random((3, 21)) < 0.7
    known[:, :2] = True
    similarity = keypoint_similarity(predicted, np.where(known[..., None], target, np.nan), known)
    for d in range(4):
        for h in range(3):
            assert similarity[d, h] == pytest.approx(naive_similarity(predicted[d], target[h], known[h]), abs=TOLERANCE)
    np.testing.assert_array_equal(hand_similarities(predicted[:3], target, known), np.diag(similarity))


def test_matching_by_keypoint_similarity():
    rng = np.random.default_rng(3)
    hands = rng.uniform(0, 100, (2, 21, 2)) + np.array([[[0, 0]], [[300, 0]]])
    known = np.ones((2, 21), bool)
    predicted = np.stack([hands[1] + 1.0, hands[0] + 2.0, hands[0] + 40.0])
    np.testing.assert_allclose(keypoint_similarity(hands, hands, known), np.eye(2), atol=1e-6)
    matches = match_detections([predicted], [np.array([0.9, 0.8, 0.95])], [hands], [known], min_similarity=0.5)
    assert matches.hand_of_detection.tolist() == [1, 0, -1]
    assert average_precision(matches) == pytest.approx(2 / 3)  # the best scored one found nothing
    exact = keypoint_similarity(predicted, hands, known)[1, 0]
    at = match_detections([predicted], [np.array([0.9, 0.8, 0.95])], [hands], [known], min_similarity=float(exact))
    assert at.hand_of_detection.tolist() == [1, 0, -1]  # reaching it is enough
    assert keypoint_similarity(predicted[:0], hands, known).shape == (0, 2)
    assert hand_similarities(predicted[:0], hands[:0], known[:0]).shape == (0,)
    with pytest.raises(ValueError, match="as many predictions as hands, got 3 and 2"):
        hand_similarities(predicted, hands, known)
    with pytest.raises(ValueError, match="as many keypoints"):
        keypoint_similarity(predicted[:, :4], hands[:, :4], known[:, :4])
