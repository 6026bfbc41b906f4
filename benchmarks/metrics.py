"""Time and memory of all 3D metrics on a full evaluation set: `python -m benchmarks.metrics [SAMPLES]` (default 3,960, FreiHAND's).

Prints seconds of each metric on joints (21) and vertices (778) of random hands, all of them together, and the peak memory; the
F-scores' compilation is left out.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import (
    auc,
    bootstrap_mean,
    f_score,
    point_errors,
    procrustes,
    root_offset,
    scale_root_offset,
    surface_distances,
)

Array = NDArray[np.float64]


def timed(name: str, function: Callable[[], object]) -> float:
    """Run once, print the seconds it took and return them."""
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    print(f"{name:40s} {seconds:8.3f} s", flush=True)
    return seconds


def aligned_by(name: str, points: Array, target: Array, joints: Array, target_joints: Array) -> Array:
    """Points (joints or vertices) aligned to the target: each of the alignments that evaluations report."""
    if name == "root":
        return points + root_offset(joints, target_joints, root=9)
    if name == "scale + root":
        factor, offset = scale_root_offset(joints, target_joints)
        return points * factor + offset
    if name == "none":
        return points
    return procrustes(points, target, allow_reflection=name == "Procrustes")


def measure(name: str, points: Array, target: Array, joints: Array, target_joints: Array, *, with_f_score: bool) -> None:
    """Mean error, AUC and interval under one alignment, and F-scores of meshes."""
    aligned = aligned_by(name, points, target, joints, target_joints)
    errors = point_errors(aligned, target)
    auc(errors)
    bootstrap_mean(errors.mean(axis=1))
    if with_f_score:
        distances = surface_distances(aligned, target)
        f_score(distances, 0.005)
        f_score(distances, 0.015)


def main(num_samples: int = 3960) -> None:
    """Time each metric on `num_samples` random hands."""
    rng = np.random.default_rng(0)
    sets = {}
    for name, num_points in (("joints", 21), ("vertices", 778)):
        target = rng.normal(0, 0.05, (num_samples, num_points, 3)) + np.array([0, 0, 0.7])
        sets[name] = (target + rng.normal(0, 0.01, target.shape), target)
    surface_distances(*(points[:1] for points in sets["vertices"]))
    total, started = 0.0, time.process_time()
    for name, (points, target) in sets.items():
        for alignment in ("none", "root", "scale + root", "Procrustes", "Procrustes without reflections"):
            mesh = name == "vertices" and alignment in ("none", "Procrustes")
            work = partial(measure, alignment, points, target, *sets["joints"], with_f_score=mesh)
            total += timed(f"{name}: {alignment}{', F@5 and F@15' if mesh else ''}", work)
    print(f"{'all, ' + format(num_samples, ',') + ' samples':40s} {total:8.3f} s")
    print(f"{'all, processor time':40s} {time.process_time() - started:8.3f} s")
    print(f"{'peak memory':40s} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MiB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
