"""Where the hand is: orientation by the config's ranges, then the position that gives the wanted size in the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipelines.config import ProceduralConfig

# model frame (right hand: fingers -x, back +y, thumb +z) to camera frame, fingers up, back toward the camera
_BACK_VIEW = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_PALM_VIEW = np.diag([-1.0, 1.0, -1.0]) @ _BACK_VIEW
# how far the hand may be off the image centre, as a fraction of the image
JITTER = 0.05
MIN_DEPTH_M = 0.08


def sample_rotation(config: ProceduralConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotation (3,3) of a right hand's root: palm or back to the camera, tilted about x and y, then rolled about z."""
    view = _BACK_VIEW if rng.random() < config.back_fraction else _PALM_VIEW
    about_x, about_y = rng.uniform(-config.tilt_deg, config.tilt_deg, 2)
    roll = rng.uniform(-config.roll_deg, config.roll_deg)
    turned: NDArray[np.float64] = Rotation.from_euler("yxz", [about_y, about_x, roll], degrees=True).as_matrix() @ view
    return turned


def sample_camera(config: ProceduralConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """K (3,3) px: a focal length by the config's range, the principal point at the image centre."""
    focal = rng.uniform(*config.focal_factor) * config.image_px
    return np.array([[focal, 0, config.image_px / 2], [0, focal, config.image_px / 2], [0, 0, 1.0]])


def project(points_m: NDArray, K: NDArray) -> NDArray[np.float64]:
    """Camera frame (...,3) m -> (...,2) px."""
    points = np.asarray(points_m, np.float64)
    pixels: NDArray[np.float64] = points[..., :2] / points[..., 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
    return pixels


def place(keypoints_m: NDArray, vertices_m: NDArray, K: NDArray, config: ProceduralConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Translation (3,) m that puts a rotated, wrist-centred hand before the camera.

    The longer side of its keypoints' box becomes a fraction of image_px drawn from hand_fraction, its centre lies near the
    image centre, and the whole surface (778 vertices) is inside the image wherever it fits.
    """
    size = config.image_px
    wanted_px = rng.uniform(*config.hand_fraction) * size
    center_px = size / 2 + rng.uniform(-JITTER, JITTER, 2) * size
    extent_m = np.ptp(keypoints_m[:, :2], axis=0).max()
    middle = (keypoints_m.min(0) + keypoints_m.max(0)) / 2
    translation = np.array([0, 0, max(K[0, 0] * max(extent_m, 0.03) / wanted_px, 0.15)]) - middle
    nearest = keypoints_m[:, 2].min()
    for _ in range(2):
        for _ in range(12):
            pixels = project(keypoints_m + translation, K)
            low, high = pixels.min(0), pixels.max(0)
            depth = translation[2] + middle[2]
            depth *= (high - low).max() / wanted_px
            translation[:2] += (center_px - (low + high) / 2) * depth / K[0, 0]
            translation[2] = max(depth - middle[2], MIN_DEPTH_M - nearest)
        outline = project(vertices_m + translation, K)
        low, high = outline.min(0), outline.max(0)
        over = np.maximum(1 - low, 0) - np.maximum(high - (size - 1), 0)
        too_big = high - low > size - 2
        center_px = center_px + np.where(too_big, size / 2 - (low + high) / 2, over)
        if not over.any():
            break
    return translation
