"""Scores a package at home with the servers' definitions and the names of their scores.txt (means in centimetres).

Both servers' ground truth is public, in the same order and axes as the package. Beside the server's scores stand the
aligned ones without reflections: with them, which the servers allow, a mirrored hand has no error at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import auc, f_score, point_errors, procrustes, scale_root_align, surface_distances
from handnet.skeleton import NUM_KEYPOINTS
from pipelines.submission.layouts import NUM_VERTICES, find_layout
from pipelines.submission.reading import read_package

CM = 100.0
F_THRESHOLDS_M = {"5": 0.005, "15": 0.015}
CHUNK = 512
OURS = "no_reflection"
_MANO_WRIST, _MANO_MIDDLE = 0, 4

Array = NDArray[np.float64]
Align = Callable[[Array, Array], Array]


class Scores(NamedTuple):
    """By name, in the order of the server's file: the server's own scores, and ours beside them."""

    server: dict[str, float]
    ours: dict[str, float]


class PackageError(ValueError):
    """A package that cannot be scored; `findings` holds one line for each thing that is wrong with it."""

    def __init__(self, path: Path, findings: list[str]) -> None:
        super().__init__(f"{path}: {'; '.join(findings)}")
        self.findings = findings


def load_submission(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """xyz (N, 21, 3) and verts (N, 778, 3) of a package or of its pred.json, as they are in it. PackageError says what is wrong."""
    content = read_package(Path(path), bare_json=True)
    if content.findings or content.xyz is None or content.verts is None:
        raise PackageError(Path(path), content.findings or ["no predictions"])
    return content.xyz, content.verts


def score_submission(
    predicted: str | Path | tuple[NDArray[np.floating], NDArray[np.floating]],
    gt_xyz: NDArray[np.floating],
    gt_verts: NDArray[np.floating],
    layout: str,
) -> Scores:
    """Mean errors in cm, AUC over 0 to 5 cm, F-scores at 5 and 15 mm, by the server's names; and ours without reflections.

    predicted: a package, or its (xyz, verts); gt_xyz (N, 21, 3), gt_verts (N, 778, 3): as the server's json files hold
    them (metres, the layout's own joint order and axes). ValueError for other shapes, NaN or an unreadable package.
    """
    ho3d = find_layout(layout).name.startswith("ho3d")
    xyz, verts = load_submission(predicted) if isinstance(predicted, (str, Path)) else predicted
    for name, points, truth, num in (("xyz", xyz, gt_xyz, NUM_KEYPOINTS), ("verts", verts, gt_verts, NUM_VERTICES)):
        if points.shape != truth.shape or points.shape[1:] != (num, 3) or len(points) == 0:
            raise ValueError(f"{name}: expected predictions and truth of one shape (N, {num}, 3), got {points.shape} and {truth.shape}")
    alignments: dict[str, Align] = {"xyz": _as_it_is, ("xyz_procrustes_al" if ho3d else "xyz_al"): procrustes}
    if ho3d:
        alignments["xyz_scale_trans_al"] = _scale_and_wrist
    joints = _measure(xyz, gt_xyz, {**alignments, f"xyz_al_{OURS}": _rotation_only})
    mesh = _measure(verts, gt_verts, {"mesh": _as_it_is, "mesh_al": procrustes, f"mesh_al_{OURS}": _rotation_only}, with_f_score=True)
    scores: dict[str, float] = {}
    for name, measured in (joints | mesh).items():
        scores |= {f"{name}_mean3d": measured.mean_cm, f"{name}_auc3d": measured.auc}
    for t in F_THRESHOLDS_M:
        scores |= {f"f{name.removeprefix('mesh')}_score_{t}": measured.f_scores[t] for name, measured in mesh.items()}
    ours = {name: value for name, value in scores.items() if OURS in name}
    return Scores({name: value for name, value in scores.items() if name not in ours}, ours)


def _as_it_is(points: Array, truth: Array) -> Array:
    return points


def _rotation_only(points: Array, truth: Array) -> Array:
    return procrustes(points, truth, allow_reflection=False)


def _scale_and_wrist(points: Array, truth: Array) -> Array:
    return scale_root_align(points, truth, root=_MANO_WRIST, tip=_MANO_MIDDLE)


class _Measured(NamedTuple):
    mean_cm: float
    auc: float
    f_scores: dict[str, float]  # by threshold, of meshes


def _measure(
    points: NDArray[np.floating], truth: NDArray[np.floating], alignments: dict[str, Align], *, with_f_score: bool = False
) -> dict[str, _Measured]:
    """Errors of the points (N, P, 3) under each alignment; some samples at a time, which bounds the memory."""
    result = {}
    for name, align in alignments.items():
        errors = np.zeros(truth.shape[:2])
        f_scores: dict[str, Array] = {t: np.zeros(len(truth)) for t in F_THRESHOLDS_M} if with_f_score else {}
        for start in range(0, len(truth), CHUNK):
            part = slice(start, start + CHUNK)
            true = np.asarray(truth[part], np.float64)
            aligned = align(np.asarray(points[part], np.float64), true)
            errors[part] = point_errors(aligned, true)
            if f_scores:
                distances = surface_distances(aligned, true)
                for t, values in f_scores.items():
                    values[part] = f_score(distances, F_THRESHOLDS_M[t])
        result[name] = _Measured(float(errors.mean()) * CM, auc(errors), {t: float(values.mean()) for t, values in f_scores.items()})
    return result
