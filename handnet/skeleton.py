"""The 21 hand keypoints: their names, bones and the maps between joint orders (numpy only).

Everything in the project is in `std21`: wrist, then thumb, index, middle, ring, little, each from base to tip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

SIDES: Final = ("left", "right")  # index = the number used in arrays: 0 left, 1 right
FINGERS: Final = ("thumb", "index", "middle", "ring", "little")
STD21_NAMES: Final = ("wrist", *(f"{finger}{k}" for finger in FINGERS for k in range(1, 5)))
NUM_KEYPOINTS: Final = 21
WRIST: Final = 0
ROOT: Final = 9  # first joint of the middle finger

# (parent, child) pairs, in the order of the child
BONES: Final = tuple((0 if child % 4 == 1 else child - 1, child) for child in range(1, NUM_KEYPOINTS))
MIDDLE_FIRST_BONE: Final = (9, 10)  # FreiHAND's unit of hand scale

# The 16 joints of a MANO-schema model; the little finger comes before the ring finger.
MANO_JOINT_NAMES: Final = ("wrist", *(f"{finger}{k}" for finger in ("index", "middle", "little", "ring", "thumb") for k in (1, 2, 3)))
MANO_PARENTS: Final = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)


def _order(*indices: int) -> NDArray[np.int64]:
    array = np.array(indices, dtype=np.int64)
    array.setflags(write=False)
    return array


# std = source[MAP]; the MANO source is [16 joints | 5 tips in FINGERS order], which is HO3D's order too.
MANO_TO_STD: Final = _order(0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
STD_TO_MANO: Final = _order(*np.argsort(MANO_TO_STD).tolist())
HO3D_TO_STD: Final = MANO_TO_STD
STD_TO_HO3D: Final = STD_TO_MANO
RHD_TO_STD: Final = _order(0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17)  # self-inverse
INTERHAND_TO_STD: Final = _order(20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16)  # left hand: + 21


@dataclass(frozen=True, kw_only=True)
class JointConvention:
    """What a dataset or library calls the joints of a MANO hand: std21 needs 16 joints and 5 fingertips.

    regressed: the 16 joints are J_regressor times the POSED vertices, else they are those of the kinematic chain.
    tips: (2, 5) vertex ids by side, thumb to little; None takes those that the hand model carries.
    """

    name: str
    regressed: bool
    tips: NDArray[np.int64] | None


def _tips(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    both = np.stack([left, right])
    both.setflags(write=False)
    return both


# Vertex ids of the fingertips (FINGERS order) by side, as manopth has them for the official MANO meshes.
# A HandModel carries its own ids in `tips`: the free left hand is the exact mirror of the right one and keeps 444.
FINGERTIP_VERTICES: Final = _tips(_order(745, 317, 445, 556, 673), _order(745, 317, 444, 556, 673))
_FREIHAND_TIPS: Final = _order(744, 320, 443, 555, 672)
_HO3D_TIPS: Final = _order(744, 333, 444, 555, 672)
_SMPLX_TIPS: Final = _order(744, 320, 443, 554, 671)
# InterHand2.6M's keypoints are triangulated marks, not MANO's; this is how its authors take joints from their MANO fits.
_INTERHAND_TIPS: Final = _order(745, 317, 445, 556, 673)

JOINT_CONVENTIONS: Final[Mapping[str, JointConvention]] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            JointConvention(name="model", regressed=False, tips=None),
            JointConvention(name="manopth", regressed=False, tips=FINGERTIP_VERTICES),
            JointConvention(name="freihand", regressed=True, tips=_tips(_FREIHAND_TIPS, _FREIHAND_TIPS)),
            JointConvention(name="ho3d", regressed=False, tips=_tips(_HO3D_TIPS, _HO3D_TIPS)),
            JointConvention(name="smplx", regressed=False, tips=_tips(_SMPLX_TIPS, _SMPLX_TIPS)),
            JointConvention(name="interhand", regressed=True, tips=_tips(_INTERHAND_TIPS, _INTERHAND_TIPS)),
        )
    }
)


def convention_index(name: str) -> int:
    """Place of a name among JOINT_CONVENTIONS, for batches in which hands differ; ValueError for another name."""
    names = list(JOINT_CONVENTIONS)
    if name not in names:
        raise ValueError(f"joint convention: expected one of {names}, got {name!r}")
    return names.index(name)


def side_index(name: str) -> int:
    """0 for "left", 1 for "right"; ValueError for anything else."""
    if name not in SIDES:
        raise ValueError(f"side: expected one of {list(SIDES)}, got {name!r}")
    return SIDES.index(name)


# Bone i -> (parent, child) as an index array, for vectorised bone vectors: keypoints[BONE_ARRAY[:, 1]] - keypoints[BONE_ARRAY[:, 0]]
BONE_ARRAY: Final = np.array(BONES, dtype=np.int64)
BONE_ARRAY.setflags(write=False)
