"""Alignments of predicted to true 3D points: Procrustes, root, and scale + root, as the FreiHAND and HO3D servers define them.

All take (N, P, 3) points and return the aligned prediction (N, P, 3), in the units and frame of the target.
"""

from __future__ import annotations

import numpy as np

from handnet.metrics.checks import as_pair, require_point

EPSILON = 1e-8  # the servers' guard against a division by zero; part of the definition, so not to be tuned


def procrustes(predicted: np.ndarray, target: np.ndarray, *, allow_reflection: bool = True) -> np.ndarray:
    """Predicted points under the similarity that brings them closest to the target (least squares), per sample.

    `allow_reflection=True` is the servers' definition: the orthogonal matrix may have determinant -1, so that a
    mirrored hand scores 0. `False` allows rotations only. Coinciding predicted points all land on the target's mean.
    """
    predicted, target = as_pair(predicted, target)
    mean_target = target.mean(axis=1, keepdims=True)
    centred_target = target - mean_target
    centred = predicted - predicted.mean(axis=1, keepdims=True)
    norm_target = np.linalg.norm(centred_target, axis=(1, 2), keepdims=True) + EPSILON
    centred_target = centred_target / norm_target
    centred = centred / (np.linalg.norm(centred, axis=(1, 2), keepdims=True) + EPSILON)

    u, singular_values, vt = np.linalg.svd(np.swapaxes(centred, 1, 2) @ centred_target)
    if not allow_reflection:
        sign = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
        singular_values = singular_values.copy()
        # turning the axis of the smallest singular value costs least
        singular_values[:, 2] *= sign
        vt = vt.copy()
        vt[:, 2] *= sign[:, None]
    scale = singular_values.sum(axis=1)[:, None, None]
    return (centred @ (u @ vt)) * (scale * norm_target) + mean_target


def root_align(predicted: np.ndarray, target: np.ndarray, *, root: int) -> np.ndarray:
    """Predicted points moved so that point `root` coincides with the target's."""
    predicted, target = as_pair(predicted, target)
    return predicted + root_offset(predicted, target, root=root)


def root_offset(predicted: np.ndarray, target: np.ndarray, *, root: int) -> np.ndarray:
    """(N, 1, 3) move that brings the predicted point `root` to the target's: vertices are root-aligned with their joints' move."""
    predicted, target = as_pair(predicted, target)
    require_point("root", root, predicted.shape[1])
    offset: np.ndarray = (target[:, root] - predicted[:, root])[:, None]
    return offset


def scale_root_align(predicted: np.ndarray, target: np.ndarray, *, root: int = 0, tip: int = 9) -> np.ndarray:
    """HO3D's scale + translation alignment: equal length of the bone `root`-`tip`, then coinciding `root`.

    The defaults are wrist and middle knuckle in std21 order. A predicted bone of length 0 is not rescaled to the
    target's length but multiplied by it, which is what the server does.
    """
    predicted, target = as_pair(predicted, target)
    factor, offset = scale_root_offset(predicted, target, root=root, tip=tip)
    return predicted * factor + offset


def scale_root_offset(predicted: np.ndarray, target: np.ndarray, *, root: int = 0, tip: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """(N, 1, 1) factor and (N, 1, 3) offset of `scale_root_align`: aligned = predicted * factor + offset, for vertices too."""
    predicted, target = as_pair(predicted, target)
    require_point("root", root, predicted.shape[1])
    require_point("tip", tip, predicted.shape[1])
    length = np.linalg.norm(predicted[:, tip] - predicted[:, root], axis=1)
    length_target = np.linalg.norm(target[:, tip] - target[:, root], axis=1)
    factor = (length_target / np.where(length > 0, length, 1.0))[:, None, None]
    return factor, target[:, root, None] - predicted[:, root, None] * factor
