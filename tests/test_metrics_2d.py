"""2D keypoint errors and detection metrics against loops and against cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handnet.metrics import (
    average_precision,
    hand_errors_px,
    hand_sizes_px,
    hand_type_accuracy,
    match_detections,
    precision_recall,
)

# similarity of one keypoint is then exp(-2 (d / size)^2): half a hand away is 0.61
FOUR, FIVE = np.full(4, 0.25), np.full(5, 0.25)


def square(x, y, side=10.0):
    """Four keypoints of a hand of the given size at (x, y)."""
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], dtype=float)


def labels_of(targets):
    return [np.ones(np.shape(t)[:2], dtype=bool) for t in targets]


def naive_match(predicted, scores, targets, labelled, threshold):
    """(detection, hand) pairs per image, by descending score."""
    result = []
    for detections, score, hands, known in zip(predicted, scores, targets, labelled, strict=True):
        free, pairs = set(range(len(hands))), []
        for d in sorted(range(len(detections)), key=lambda i: -score[i]):
            best, best_similarity = None, -math.inf
            for h in sorted(free):
                points = [i for i in range(hands.shape[1]) if known[h, i]]
                size = max(max(hands[h, i, axis] for i in points) - min(hands[h, i, axis] for i in points) for axis in (0, 1))
                similarity = sum(math.exp(-2 * (math.dist(detections[d, i], hands[h, i]) / size) ** 2) for i in points) / len(points)
                if similarity > best_similarity:
                    best, best_similarity = h, similarity
            if best is not None and best_similarity >= threshold:
                free.remove(best)
                pairs.append((d, best))
        result.append(sorted(pairs))
    return result


def naive_average_precision(flags_by_score, num_hands):
    precisions, recalls, found = [], [], 0
    for count, flag in enumerate(flags_by_score, 1):
        found += flag
        precisions.append(found / count)
        recalls.append(found / num_hands)
    area, last = 0.0, 0.0
    for i, recall in enumerate(recalls):
        area += (recall - last) * max(precisions[i:])
        last = recall
    return area


def test_hand_size_is_the_longer_side_of_the_labelled_box():
    hand = np.array([[[0, 0], [30, 5], [10, 20], [np.nan, np.nan]], [[0, 0], [1, 7], [400, 0], [2, 2]]])
    labelled = np.array([[True, True, True, False], [True, True, False, True]])
    np.testing.assert_allclose(hand_sizes_px(hand, labelled), [30, 7])


def test_hand_errors_follow_the_loop():
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(5, 21, 2)), rng.normal(size=(5, 21, 2))
    counted = rng.random((5, 21)) < 0.6
    counted[3] = False
    target[~counted] = np.nan
    errors = hand_errors_px(predicted, target, counted)
    for n in range(5):
        distances = [math.dist(predicted[n, i], target[n, i]) for i in range(21) if counted[n, i]]
        assert (errors[n] == pytest.approx(sum(distances) / len(distances), abs=1e-6)) if distances else np.isnan(errors[n])
    assert np.isnan(errors[3])
    assert hand_errors_px(predicted, predicted).max() == 0


def test_bad_2d_input_is_refused():
    hands = np.stack([square(0, 0), square(5, 5)])
    with pytest.raises(ValueError, match="hands of a size > 0"):
        hand_sizes_px(np.zeros((1, 4, 2)))
    with pytest.raises(ValueError, match="at least one labelled keypoint"):
        hand_sizes_px(hands, np.array([[True] * 4, [False] * 4]))
    with pytest.raises(ValueError, match="finite"):
        hand_sizes_px(hands * np.nan)
    with pytest.raises(ValueError, match="predicted_px: expected finite"):
        hand_errors_px(hands * np.nan, hands)
    with pytest.raises(ValueError, match="target_px: expected finite"):
        hand_errors_px(hands, hands * np.nan)
    with pytest.raises(ValueError, match="one shape"):
        hand_errors_px(hands, hands[:1])


def test_each_hand_is_found_once_and_the_higher_score_takes_it():
    hand = square(0, 0)
    matches = match_detections(
        [np.stack([hand + 1, hand, hand + 100])],
        [np.array([0.5, 0.9, 0.7])],
        [hand[None]],
        labels_of([hand[None]]),
        min_similarity=0.6,
        sigmas=FOUR,
    )
    np.testing.assert_array_equal(matches.hand_of_detection, [-1, 0, -1])
    np.testing.assert_array_equal(matches.detection_of_hand, [1])
    assert precision_recall(matches) == (pytest.approx(1 / 3), 1.0)
    assert average_precision(matches) == pytest.approx(1.0)  # the one hand is found by the best score
    np.testing.assert_array_equal(matches.above(0.6).hand_of_detection, [0, -1])
    assert precision_recall(matches.above(0.95)) == (pytest.approx(float("nan"), nan_ok=True), 0.0)


def test_similarity_is_relative_to_the_hands_size_and_reaching_the_threshold_is_enough():
    hand = square(0, 0, side=10.0)
    for size, shift, found in ((1, 4.99, True), (1, 5.01, False), (3, 14.99, True), (3, 15.01, False), (1, 0.0, True)):
        large, least = hand[None] * size, 1.0 if shift == 0 else math.exp(-0.5)
        matches = match_detections(
            [large + np.array([shift, 0])], [np.ones(1)], [large], labels_of([large]), min_similarity=least, sigmas=FOUR
        )
        assert (matches.detection_of_hand[0] >= 0) == found


def test_a_second_detection_may_take_the_next_nearest_hand():
    hands = np.stack([square(0, 0), square(3, 0)])
    detections = np.stack([square(1, 0), square(1, 0)])
    matches = match_detections([detections], [np.array([0.9, 0.8])], [hands], labels_of([hands]), min_similarity=0.5, sigmas=FOUR)
    np.testing.assert_array_equal(matches.hand_of_detection, [0, 1])


def test_images_without_hands_or_without_detections():
    hand, none = square(0, 0)[None], np.zeros((0, 4, 2))
    targets = [hand, none, none]
    matches = match_detections([none, hand, none], [[], [0.4], []], targets, labels_of(targets), min_similarity=0.5, sigmas=FOUR)
    assert precision_recall(matches) == (0.0, 0.0)
    assert average_precision(matches) == 0.0
    np.testing.assert_array_equal(matches.image_of_hand, [0])
    np.testing.assert_array_equal(matches.image_of_detection, [1])
    empty = match_detections([], [], [], [], min_similarity=0.5)
    assert all(math.isnan(value) for value in (*precision_recall(empty), average_precision(empty)))


@given(st.integers(0, 100_000))
@settings(max_examples=60, deadline=None)
def test_matching_and_ap_follow_the_loop(seed):
    rng = np.random.default_rng(seed)
    targets, predicted, scores, labelled = [], [], [], []
    for _ in range(4):
        hands = rng.uniform(0, 40, (rng.integers(0, 5), 1, 2)) + rng.uniform(0, 12, (1, 5, 2))
        detections = rng.uniform(0, 40, (rng.integers(0, 7), 1, 2)) + rng.uniform(0, 12, (1, 5, 2))
        known = rng.random((len(hands), 5)) < 0.8
        known[:, :2] = True
        targets.append(hands)
        predicted.append(detections)
        labelled.append(known)
        scores.append(rng.permutation(100)[: len(detections)] / 100)
    matches = match_detections(predicted, scores, targets, labelled, min_similarity=0.4, sigmas=FIVE)
    expected = naive_match(predicted, scores, targets, labelled, 0.4)
    detection_start = np.cumsum([0, *map(len, predicted)])
    hand_start = np.cumsum([0, *map(len, targets)])
    pairs = sorted((int(detection_start[i] + d), int(hand_start[i] + h)) for i, image in enumerate(expected) for d, h in image)
    assert sorted(zip(*(a.tolist() for a in matches.pairs), strict=True)) == pairs
    flat = np.concatenate(scores)
    flags = [int(matches.hand_of_detection[d] >= 0) for d in np.argsort(-flat, kind="stable")]
    if hand_start[-1]:
        assert average_precision(matches) == pytest.approx(naive_average_precision(flags, hand_start[-1]), abs=1e-9)
    # leaving low scores out afterwards is the same as never having had them
    kept = [s >= 0.5 for s in scores]
    again = match_detections(
        [p[k] for p, k in zip(predicted, kept, strict=True)],
        [s[k] for s, k in zip(scores, kept, strict=True)],
        targets,
        labelled,
        min_similarity=0.4,
        sigmas=FIVE,
    )
    above = matches.above(0.5)
    for name in ("hand_of_detection", "detection_of_hand", "scores", "image_of_detection", "image_of_hand"):
        np.testing.assert_array_equal(getattr(above, name), getattr(again, name))


def test_bad_detection_input_is_refused():
    hand = square(0, 0)[None]
    with pytest.raises(ValueError, match="one entry an image"):
        match_detections([hand], [np.ones(1)], [], [], min_similarity=0.5)
    with pytest.raises(ValueError, match="scores: expected one a detection"):
        match_detections([hand], [np.ones(2)], [hand], labels_of([hand]), min_similarity=0.5, sigmas=FOUR)
    with pytest.raises(ValueError, match="finite"):
        match_detections([hand], [np.array([np.nan])], [hand], labels_of([hand]), min_similarity=0.5, sigmas=FOUR)
    with pytest.raises(ValueError, match="finite"):
        match_detections([hand * np.nan], [np.ones(1)], [hand], labels_of([hand]), min_similarity=0.5, sigmas=FOUR)
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="min_similarity: expected a similarity"):
            match_detections([hand], [np.ones(1)], [hand], labels_of([hand]), min_similarity=wrong, sigmas=FOUR)


def test_hand_type_accuracy():
    assert hand_type_accuracy(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])) == 0.75
    assert math.isnan(hand_type_accuracy(np.array([]), np.array([])))
    with pytest.raises(ValueError, match="one shape"):
        hand_type_accuracy(np.array([0]), np.array([0, 1]))
