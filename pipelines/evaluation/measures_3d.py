"""Figures of predicted joints and vertices against their labels under every alignment: a column per figure, a row per hand.

Points are (H, P, 3) in metres of the label's camera frame; lengths leave in millimetres, NaN for hands without the label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import (
    AUC_THRESHOLDS_M,
    f_score,
    point_errors,
    procrustes,
    root_align,
    root_offset,
    scale_root_align,
    scale_root_offset,
    surface_distances,
)
from handnet.skeleton import ROOT, WRIST

Array = NDArray[np.float64]
Columns = dict[str, Array]
MM = 1000.0
F_THRESHOLDS_M = {"f5": 0.005, "f15": 0.015}
CHUNK = 512  # hands whose vertices are measured at a time, which bounds the memory


def _areas(thresholds: Array) -> Array:
    """Area under one point's PCK curve if its error first passes threshold i; the last entry: none."""
    steps = np.triu(np.ones((len(thresholds) + 1, len(thresholds))))
    return np.asarray(np.trapezoid(steps, thresholds, axis=1) / (thresholds[-1] - thresholds[0]))


_AREAS = _areas(AUC_THRESHOLDS_M)


def hand_aucs(errors_m: Array) -> Array:
    """(H,) area under each hand's own PCK curve over (H, P) errors; their mean is `handnet.metrics.auc` of all of them."""
    return np.asarray(_AREAS[np.searchsorted(AUC_THRESHOLDS_M, errors_m, side="left")].mean(axis=1))


def measure_joints(
    predicted: NDArray[np.floating], target: NDArray[np.floating], shared: NDArray[np.bool_] | None
) -> tuple[Columns, Array]:
    """Columns of (H, 21, 3) joints, and (H3, 21) errors after Procrustes of those with a label. `shared` as of `measure`."""
    known = is_known(target)
    p, t = predicted[known], target[known]
    aligned = point_errors(procrustes(p, t), t)
    errors = {
        "pa_mpjpe_mm": aligned,
        "pa_mpjpe_no_reflection_mm": point_errors(procrustes(p, t, allow_reflection=False), t),
        "root_aligned_mpjpe_mm": point_errors(root_align(p, t, root=ROOT), t),
        "scale_aligned_mpjpe_mm": point_errors(scale_root_align(p, t), t),
        "epe_mm": point_errors(root_align(p, t, root=WRIST), t),
    }
    columns = {name: spread(values.mean(axis=1) * MM, known) for name, values in errors.items()}
    columns["auc"] = spread(hand_aucs(aligned), known)
    if shared is not None:
        comparable = known & shared
        raw = point_errors(predicted[comparable], target[comparable])
        columns["mpjpe_mm"] = spread(raw.mean(axis=1) * MM, comparable)
        columns["root_error_mm"] = spread(raw[:, ROOT] * MM, comparable)
    return columns, aligned


def measure_vertices(
    predicted: NDArray[np.floating],
    target: NDArray[np.floating],
    joints: NDArray[np.floating],
    target_joints: NDArray[np.floating],
    shared: NDArray[np.bool_] | None,
) -> tuple[Columns, Array]:
    """Columns of (H, 778, 3) vertices, and (H3, 778) errors after Procrustes of those with a label.

    Procrustes fits the vertices themselves; the root and scale alignments are those of the hands' joints (H, 21, 3).
    """
    known = is_known(target)
    names = ["pa_mpvpe_mm", "pa_mpvpe_no_reflection_mm", "root_aligned_mpvpe_mm", "scale_aligned_mpvpe_mm", "auc_vertices", "f5", "f15"]
    names += ["mpvpe_mm", "f5_raw", "f15_raw"] if shared is not None else []
    columns = {name: np.full(len(known), np.nan) for name in names}
    rows = np.flatnonzero(known)
    errors = np.zeros((len(rows), target.shape[1]))
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        p, t = np.asarray(predicted[part], np.float64), np.asarray(target[part], np.float64)
        aligned = procrustes(p, t)
        errors[start : start + CHUNK] = point_errors(aligned, t)
        columns["pa_mpvpe_mm"][part] = errors[start : start + CHUNK].mean(axis=1) * MM
        columns["auc_vertices"][part] = hand_aucs(errors[start : start + CHUNK])
        columns["pa_mpvpe_no_reflection_mm"][part] = point_errors(procrustes(p, t, allow_reflection=False), t).mean(axis=1) * MM
        _add_f_scores(columns, "", aligned, t, part)
        _add_aligned_by_joints(columns, p, t, joints[part], target_joints[part], part)
        if shared is not None:
            raw = shared[part]
            columns["mpvpe_mm"][part[raw]] = point_errors(p[raw], t[raw]).mean(axis=1) * MM
            _add_f_scores(columns, "_raw", p[raw], t[raw], part[raw])
    return columns, errors


def _add_f_scores(columns: Columns, suffix: str, p: Array, t: Array, rows: NDArray[np.int64]) -> None:
    distances = surface_distances(p, t)
    for name, threshold in F_THRESHOLDS_M.items():
        columns[f"{name}{suffix}"][rows] = f_score(distances, threshold)


def _add_aligned_by_joints(
    columns: Columns, p: Array, t: Array, joints: NDArray[np.floating], target_joints: NDArray[np.floating], rows: NDArray[np.int64]
) -> None:
    known = is_known(target_joints)
    j, tj = joints[known], target_joints[known]
    factor, offset = scale_root_offset(j, tj)
    moved = {"root_aligned": p[known] + root_offset(j, tj, root=ROOT), "scale_aligned": p[known] * factor + offset}
    for name, points in moved.items():
        columns[f"{name}_mpvpe_mm"][rows[known]] = point_errors(points, t[known]).mean(axis=1) * MM


def is_known(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(H,) hands with that label: no NaN among its points."""
    return np.asarray(~np.isnan(points).any(axis=(1, 2)))


def spread(values: Array, known: NDArray[np.bool_]) -> Array:
    """One value for every hand: NaN where it is not known."""
    column = np.full(len(known), np.nan)
    column[known] = values
    return column
