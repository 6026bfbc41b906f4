"""The one orientation in which a rigid hand explains a set of 2D hands best, under weak perspective.

Each 2D hand may choose its own scale and position; the rotation is shared by all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
NUM_REFINED = 6  # of the 24 starts, those refined


def weak_perspective_residuals(points: Array, targets: Array) -> Array:
    """(N,) mean 2D distance of (P, 3) points to each of N targets (N, P, 2) under its best scale >= 0 and translation.

    Best is in the sense of least squares; the result is in the targets' unit.
    """
    flat = points[:, :2] - points[:, :2].mean(axis=0)
    targets = targets - targets.mean(axis=1, keepdims=True)
    scales = np.maximum(np.einsum("pc,npc->n", flat, targets) / max(float((flat**2).sum()), 1e-12), 0.0)
    return np.linalg.norm(targets - scales[:, None, None] * flat, axis=2).mean(axis=1)


def fit_orientation(points: Array, targets: Array) -> Array:
    """(3, 3) rotation R for which R @ points has the smallest mean residual over the targets.

    points (P, 3), targets (N, P, 2) with y down, scaled so that each weighs the same. The mean of distances, not of
    squares, is minimised: where half of the hands show their palm and half their back, it settles on one of the two
    instead of on an edge-on hand that resembles neither. Deterministic: all 24 rotations of the cube are tried and the
    best few refined by a simplex search.
    """
    starts = Rotation.create_group("O").as_rotvec()

    def cost(rotation_vector: Array) -> float:
        return float(weak_perspective_residuals(points @ Rotation.from_rotvec(rotation_vector).as_matrix().T, targets).mean())

    ranked = sorted(starts, key=cost)[:NUM_REFINED]
    options = {"xatol": 1e-4, "fatol": 1e-7, "maxiter": 400}
    best = min((minimize(cost, start, method="Nelder-Mead", options=options) for start in ranked), key=lambda result: result.fun)
    return np.asarray(Rotation.from_rotvec(best.x).as_matrix())
