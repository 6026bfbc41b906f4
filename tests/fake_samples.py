"""Made-up hand labels and samples for the tests of the data path: random numbers, but 2D and 3D agree."""

from __future__ import annotations

import numpy as np

from pipelines.datasets.sample import HandLabel


def project(K: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    out = []
    for point in points_m.astype(np.float64):
        x, y, z = K @ point
        out.append((x / z, y / z))
    return np.array(out)


def make_label(seed: int = 0, side: int = 1) -> HandLabel:
    rng = np.random.default_rng(seed)
    K = np.array([[400.0, 0, 112], [0, 410, 110], [0, 0, 1]])
    points = (rng.normal(0, 0.04, (21, 3)) + np.array([0.02, -0.01, 0.7])).astype(np.float32)
    keypoints = project(K, points)
    return HandLabel(
        side=side,
        keypoints_px=keypoints,
        visible=rng.random(21) > 0.2,
        box_px=np.concatenate([keypoints.min(0), keypoints.max(0)]),
        K=K,
        keypoints_m=points,
        vertices_m=rng.normal(0, 0.04, (778, 3)) + np.array([0, 0, 0.7]),
        mano=rng.normal(0, 0.3, 61),
        hand_model="free",
        source_id="test/0",
        identity="p1",
    )
