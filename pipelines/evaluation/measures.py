"""Figures of one set of predicted hands against their labels: a column per figure, a row per hand.

Lengths in metres come in and leave in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import (
    f_score,
    hand_errors_px,
    hand_sizes_px,
    point_errors,
    procrustes,
    root_align,
    scale_root_align,
    surface_distances,
)
from handnet.skeleton import ROOT
from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.labels import stack_keypoints
from pipelines.progress import Progress

Array = NDArray[np.float64]
MM = 1000.0
CHUNK = 512  # hands whose vertices are measured at a time, which bounds the memory
THRESHOLDS_2D = np.linspace(0.0, 0.5, 101)  # shares of the hand size


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Labels of H hands: keypoints_px (H, 21, 2), labelled and visible (H, 21), size_px (H,), and 3D with NaN where there is none."""

    keypoints_px: Array
    labelled: NDArray[np.bool_]
    visible: NDArray[np.bool_]
    size_px: Array
    keypoints_m: NDArray[np.float32]
    vertices_m: NDArray[np.float32]


def targets_of(hands: Sequence[HandLabel]) -> Targets:
    """The labels of some hands as arrays."""
    keypoints, labelled = stack_keypoints(hands)

    def points(name: str, num: int) -> NDArray[np.float32]:
        missing = np.full((num, 3), np.nan, np.float32)
        rows = [getattr(hand, name) for hand in hands]
        return np.array([missing if row is None else row for row in rows], np.float32).reshape(-1, num, 3)

    return Targets(
        keypoints_px=keypoints,
        labelled=labelled,
        visible=np.array([hand.visible for hand in hands], bool).reshape(-1, 21),
        size_px=hand_sizes_px(keypoints, labelled) if hands else np.zeros(0),
        keypoints_m=points("keypoints_m", 21),
        vertices_m=points("vertices_m", 778),
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures per hand by name (H,), and errors per point: relative_2d (H, 21), aligned_joints_m (H3, 21), aligned_vertices_m (H3, 778)."""

    columns: dict[str, Array]
    relative_2d: Array
    aligned_joints_m: Array = field(default_factory=lambda: np.zeros((0, 21)))
    aligned_vertices_m: Array = field(default_factory=lambda: np.zeros((0, 778)))


def measure(keypoints_px: Array, keypoints_m: NDArray[np.floating], vertices_m: NDArray[np.floating], targets: Targets) -> Measured:
    """Compare H predicted hands, (H, 21, 2), (H, 21, 3) and (H, 778, 3), with the targets in the same order.

    3D figures are NaN for hands without that label.
    """
    columns = _columns_2d(keypoints_px, targets)
    distances = np.linalg.norm(keypoints_px - targets.keypoints_px, axis=2) / targets.size_px[:, None]
    joints, aligned_joints = _columns_joints(keypoints_m, targets.keypoints_m)
    vertices, aligned_vertices = _columns_vertices(vertices_m, targets.vertices_m)
    return Measured(
        columns={**columns, **joints, **vertices},
        relative_2d=distances,
        aligned_joints_m=aligned_joints,
        aligned_vertices_m=aligned_vertices,
    )


def _columns_2d(keypoints_px: Array, targets: Targets) -> dict[str, Array]:
    error = hand_errors_px(keypoints_px, targets.keypoints_px, targets.labelled)
    visible = hand_errors_px(keypoints_px, targets.keypoints_px, targets.visible)
    return {
        "error_2d_px": error,
        "error_2d_fraction": error / targets.size_px,
        "error_2d_visible_px": visible,
        "error_2d_visible_fraction": visible / targets.size_px,
    }


def _columns_joints(predicted: NDArray[np.floating], target: NDArray[np.floating]) -> tuple[dict[str, Array], Array]:
    known = ~np.isnan(target).any(axis=(1, 2))
    p, t = predicted[known], target[known]
    aligned = point_errors(procrustes(p, t), t)
    values = {
        "pa_mpjpe_mm": aligned,
        "pa_mpjpe_no_reflection_mm": point_errors(procrustes(p, t, allow_reflection=False), t),
        "root_aligned_mpjpe_mm": point_errors(root_align(p, t, root=ROOT), t),
        "scale_aligned_mpjpe_mm": point_errors(scale_root_align(p, t), t),
    }
    return {name: _spread(errors.mean(axis=1) * MM, known) for name, errors in values.items()}, aligned


def _columns_vertices(predicted: NDArray[np.floating], target: NDArray[np.floating]) -> tuple[dict[str, Array], Array]:
    known = ~np.isnan(target).any(axis=(1, 2))
    rows = np.flatnonzero(known)
    if not len(rows):
        return {name: np.full(len(known), np.nan) for name in ("pa_mpvpe_mm", "f5", "f15")}, np.zeros((0, target.shape[1]))
    errors, f5, f15 = np.zeros((len(rows), target.shape[1])), np.zeros(len(rows)), np.zeros(len(rows))
    with Progress("measure meshes", len(rows), "hands") as progress:
        for start in range(0, len(rows), CHUNK):
            chunk = slice(start, start + CHUNK)
            aligned = procrustes(predicted[rows[chunk]], target[rows[chunk]])
            errors[chunk] = point_errors(aligned, target[rows[chunk]])
            distances = surface_distances(aligned, target[rows[chunk]])
            f5[chunk], f15[chunk] = f_score(distances, 0.005), f_score(distances, 0.015)
            progress.advance(len(rows[chunk]))
    columns = {"pa_mpvpe_mm": errors.mean(axis=1) * MM, "f5": f5, "f15": f15}
    return {name: _spread(values, known) for name, values in columns.items()}, errors


def _spread(values: Array, known: NDArray[np.bool_]) -> Array:
    """One value for every hand: NaN where it is not known."""
    column = np.full(len(known), np.nan)
    column[known] = values
    return column
