"""PCK curves and the area under them, as the FreiHAND and HO3D servers define them.

A point is correct when its error is at most the threshold; curves are per point first, then the mean over points.
"""

from __future__ import annotations

import numpy as np

from handnet.metrics.checks import require_finite

AUC_THRESHOLDS_M = np.linspace(0.0, 0.05, 100)
AUC_THRESHOLDS_M.setflags(write=False)


def pck(errors: np.ndarray, thresholds: np.ndarray = AUC_THRESHOLDS_M, valid: np.ndarray | None = None) -> np.ndarray:
    """(T,) share of correct points at each ascending threshold, in the unit of `errors` (N, P).

    With `valid` (N, P) bool only those points count: the share is taken per point over its valid samples, then
    averaged over the points that have any. Raises ValueError when nothing counts.
    """
    counts, totals = pck_counts(errors, thresholds, valid)
    if not totals.any():
        raise ValueError("expected at least one valid point, got none")
    return (counts[totals > 0] / totals[totals > 0, None]).mean(axis=0)


def pck_counts(
    errors: np.ndarray, thresholds: np.ndarray = AUC_THRESHOLDS_M, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(P, T) correct ones of each point at each threshold, and (P,) counted ones: what `pck` is made of, to be summed over parts."""
    errors = np.asarray(errors, dtype=np.float64)
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if errors.ndim != 2:
        raise ValueError(f"errors: expected shape (samples, points), got {errors.shape}")
    if thresholds.ndim != 1 or len(thresholds) == 0 or (np.diff(thresholds) < 0).any():
        raise ValueError("thresholds: expected one ascending, non-empty list")
    if valid is None:
        valid = np.ones(errors.shape, dtype=bool)
    valid = np.asarray(valid, dtype=bool)
    if valid.shape != errors.shape:
        raise ValueError(f"valid: expected the errors' shape {errors.shape}, got {valid.shape}")
    require_finite("errors", np.where(valid, errors, 0.0))

    # the first threshold each error passes, counted per point: one pass instead of one per threshold
    num_bins = len(thresholds) + 1
    first = np.searchsorted(thresholds, errors, side="left")
    cells = first + np.arange(errors.shape[1]) * num_bins
    counts = np.bincount(cells[valid], minlength=num_bins * errors.shape[1]).reshape(errors.shape[1], num_bins)
    return np.cumsum(counts[:, :-1], axis=1), counts.sum(axis=1)


def auc(errors: np.ndarray, thresholds: np.ndarray = AUC_THRESHOLDS_M, valid: np.ndarray | None = None) -> float:
    """Area under the PCK curve (trapezoid), divided by the thresholds' range, so that 1 is perfect."""
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.size < 2 or thresholds[-1] <= thresholds[0]:
        raise ValueError("thresholds: expected an ascending list over a range greater than 0")
    return float(np.trapezoid(pck(errors, thresholds, valid), thresholds) / (thresholds[-1] - thresholds[0]))
