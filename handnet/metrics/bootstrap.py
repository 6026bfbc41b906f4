"""Bootstrap confidence intervals (percentile method) of means, ratios and any other figure of a set of samples.

Hands of one image are not independent, so whole groups (images, recorded sequences) are drawn with replacement, not hands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
_DRAWS_AT_A_TIME = 1 << 21  # bounds the memory at some 50 MB, whatever the number of groups


def bootstrap_mean(
    values: Float[np.ndarray, " n *figures"],
    groups: Int[np.ndarray, " n"] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Float[np.ndarray, "*figures 2"]:
    """Interval (low, high) of the mean of each column of `values`; NaN are values that a sample does not have.

    groups: which samples are drawn together, default every sample on its own. A figure with no value at all gets NaN.
    """
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    return bootstrap_ratio(
        np.where(known, values, 0.0), known.astype(np.float64), groups, num_resamples=num_resamples, confidence=confidence, seed=seed
    )


def bootstrap_ratio(
    numerators: Float[np.ndarray, " n *figures"],
    denominators: Float[np.ndarray, " n *figures"],
    groups: Int[np.ndarray, " n"] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Float[np.ndarray, "*figures 2"]:
    """Interval of sum(numerators) / sum(denominators), such as recall: found hands over hands, both counted image by image.

    Resamples whose denominator is 0 are left out. The same seed and groups draw the same resamples for every figure, so
    that figures of one set are comparable. Raises ValueError for wrong shapes, infinities, no sample, impossible settings.
    """
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if numerators.shape != denominators.shape or numerators.ndim == 0:
        raise ValueError(f"numerators and denominators: expected one shape (samples, ...), got {numerators.shape} and {denominators.shape}")
    if not (np.isfinite(numerators).all() and np.isfinite(denominators).all()):
        raise ValueError("numerators and denominators: expected finite numbers, got NaN or infinity")
    num, figures = len(numerators), numerators.shape[1:]
    index, num_groups = _numbered(groups, num)
    columns = np.concatenate([numerators.reshape(num, -1), denominators.reshape(num, -1)], axis=1)
    sums = np.zeros((num_groups, columns.shape[1]))
    np.add.at(sums, index, columns)

    def ratios(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        top, bottom = np.split(drawn, 2, axis=1)
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)

    return bootstrap_sums(ratios, sums, num_resamples=num_resamples, confidence=confidence, seed=seed).reshape(*figures, 2)


def bootstrap_sums(
    figures: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    sums: Float[np.ndarray, "groups columns"],
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Float[np.ndarray, "k 2"]:
    """Intervals of k figures that follow from sums over samples: `figures` turns (resamples, columns) into (resamples, k).

    `sums` holds what each group adds to each column, such as the summed errors and the number of samples of every joint.
    Resamples of which a figure is NaN are left out of its interval. Raises ValueError for wrong shapes, infinities, no group.
    """
    sums = np.asarray(sums, np.float64)
    if sums.ndim != 2 or not len(sums):
        raise ValueError(f"sums: expected shape (groups, columns) with at least one group, got {sums.shape}")
    if not np.isfinite(sums).all():
        raise ValueError("sums: expected finite numbers, got NaN or infinity")
    drawn = np.concatenate([counts @ sums for counts in _draws(len(sums), num_resamples, confidence, seed)])
    return _percentiles(figures(drawn), confidence)


def bootstrap_statistic(
    statistic: Callable[[NDArray[np.int64]], float],
    num_samples: int,
    groups: Int[np.ndarray, " n"] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Float[np.ndarray, " 2"]:
    """Interval of any figure: `statistic` is called with the indices of each resample, repeated ones included.

    For figures that are no ratio of sums, such as average precision; the others are thousands of times faster.
    """
    index, num_groups = _numbered(groups, num_samples)
    order = np.argsort(index, kind="stable")
    ends = np.cumsum(np.bincount(index, minlength=num_groups))
    members = np.split(order, ends[:-1])
    values = [
        statistic(np.concatenate([np.repeat(members[group], int(times)) for group, times in enumerate(counts) if times]))
        for chunk in _draws(num_groups, num_resamples, confidence, seed)
        for counts in chunk
    ]
    low_high: NDArray[np.float64] = _percentiles(np.array(values, np.float64)[:, None], confidence)[0]
    return low_high


def _numbered(groups: Int[np.ndarray, " n"] | None, num: int) -> tuple[NDArray[np.int64], int]:
    """The groups numbered from 0, and how many there are."""
    if num == 0:
        raise ValueError("expected at least one sample, got none")
    if groups is None:
        return np.arange(num), num
    groups = np.asarray(groups)
    if groups.shape != (num,):
        raise ValueError(f"groups: expected one for each of {num} samples, got shape {groups.shape}")
    names, index = np.unique(groups, return_inverse=True)
    return index.astype(np.int64), len(names)


def _draws(num_groups: int, num_resamples: int, confidence: float, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each group is drawn, (resamples, groups), some resamples at a time."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples: expected at least 1, got {num_resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a share between 0 and 1, got {confidence}")
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _DRAWS_AT_A_TIME // num_groups)
    for start in range(0, num_resamples, at_a_time):
        rows = min(at_a_time, num_resamples - start)
        cells = rng.integers(0, num_groups, (rows, num_groups)) + np.arange(rows)[:, None] * num_groups
        yield np.bincount(cells.ravel(), minlength=rows * num_groups).reshape(rows, num_groups).astype(np.float64)


def _percentiles(drawn: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """(figures, 2) of (resamples, figures), ignoring NaN; NaN where a figure has no value."""
    tail = 100 * (1 - confidence) / 2
    intervals = np.full((drawn.shape[1], 2), np.nan)
    known = ~np.isnan(drawn).all(axis=0)
    if known.any():
        intervals[known] = np.nanpercentile(drawn[:, known], [tail, 100 - tail], axis=0).T
    return intervals
