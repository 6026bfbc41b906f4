"""F-score between predicted and true vertices: harmonic mean of the shares of each that lie near the other.

Nearest neighbours are exact. Comparing all pairs of one hand (778 x 778) in compiled code beats a search tree here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from handnet.metrics.checks import as_points, require_finite


@numba.njit(cache=True, nogil=True)
def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    # points (N, 3, P) and others (N, 3, Q) hold x, y and z apart, and the inner loop runs over the points, so that it
    # becomes vector instructions: twice this is faster than one pass that keeps both minima
    num, _, num_points = points.shape
    distances = np.empty((num, num_points))
    for n in range(num):
        xs, ys, zs = points[n, 0], points[n, 1], points[n, 2]
        nearest = np.full(num_points, np.inf)
        for j in range(others.shape[2]):
            x, y, z = others[n, 0, j], others[n, 1, j], others[n, 2, j]
            for i in range(num_points):
                dx, dy, dz = xs[i] - x, ys[i] - y, zs[i] - z
                squared = dx * dx + dy * dy + dz * dz
                nearest[i] = squared if squared < nearest[i] else nearest[i]
        distances[n] = np.sqrt(nearest)
    return distances


def surface_distances(predicted: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every predicted point (N, P, 3) to its nearest target point (N, Q, 3), and the other way round.

    Returns (N, P) and (N, Q), in the unit of the input.
    """
    predicted, target = as_points("predicted", predicted), as_points("target", target)
    if len(predicted) != len(target):
        raise ValueError(f"predicted and target: expected the same number of samples, got {len(predicted)} and {len(target)}")
    predicted, target = (np.ascontiguousarray(np.swapaxes(points, 1, 2)) for points in (predicted, target))
    with ThreadPoolExecutor(1) as other:  # one way each: the loops hold no lock
        to_predicted = other.submit(_nearest, target, predicted)
        return _nearest(predicted, target), to_predicted.result()


def f_score(distances: tuple[np.ndarray, np.ndarray], threshold: float) -> np.ndarray:
    """(N,) F-scores from `surface_distances`; near is strictly below the threshold, and nothing near gives 0."""
    if not threshold > 0:
        raise ValueError(f"threshold: expected a distance > 0, got {threshold}")
    predicted, target = (np.asarray(d, dtype=np.float64) for d in distances)
    require_finite("distances", predicted)
    require_finite("distances", target)
    precision = (predicted < threshold).mean(axis=1)
    recall = (target < threshold).mean(axis=1)
    total = precision + recall
    return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), 0.0)
