"""Anatomical frames: for every joint the flexion axis, the dorsal axis and the bone, at rest.

u = bone, d = dorsal, perpendicular to u, l = d x u; + about l is flexion, + about d abduction towards the thumb.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) vectors scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


FINGER_DORSAL: Final = np.array([0.0, 1.0, 0.0])
THUMB_DORSAL: Final = unit(np.array([0.50, 0.48, 0.72]))  # out of the thumb's nail
_FIRST_THUMB_JOINT: Final = 13
_FINGER_OF_CHAIN: Final = (1, 2, 4, 3, 0)  # MANO's chains are index, middle, little, ring, thumb


def frame(bone: NDArray[np.float64], dorsal: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) rows l, d, u from a unit bone direction and a unit vector on the dorsal side of it."""
    d = unit(dorsal - bone * (dorsal @ bone))
    return np.stack([np.cross(d, bone), d, bone])


def anatomical_frames(joints: NDArray[np.float64], tips: NDArray[np.float64], *, left: bool = False) -> NDArray[np.float64]:
    """(16, 3, 3) frames of a MANO-schema hand from its rest joints (16, 3) and fingertips (5, 3), thumb to little.

    For models that don't carry frames of their own. A left hand's axes are such that the same angles give the mirrored pose.
    """
    points = np.concatenate([joints, tips])
    if left:
        points = points * [-1.0, 1.0, 1.0]
    frames = np.zeros((16, 3, 3))
    frames[0] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    for joint in range(1, 16):
        end = joint + 1 if joint % 3 else 16 + _FINGER_OF_CHAIN[joint // 3 - 1]
        frames[joint] = frame(unit(points[end] - points[joint]), THUMB_DORSAL if joint >= _FIRST_THUMB_JOINT else FINGER_DORSAL)
    return frames * [1.0, -1.0, -1.0] if left else frames
