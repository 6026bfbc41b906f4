"""The same pixels under another camera: the rotation between two viewing rays.

A composed scene has one camera, while each pasted hand's 3D label stays in the camera of its source photograph. A hand
seen off-centre shows the side it turns to its viewing ray, so orientations are compared relative to that ray.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
OPTICAL_AXIS = np.array([0.0, 0.0, 1.0])


def viewing_rays(K: Array, points_px: Array) -> Array:
    """(N, 3) unit vectors from the camera through pixels (N, 2), K (N, 3, 3)."""
    rays = np.linalg.solve(K, np.concatenate([points_px, np.ones((len(points_px), 1))], axis=1)[..., None])[..., 0]
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def rotation_between(start: Array, end: Array) -> Array:
    """(N, 3, 3) smallest rotations that turn unit vectors `start` (N, 3) into `end` (N, 3); less than half a turn apart."""
    axis = np.cross(start, end)
    cosine = np.einsum("nc,nc->n", start, end)
    if (cosine < -1 + 1e-9).any():
        raise ValueError("start and end: expected rays less than half a turn apart")
    zero = np.zeros(len(axis))
    x, y, z = axis.T
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    return np.asarray(np.eye(3) + skew + skew @ skew / (1 + cosine)[:, None, None])


def rotate(points: NDArray[np.floating], rotations: Array) -> Array:
    """(N, P, 3) points, each sample under its own (3, 3) rotation."""
    return np.asarray(np.asarray(points, np.float64) @ np.swapaxes(rotations, 1, 2))
