"""The hand's degrees of freedom: which joints turn about which anatomical axis, how far, and as an axis-angle pose.

Degrees; a rotation is R = R_abduction(d) R_flexion(l) R_twist(u) in the joint's frame (frames.py), right hand.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FLEXION, ABDUCTION, TWIST = 0, 1, 2
FINGER_ORDER: Final = ("index", "middle", "ring", "little")  # the order of finger tuples below
FIRST_JOINT: Final = {"index": 1, "middle": 4, "little": 7, "ring": 10, "thumb": 13}

# (joint, axis) -> lowest and highest angle in degrees. Abduction is + towards the thumb; for the thumb, + away from the
# palm. Rounded from general anatomical knowledge, not taken from one study.
_MCP_ABDUCTION_PIP_DIP = {
    "index": ((-25, 88), (-12, 18), (-5, 108), (-8, 72)),
    "middle": ((-25, 90), (-11, 11), (-5, 110), (-8, 74)),
    "ring": ((-22, 92), (-14, 12), (-5, 110), (-8, 74)),
    "little": ((-22, 95), (-20, 18), (-5, 105), (-8, 74)),
}
LIMITS_DEG: dict[tuple[int, int], tuple[float, float]] = {}
for _finger, (_mcp, _abduction, _pip, _dip) in _MCP_ABDUCTION_PIP_DIP.items():
    _first = FIRST_JOINT[_finger]
    LIMITS_DEG[_first, FLEXION] = _mcp
    LIMITS_DEG[_first, ABDUCTION] = _abduction
    LIMITS_DEG[_first, TWIST] = (-4, 4)
    LIMITS_DEG[_first + 1, FLEXION] = _pip
    LIMITS_DEG[_first + 2, FLEXION] = _dip
LIMITS_DEG |= {
    (13, FLEXION): (-28, 48),
    (13, ABDUCTION): (-22, 50),
    (13, TWIST): (-45, 15),
    (14, FLEXION): (-12, 62),
    (14, ABDUCTION): (-8, 8),
    (15, FLEXION): (-22, 80),
}

DOFS: Final = tuple(LIMITS_DEG)
NUM_DOFS: Final = len(DOFS)
COLUMN: Final = {dof: column for column, dof in enumerate(DOFS)}
LOWEST_DEG: Final = np.array([LIMITS_DEG[dof][0] for dof in DOFS], dtype=np.float64)
HIGHEST_DEG: Final = np.array([LIMITS_DEG[dof][1] for dof in DOFS], dtype=np.float64)
# Joints without a degree of freedom may still be off by this much before the limits call it an error.
FIXED_TOLERANCE_DEG: Final = 5.0


def limits_table_deg() -> NDArray[np.float64]:
    """(15, 3, 2): for joints 1..15 the lowest and highest flexion, abduction and twist in degrees."""
    table = np.empty((15, 3, 2))
    table[..., 0], table[..., 1] = -FIXED_TOLERANCE_DEG, FIXED_TOLERANCE_DEG
    for (joint, axis), bounds in LIMITS_DEG.items():
        table[joint - 1, axis] = bounds
    return table


def angles_table_deg(dofs_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, D) DoF angles -> (N, 15, 3) flexion, abduction and twist of every joint, 0 where a joint has no such freedom."""
    table = np.zeros((len(dofs_deg), 15, 3))
    for (joint, axis), column in COLUMN.items():
        table[:, joint - 1, axis] = dofs_deg[:, column]
    return table


def to_pose(joint_axes: NDArray[np.float64], dofs_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """DoF angles (N, D) in degrees -> axis-angle poses (N, 45) in radians; joint_axes: (16, 3, 3) frames."""
    dofs_deg = np.atleast_2d(dofs_deg)
    num = len(dofs_deg)
    pose = np.zeros((num, 16, 3))
    for joint in range(1, 16):
        rotation = Rotation.identity(num)
        for axis in (ABDUCTION, FLEXION, TWIST):
            if (joint, axis) in COLUMN:
                angles = np.radians(dofs_deg[:, COLUMN[joint, axis]])
                rotation = rotation * Rotation.from_rotvec(angles[:, None] * joint_axes[joint][axis])
        pose[:, joint] = rotation.as_rotvec()
    return pose[:, 1:].reshape(num, 45)
