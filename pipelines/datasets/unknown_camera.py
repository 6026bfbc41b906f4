"""The camera of an image that came with none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assumed_camera(height_px: int, width_px: int) -> NDArray[np.float64]:
    """(3,3) K with the focal length that prediction assumes, the longer side, and the principal point in the middle."""
    focal = float(max(height_px, width_px))
    return np.array([[focal, 0.0, width_px / 2], [0.0, focal, height_px / 2], [0.0, 0.0, 1.0]])
