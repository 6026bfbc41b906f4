"""Anatomical frames: for every joint the flexion axis, the dorsal axis and the bone, at rest.

u = bone, d = dorsal, perpendicular to u, l = d x u; + about l is flexion, + about d abduction towards the thumb.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import MANO_PARENTS

FINGER_DORSAL: Final = np.array([0.0, 1.0, 0.0])
THUMB_DORSAL: Final = np.array([0.50, 0.48, 0.72])  # out of the thumb's nail; normalised where it is used
_THUMB: Final = (13, 14, 15)


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) vectors scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def frame(bone: NDArray[np.float64], dorsal: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) rows l, d, u from a bone direction and any vector on the dorsal side of it."""
    u = unit(bone)
    d = unit(unit(dorsal) - u * (unit(dorsal) @ u))
    return np.stack([np.cross(d, u), d, u])


def anatomical_frames(joints: NDArray[np.float64], *, left: bool = False) -> NDArray[np.float64]:
    """(16, 3, 3) frames of a MANO-schema hand from its rest joints (16, 3), for models that don't carry their own.

    A last phalanx has no joint at its end, so it takes the direction of the bone before it.
    """
    right = joints * [-1.0, 1.0, 1.0] if left else joints
    frames = np.zeros((16, 3, 3))
    frames[0] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    for joint in range(1, 16):
        child = joint + 1
        has_child = child < 16 and MANO_PARENTS[child] == joint
        bone = right[child] - right[joint] if has_child else right[joint] - right[joint - 1]
        frames[joint] = frame(bone, THUMB_DORSAL if joint in _THUMB else FINGER_DORSAL)
    return frames * [1.0, -1.0, -1.0] if left else frames
