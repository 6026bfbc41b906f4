"""Time of all 3D metrics on a full evaluation set: `python -m benchmarks.metrics [SAMPLES]` (default 3,960, FreiHAND's).

Prints seconds for each metric on joints (21) and vertices (778) of random hands; the F-scores' compilation is left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from handnet.metrics import auc, f_score, point_errors, procrustes, root_align, scale_root_align, surface_distances


def timed(name: str, function: Callable[[], object]) -> float:
    """Run once, print the seconds it took and return them."""
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    print(f"{name:32s} {seconds:8.3f} s")
    return seconds


def main(num_samples: int = 3960) -> None:
    """Time each metric on `num_samples` random hands."""
    rng = np.random.default_rng(0)
    sets = {}
    for name, num_points in (("joints", 21), ("vertices", 778)):
        target = rng.normal(0, 0.05, (num_samples, num_points, 3)) + np.array([0, 0, 0.7])
        sets[name] = (target + rng.normal(0, 0.01, target.shape), target)
    surface_distances(*(points[:1] for points in sets["vertices"]))
    total = 0.0
    for name, (predicted, target) in sets.items():
        total += timed(f"{name}: procrustes", partial(procrustes, predicted, target))
        total += timed(f"{name}: procrustes, no reflection", partial(procrustes, predicted, target, allow_reflection=False))
        total += timed(f"{name}: root-aligned", partial(root_align, predicted, target, root=9))
        total += timed(f"{name}: scale + root-aligned", partial(scale_root_align, predicted, target))
        errors = point_errors(predicted, target)
        total += timed(f"{name}: point errors", partial(point_errors, predicted, target))
        total += timed(f"{name}: AUC", partial(auc, errors))
    predicted, target = sets["vertices"]

    def f_scores() -> None:
        distances = surface_distances(predicted, target)
        f_score(distances, 0.005)
        f_score(distances, 0.015)

    total += timed("vertices: F@5 and F@15", f_scores)
    print(f"{'all, ' + format(num_samples, ',') + ' samples':32s} {total:8.3f} s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
