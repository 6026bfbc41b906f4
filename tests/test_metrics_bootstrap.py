"""Bootstrap intervals against loops over the same draws and against theory; mask overlap against pixels counted one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handnet.metrics import bootstrap_mean, bootstrap_ratio, bootstrap_statistic, bootstrap_sums, mask_iou, mask_overlap


def naive_draws(num_groups, num_resamples, seed):
    return np.random.default_rng(seed).integers(0, num_groups, (num_resamples, num_groups))


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_intervals_follow_the_loop(seed, num):
    rng = np.random.default_rng(seed)
    values = rng.exponential(1.0, (num, 2))
    values[rng.random(values.shape) < 0.2] = np.nan
    groups = rng.integers(0, 4, num) * 7
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    means, ratios = [], []
    for draw in naive_draws(len(members), 50, seed):
        chosen = np.concatenate([members[g] for g in draw])
        known = [[values[i, k] for i in chosen if not np.isnan(values[i, k])] for k in range(2)]
        means.append([sum(v) / len(v) if v else np.nan for v in known])
        ratios.append(sum(chosen) / sum(chosen + 1))
    interval = bootstrap_mean(values, groups, num_resamples=50, seed=seed)
    assert interval.shape == (2, 2)
    for k in range(2):
        column = [row[k] for row in means if not np.isnan(row[k])]
        expected = np.percentile(column, [2.5, 97.5]) if column else [np.nan, np.nan]
        np.testing.assert_allclose(interval[k], expected, rtol=1e-9)
    ratio = bootstrap_ratio(np.arange(num), np.arange(num) + 1, groups, num_resamples=50, seed=seed)
    np.testing.assert_allclose(ratio, np.percentile(ratios, [2.5, 97.5]), rtol=1e-9)
    general = bootstrap_statistic(lambda index: index.sum() / (index + 1).sum(), num, groups, num_resamples=50, seed=seed)
    np.testing.assert_allclose(general, ratio, rtol=1e-9)
    sums = np.array([[own.sum(), (own + 1).sum()] for own in members])
    ratios_of = bootstrap_sums(lambda x: np.stack([x[:, 0] / x[:, 1], x[:, 1] * np.nan], 1), sums, num_resamples=50, seed=seed)
    np.testing.assert_allclose(ratios_of, [ratio, [np.nan, np.nan]], rtol=1e-9)


@pytest.mark.parametrize(("sums", "message"), [(np.ones(3), "shape"), (np.ones((0, 2)), "at least one group"), ([[np.nan]], "finite")])
def test_bad_sums_are_refused(sums, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_sums(lambda drawn: drawn, sums)


def test_the_interval_of_many_samples_is_the_normal_one():
    values = np.random.default_rng(0).normal(10, 2, 2000)
    low, high = bootstrap_mean(values, num_resamples=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    narrow = bootstrap_mean(values, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_hands_of_one_image_are_drawn_together():
    image = np.repeat(np.arange(30), 10)
    values = np.random.default_rng(1).normal(0, 1, 30)[image]
    apart, together = bootstrap_mean(values), bootstrap_mean(values, image)
    assert together[1] - together[0] > 2.5 * (apart[1] - apart[0])


def test_pieces_of_the_draws_do_not_matter(monkeypatch):
    values = np.random.default_rng(2).normal(size=40)
    whole = bootstrap_mean(values, num_resamples=100)
    monkeypatch.setattr("handnet.metrics.bootstrap._DRAWS_AT_A_TIME", 120)
    np.testing.assert_array_equal(bootstrap_mean(values, num_resamples=100), whole)


def test_degenerate_intervals():
    np.testing.assert_array_equal(bootstrap_mean(np.array([3.0])), [3.0, 3.0])
    np.testing.assert_array_equal(bootstrap_mean(np.full(5, np.nan)), [np.nan, np.nan])
    np.testing.assert_array_equal(bootstrap_mean(np.zeros((4, 0))), np.zeros((0, 2)))
    for call, message in (
        (lambda: bootstrap_mean(np.zeros(0)), "at least one sample"),
        (lambda: bootstrap_mean(np.zeros(3), np.zeros(2, int)), "groups: expected one for each of 3"),
        (lambda: bootstrap_mean(np.array([1.0, np.inf])), "finite"),
        (lambda: bootstrap_mean(np.zeros(3), confidence=1.0), "confidence"),
        (lambda: bootstrap_mean(np.zeros(3), num_resamples=0), "num_resamples"),
        (lambda: bootstrap_ratio(np.zeros(3), np.zeros(4)), "one shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_mask_iou_follows_the_loop(seed):
    rng = np.random.default_rng(seed)
    predicted, target, counted = (rng.random((3, 4, 5)) < share for share in (0.5, 0.4, 0.8))
    both, either = mask_overlap(predicted, target, counted)
    iou = mask_iou(predicted, target, counted)
    for n in range(3):
        cells = [(p, t) for p, t, c in zip(predicted[n].flat, target[n].flat, counted[n].flat, strict=True) if c]
        intersection, union = sum(p and t for p, t in cells), sum(p or t for p, t in cells)
        assert (both[n], either[n]) == (intersection, union)
        assert iou[n] == pytest.approx(intersection / union, abs=1e-12) if union else np.isnan(iou[n])


def test_mask_iou_of_known_masks():
    empty, full = np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)
    half = full.copy()
    half[0, 0] = False
    assert mask_iou(full, full)[0] == 1
    assert mask_iou(half, full)[0] == 0.5
    assert mask_iou(empty, full)[0] == 0
    assert np.isnan(mask_iou(empty, empty)[0])
    with pytest.raises(ValueError, match="predicted: expected a bool array"):
        mask_iou(full.astype(np.uint8), full)
    with pytest.raises(ValueError, match="target: expected the predicted masks' shape"):
        mask_iou(full, np.ones((1, 2, 3), bool))
