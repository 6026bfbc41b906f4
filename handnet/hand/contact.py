"""How deep a pose of the free hand runs into itself, from capsules around its bones; millimetres.

Coarser than the mesh but a thousand poses take milliseconds, which is what a rejection sampler needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handnet.hand.dofs import FIRST_JOINT
from handnet.hand.generator.bones import BONES, CHAINS, LONG_FINGERS, THUMB_CHAIN, skeleton
from handnet.skeleton import MANO_PARENTS

_PALM_START: Final = {"index": (72.0, 3.0, 14.0), "middle": (72.0, 4.0, 6.0), "ring": (72.0, 4.0, -3.0), "little": (74.0, 2.0, -14.0)}
_PALM_END_OFFSET: Final = np.array([4.0, -2.0, 0.0])
_PALM_RADIUS_MM: Final = 9.0


@dataclass(frozen=True)
class _Capsule:
    chain: int
    bone: int
    start: NDArray[np.float64]  # (N, 3)
    end: NDArray[np.float64]  # (N, 3)
    radius: float

    @property
    def can_reach_palm(self) -> bool:
        return self.bone == 2 if self.chain == THUMB_CHAIN else self.bone >= 1


def forward_kinematics(joints: NDArray[np.float64], poses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axis-angle poses (N, 45) -> world rotations (N, 16, 3, 3) and joint places (N, 16, 3), the wrist unrotated."""
    num = len(poses)
    local = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(num, 15, 3, 3)
    rotations, places = np.zeros((num, 16, 3, 3)), np.zeros((num, 16, 3))
    rotations[:, 0], places[:, 0] = np.eye(3), joints[0]
    for joint in range(1, 16):
        parent = MANO_PARENTS[joint]
        places[:, joint] = places[:, parent] + rotations[:, parent] @ (joints[joint] - joints[parent])
        rotations[:, joint] = rotations[:, parent] @ local[:, joint - 1]
    return rotations, places


def segment_distance(
    start: NDArray[np.float64], end: NDArray[np.float64], other_start: NDArray[np.float64], other_end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Smallest distance between two segments, batched over (..., 3) end points."""
    d1, d2, between = end - start, other_end - other_start, start - other_start
    a, e, f = (d1 * d1).sum(-1), (d2 * d2).sum(-1), (d2 * between).sum(-1)
    b, c = (d1 * d2).sum(-1), (d1 * between).sum(-1)
    determinant = a * e - b * b
    s = np.clip(np.where(determinant > 1e-9, (b * f - c * e) / np.maximum(determinant, 1e-9), 0), 0, 1)
    t = (b * s + f) / e
    clipped = np.clip(t, 0, 1)
    s = np.where(t != clipped, np.clip((b * clipped - c) / a, 0, 1), s)
    return np.linalg.norm(start + s[..., None] * d1 - other_start - clipped[..., None] * d2, axis=-1)


def penetration_mm(poses: NDArray[np.float64], shrink: float = 0.92) -> NDArray[np.float64]:
    """(N,) deepest overlap of each right-hand pose (N, 45), finger with finger or finger with palm; 0 if nothing touches.

    shrink: the capsules' share of the flesh's thickness, because flesh gives way.
    """
    capsules = _finger_capsules(poses, shrink)
    joints = skeleton().joints
    palm = [(np.array(_PALM_START[name]), joints[FIRST_JOINT[name]] + _PALM_END_OFFSET) for name in LONG_FINGERS]
    deepest = np.zeros(len(poses))
    for i, one in enumerate(capsules):
        for other in capsules[i + 1 :]:
            if one.chain != other.chain:
                distance = segment_distance(one.start, one.end, other.start, other.end)
                deepest = np.maximum(deepest, one.radius + other.radius - distance)
        if one.can_reach_palm:
            for start, end in palm:
                shape = one.start.shape
                distance = segment_distance(one.start, one.end, np.broadcast_to(start, shape), np.broadcast_to(end, shape))
                deepest = np.maximum(deepest, one.radius + _PALM_RADIUS_MM - distance)
    return deepest


def _finger_capsules(poses: NDArray[np.float64], shrink: float) -> list[_Capsule]:
    bones = skeleton()
    rotations, places = forward_kinematics(bones.joints, poses)
    capsules = []
    for chain, name in enumerate(CHAINS):
        first, radii = FIRST_JOINT[name], BONES[name].radii
        is_thumb = chain == THUMB_CHAIN
        tip = bones.tips[chain] - bones.joints[first + 2] - bones.axes[first + 2][2] * radii[3]
        ends = [places[:, first], places[:, first + 1], places[:, first + 2], places[:, first + 2] + rotations[:, first + 2] @ tip]
        for k in range(3):
            start = ends[k]
            if k == 0:  # leave out the part buried in the palm
                start = start + (0.8 if is_thumb else 0.55) * (ends[1] - start)
            if k == 0 and is_thumb:
                radius = radii[1]
            elif k == 2:
                radius = radii[2] * 0.6 + radii[3] * 0.4
            else:
                radius = (radii[k] + radii[k + 1]) / 2
            capsules.append(_Capsule(chain, k, start, ends[k + 1], radius * shrink))
    return capsules
