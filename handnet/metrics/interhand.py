"""InterHand2.6M's own measures: errors of both hands, each from its own wrist, and handedness; also EPE as RHD is reported.

Hands are (N, 2, 21, 3) with the left hand first, std21; results are in the unit of the input (the benchmark's is mm).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from handnet.metrics.alignment import root_align
from handnet.metrics.checks import require_finite
from handnet.metrics.errors import point_errors
from handnet.skeleton import WRIST

PRESENT_ABOVE = 0.5


def interhand_mpjpe(
    predicted: Float[np.ndarray, "n 2 p 3"],
    target: Float[np.ndarray, "n 2 p 3"],
    valid: Bool[np.ndarray, "n 2 p"],
    *,
    root: int = WRIST,
) -> dict[str, float]:
    """MPJPE of "all", "single" and "interacting" images: those with a counted joint in both hands are interacting.

    Each hand is moved to its own true root, and a joint counts only if that root is valid too. Errors are averaged per
    joint over the images first, then over the (up to 2 p) joints that were counted at all. NaN for a kind without any.
    """
    predicted, target, valid = _both_hands(predicted, target, valid)
    counted = valid & valid[:, :, root : root + 1]
    num, _, num_points, _ = target.shape
    points = (np.where(counted[..., None], array, 0.0).reshape(num * 2, num_points, 3) for array in (predicted, target))
    moved, truth = points
    errors = (point_errors(root_align(moved, truth, root=root), truth) if num else np.zeros((0, num_points))).reshape(num, 2, num_points)
    interacting = counted.any(axis=2).all(axis=1)
    kinds = {"all": np.ones(num, bool), "single": ~interacting, "interacting": interacting}
    return {name: _mean_of_joints(errors[chosen], counted[chosen]) for name, chosen in kinds.items()}


def _both_hands(
    predicted: Float[np.ndarray, "n 2 p 3"], target: Float[np.ndarray, "n 2 p 3"], valid: Bool[np.ndarray, "n 2 p"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    predicted, target, valid = np.asarray(predicted, np.float64), np.asarray(target, np.float64), np.asarray(valid, bool)
    if target.ndim != 4 or target.shape[1] != 2 or target.shape[3] != 3 or predicted.shape != target.shape:
        raise ValueError(f"predicted and target: expected one shape (images, 2, joints, 3), got {predicted.shape} and {target.shape}")
    if valid.shape != target.shape[:3]:
        raise ValueError(f"valid: expected shape {target.shape[:3]}, got {valid.shape}")
    for name, array in (("predicted", predicted), ("target", target)):
        require_finite(name, np.where(valid[..., None], array, 0.0))
    return predicted, target, valid


def _mean_of_joints(errors: Float[np.ndarray, "n 2 p"], counted: Bool[np.ndarray, "n 2 p"]) -> float:
    times = counted.sum(axis=0)
    sums = np.where(counted, errors, 0.0).sum(axis=0)
    return float((sums[times > 0] / times[times > 0]).mean()) if times.any() else float("nan")


def handedness_accuracy(
    probabilities: Float[np.ndarray, "n 2"], present: Bool[np.ndarray, "n 2"], valid: Bool[np.ndarray, " n"] | None = None
) -> float:
    """Share of images in which both hands are rightly said to be there or not: there is one where its probability is > 0.5.

    Columns are left, right. `valid` (N,) says which images count; NaN when none does.
    """
    probabilities, present = np.asarray(probabilities, np.float64), np.asarray(present, bool)
    if probabilities.ndim != 2 or probabilities.shape[1] != 2 or present.shape != probabilities.shape:
        raise ValueError(f"probabilities and present: expected one shape (images, 2), got {probabilities.shape} and {present.shape}")
    require_finite("probabilities", probabilities)
    right = ((probabilities > PRESENT_ABOVE) == present).all(axis=1)
    counted = np.ones(len(right), bool) if valid is None else np.asarray(valid, bool)
    if counted.shape != right.shape:
        raise ValueError(f"valid: expected shape {right.shape}, got {counted.shape}")
    return float(right[counted].mean()) if counted.any() else float("nan")


def epe(predicted: Float[np.ndarray, "n p 3"], target: Float[np.ndarray, "n p 3"], *, root: int | None = WRIST) -> float:
    """Mean end-point error after the roots are brought together; None compares the points where they are.

    RHD's in the tables of papers: wrist-aligned, of the hand of the true hand type. (Its authors' script uses the palm.)
    """
    errors = point_errors(predicted if root is None else root_align(predicted, target, root=root), target)
    if errors.size == 0:
        raise ValueError("expected at least one sample, got none")
    return float(errors.mean())
