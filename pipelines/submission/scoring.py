"""Scores a package at home with the servers' definitions and the names of their scores.txt (means in centimetres).

Both servers' ground truth is public, in the same order and axes as the package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import auc, f_score, point_errors, procrustes, scale_root_align, surface_distances
from handnet.skeleton import NUM_KEYPOINTS
from pipelines.submission.layouts import NUM_VERTICES, find_layout
from pipelines.submission.reading import read_package

CM = 100.0
F_THRESHOLDS_M = {"5": 0.005, "15": 0.015}
CHUNK = 512
_MANO_WRIST, _MANO_MIDDLE = 0, 4


def load_submission(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """xyz (N, 21, 3) and verts (N, 778, 3) of a package, as they are in it. ValueError says what is wrong with the file."""
    content = read_package(Path(path))
    if content.findings or content.xyz is None or content.verts is None:
        raise ValueError(f"{path}: {'; '.join(content.findings) or 'no predictions'}")
    return content.xyz, content.verts.astype(np.float64)


def score_submission(
    predicted: str | Path | tuple[NDArray[np.floating], NDArray[np.floating]],
    gt_xyz: NDArray[np.floating],
    gt_verts: NDArray[np.floating],
    layout: str,
) -> dict[str, float]:
    """The server's scores by the server's names: mean errors in cm, AUC over 0 to 5 cm, F-scores at 5 and 15 mm.

    predicted: a package, or its (xyz, verts); gt_xyz (N, 21, 3), gt_verts (N, 778, 3): as the server's json files hold
    them (metres, the layout's own joint order and axes). ValueError for other shapes, NaN or an unreadable package.
    """
    ho3d = find_layout(layout).name.startswith("ho3d")
    xyz, verts = load_submission(predicted) if isinstance(predicted, (str, Path)) else predicted
    for name, points, truth, num in (("xyz", xyz, gt_xyz, NUM_KEYPOINTS), ("verts", verts, gt_verts, NUM_VERTICES)):
        if points.shape != truth.shape or points.shape[1:] != (num, 3) or len(points) == 0:
            raise ValueError(f"{name}: expected predictions and truth of one shape (N, {num}, 3), got {points.shape} and {truth.shape}")
    errors = {"xyz": point_errors(xyz, gt_xyz)}
    aligned = point_errors(procrustes(xyz, gt_xyz), gt_xyz)
    if ho3d:
        errors["xyz_procrustes_al"] = aligned
        errors["xyz_scale_trans_al"] = point_errors(scale_root_align(xyz, gt_xyz, root=_MANO_WRIST, tip=_MANO_MIDDLE), gt_xyz)
    else:
        errors["xyz_al"] = aligned
    mesh, f_scores = _mesh_scores(verts, gt_verts)
    scores = {}
    for name, values in (errors | mesh).items():
        scores[f"{name}_mean3d"] = float(values.mean()) * CM
        scores[f"{name}_auc3d"] = auc(values)
    return scores | f_scores


def _mesh_scores(verts: NDArray[np.floating], truth: NDArray[np.floating]) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Errors of all vertices, raw and aligned, and the F-scores; some samples at a time, which bounds the memory."""
    errors = {name: np.zeros(truth.shape[:2]) for name in ("mesh", "mesh_al")}
    f_scores: dict[str, list[NDArray[np.float64]]] = {f"f_{kind}{t}": [] for t in F_THRESHOLDS_M for kind in ("score_", "al_score_")}
    for start in range(0, len(truth), CHUNK):
        part = slice(start, start + CHUNK)
        for name, kind, points in (("mesh", "score_", verts[part]), ("mesh_al", "al_score_", procrustes(verts[part], truth[part]))):
            errors[name][part] = point_errors(points, truth[part])
            distances = surface_distances(points, truth[part])
            for t, threshold in F_THRESHOLDS_M.items():
                f_scores[f"f_{kind}{t}"].append(f_score(distances, threshold))
    return errors, {name: float(np.concatenate(parts).mean()) for name, parts in f_scores.items()}
