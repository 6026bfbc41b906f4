"""InterHand2.6M's calibrated cameras: dozens for each capture, with their place in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.datasets.sample import DataError
from pipelines.datasets.source_files import SourceFiles

MAX_CAMERAS = 64 << 20  # bytes of the cameras' file: a few megabytes
CAMERA_FIELDS = {"campos": (3,), "camrot": (3, 3), "focal": (2,), "princpt": (2,)}


@dataclass(frozen=True)
class Camera:
    """K (3,3), and the pose: X_cam = rotation (X_world - position_m), metres, OpenCV's axes."""

    K: NDArray[np.float64]
    rotation: NDArray[np.float64]
    position_m: NDArray[np.float64]

    def from_world(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,3) world -> camera frame."""
        moved: NDArray[np.float64] = (points_m - self.position_m) @ self.rotation.T
        return moved


class Cameras:
    """A split's cameras by capture and name."""

    def __init__(self, files: SourceFiles, name: str) -> None:
        self.where = files.where(name)
        try:
            self.captures = orjson.loads(files.read(name, limit=MAX_CAMERAS))
        except orjson.JSONDecodeError as error:
            raise DataError(f"{self.where}: not valid JSON: {error}") from None
        if not isinstance(self.captures, dict):
            raise DataError(f"{self.where}: expected cameras by capture, got a {type(self.captures).__name__}")

    def get(self, capture: int, name: str) -> Camera:
        """DataError if the camera or one of its fields is missing or damaged."""
        fields = self.captures.get(str(capture))
        values = {}
        for field, shape in CAMERA_FIELDS.items():
            where = f"{self.where}: {capture}.{field}.{name}"
            try:
                array = np.array(fields[field][name], np.float64)
            except (KeyError, TypeError, ValueError):
                raise DataError(f"{where}: expected {shape} numbers, got none") from None
            if array.shape != shape or not np.isfinite(array).all():
                raise DataError(f"{where}: expected {shape} finite numbers, got {array.shape}")
            values[field] = array
        (fx, fy), (cx, cy) = values["focal"], values["princpt"]
        if min(fx, fy) <= 0:
            raise DataError(f"{self.where}: {capture}.focal.{name}: expected lengths > 0, got {[float(fx), float(fy)]}")
        return Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), values["camrot"], values["campos"] / 1000)
