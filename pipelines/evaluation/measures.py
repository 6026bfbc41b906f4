"""Figures of one set of predicted hands against their labels: a column per figure, a row per hand.

Lengths in metres come in and leave in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import hand_errors_px, hand_similarities, hand_sizes_px
from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.labels import stack_keypoints
from pipelines.evaluation.measures_3d import measure_joints, measure_vertices

Array = NDArray[np.float64]
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


def measure(
    keypoints_px: Array,
    keypoints_m: NDArray[np.floating],
    vertices_m: NDArray[np.floating],
    targets: Targets,
    shared: NDArray[np.bool_] | None = None,
) -> Measured:
    """Compare H predicted hands, (H, 21, 2), (H, 21, 3) and (H, 778, 3), with the targets in the same order.

    3D figures are NaN for hands without that label. shared (H,): hands whose label lives in the camera of the prediction,
    so that positions can be compared as they are; None leaves the figures in camera space out.
    """
    columns = _columns_2d(keypoints_px, targets)
    distances = np.linalg.norm(keypoints_px - targets.keypoints_px, axis=2) / targets.size_px[:, None]
    joints, aligned_joints = measure_joints(keypoints_m, targets.keypoints_m, shared)
    vertices, aligned_vertices = measure_vertices(vertices_m, targets.vertices_m, keypoints_m, targets.keypoints_m, shared)
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
        "similarity": hand_similarities(keypoints_px, targets.keypoints_px, targets.labelled),
    }
