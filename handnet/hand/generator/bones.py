"""The free hand's bones: joint places, directions, lengths and thicknesses of the right hand at rest, in millimetres.

Frame: fingers along -x, back of the hand +y, thumb side +z. Lengths are rounded adult means from general knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.dofs import FIRST_JOINT
from handnet.hand.frames import FINGER_DORSAL, THUMB_DORSAL, frame, unit

CHAINS: Final = ("index", "middle", "little", "ring", "thumb")  # MANO's order: joints 1-3, 4-6, 7-9, 10-12, 13-15
LONG_FINGERS: Final = ("index", "middle", "ring", "little")
THUMB_CHAIN: Final = CHAINS.index("thumb")
WRIST_MM: Final = np.array([95.5, 6.0, 5.0])


@dataclass(frozen=True, kw_only=True)
class Finger:
    """One finger: root (3,), unit bone directions (3, 3), bone lengths and half-breadths in mm, dorsal unit vector."""

    root: NDArray[np.float64]
    directions: NDArray[np.float64]
    lengths: tuple[float, float, float]
    radii: tuple[float, float, float, float]  # at the root, the second joint, the third joint, the tip
    dorsal: NDArray[np.float64]


def _long_finger(
    root: tuple[float, float, float], azimuth_deg: float, lengths: tuple[float, float, float], radii: tuple[float, float, float, float]
) -> Finger:
    """A finger that fans out by `azimuth_deg` (+ towards the thumb) and bends towards the palm a little at each joint."""
    azimuth = np.radians(azimuth_deg)
    directions = [
        [-np.cos(azimuth) * np.cos(pitch), -np.sin(pitch), np.sin(azimuth) * np.cos(pitch)] for pitch in np.radians((2, 4, 7))
    ]
    return Finger(root=np.array(root), directions=np.array(directions), lengths=lengths, radii=radii, dorsal=FINGER_DORSAL)


BONES: Final[dict[str, Finger]] = {
    "index": _long_finger((7.0, 2.5, 26.5), 5.0, (39.5, 22.5, 19.5), (9.5, 8.9, 7.9, 6.3)),
    "middle": _long_finger((0.0, 4.5, 5.0), -2.0, (43.5, 26.0, 20.5), (9.8, 9.1, 8.1, 6.5)),
    "ring": _long_finger((9.0, 3.0, -15.5), -9.0, (40.5, 25.0, 20.0), (9.3, 8.6, 7.6, 6.1)),
    "little": _long_finger((22.5, -1.0, -33.0), -19.0, (32.5, 18.0, 18.5), (8.4, 7.6, 6.7, 5.4)),
    "thumb": Finger(
        root=np.array([71.0, -7.0, 27.0]),
        directions=unit(np.array([[-0.70, -0.20, 0.68], [-0.83, -0.13, 0.54], [-0.90, -0.08, 0.42]])),
        lengths=(44.0, 32.0, 26.0),
        radii=(12.0, 10.6, 9.8, 7.4),
        dorsal=THUMB_DORSAL,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """joints (16, 3) and tips (5, 3) in mm, the latter in CHAINS order; axes (16, 3, 3), rows l, d, u of frames.py."""

    joints: NDArray[np.float64]
    tips: NDArray[np.float64]
    axes: NDArray[np.float64]


@lru_cache(maxsize=1)
def skeleton() -> Skeleton:
    """The right hand's skeleton at rest."""
    joints, tips, axes = np.zeros((16, 3)), np.zeros((5, 3)), np.zeros((16, 3, 3))
    joints[0] = WRIST_MM
    axes[0] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    for chain, name in enumerate(CHAINS):
        finger = BONES[name]
        point = finger.root
        for k in range(3):
            joint = FIRST_JOINT[name] + k
            joints[joint] = point
            axes[joint] = frame(finger.directions[k], finger.dorsal)
            point = point + finger.directions[k] * finger.lengths[k]
        tips[chain] = point
    for array in (joints, tips, axes):
        array.setflags(write=False)
    return Skeleton(joints=joints, tips=tips, axes=axes)
