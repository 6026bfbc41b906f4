"""What each server wants in its package: how many samples, joint order, axes.

Inside the project joints are in std21 order and the camera frame is OpenCV's; a layout says how to leave and to come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import HO3D_TO_STD, NUM_KEYPOINTS, STD_TO_HO3D

NUM_VERTICES = 778
OPENCV, OPENGL = (1.0, 1.0, 1.0), (1.0, -1.0, -1.0)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """num_samples the server expects; from_std, to_std: joint index maps; axes: signs of x, y, z relative to OpenCV's.

    convention: what its labels call the joints of a hand, a name of `handnet.skeleton.JOINT_CONVENTIONS`; joint_order: its
    order's name, for people; is_video: neighbouring samples are frames of one recording.
    """

    name: str
    num_samples: int
    sample_order: str
    convention: str
    joint_order: str
    is_video: bool
    from_std: tuple[int, ...]
    to_std: tuple[int, ...]
    axes: tuple[float, float, float]

    @property
    def depth_sign(self) -> float:
        """+1 where hands in front of the camera have z > 0, -1 where they have z < 0."""
        return self.axes[2]

    def joints(self, joints_m: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 21, 3) std21, OpenCV -> the layout's order and axes."""
        return np.asarray(joints_m, np.float64)[:, list(self.from_std)] * np.array(self.axes)

    def vertices(self, vertices_m: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 778, 3) OpenCV -> the layout's axes (which is also the way back)."""
        return np.asarray(vertices_m, np.float64) * np.array(self.axes)

    def to_std21(self, joints_m: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 21, 3) in the layout -> std21, OpenCV."""
        return (np.asarray(joints_m, np.float64) * np.array(self.axes))[:, list(self.to_std)]


_STD = tuple(range(NUM_KEYPOINTS))
_FREIHAND = {
    "from_std": _STD,
    "to_std": _STD,
    "axes": OPENCV,
    "sample_order": "image id",
    "convention": "freihand",
    "joint_order": "std21 (FreiHAND)",
    "is_video": False,
}
_HO3D = {
    "from_std": tuple(STD_TO_HO3D.tolist()),
    "to_std": tuple(HO3D_TO_STD.tolist()),
    "axes": OPENGL,
    "sample_order": "evaluation.txt",
    "convention": "ho3d",
    "joint_order": "MANO + tips (HO3D)",
    "is_video": True,
}

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "freihand": Layout(name="freihand", num_samples=3960, **_FREIHAND),  # type: ignore[arg-type]
        "ho3d": Layout(name="ho3d", num_samples=11524, **_HO3D),  # type: ignore[arg-type]
        "ho3d-v3": Layout(name="ho3d-v3", num_samples=20137, **_HO3D),  # type: ignore[arg-type]
    }
)


def find_layout(name: str) -> Layout:
    """The layout of that name. ValueError names those there are."""
    if name not in LAYOUTS:
        raise ValueError(f"layout: expected one of {sorted(LAYOUTS)}, got {name!r}")
    return LAYOUTS[name]
