"""Natural poses of the right hand: closing synergies, gesture blends and independent fingers, without deep contact.

Angles are drawn as degrees of freedom, cut to their limits, and turned into axis-angle poses; collisions are rejected.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.contact import penetration_mm
from handnet.hand.dofs import (
    ABDUCTION,
    COLUMN,
    DOFS,
    FINGER_ORDER,
    FIRST_JOINT,
    FLEXION,
    HIGHEST_DEG,
    LOWEST_DEG,
    NUM_DOFS,
    TWIST,
    to_pose,
)
from handnet.hand.generator.bones import skeleton
from handnet.hand.gestures import GESTURES_DEG

_Array = NDArray[np.float64]
_SYNERGY_SHARE, _BLEND_SHARE = 0.40, 0.45  # the rest are independent fingers
_FAN_DEG: Final = (8, 1, -6, -12)  # abduction of the four fingers when the hand spreads


def sample_poses(num: int, rng: np.random.Generator, *, max_depth_mm: float = 2.5) -> _Array:
    """(num, 45) axis-angle poses of the right hand in radians, relative to the flat rest pose.

    max_depth_mm: how deep capsules around the bones may overlap. A pure function of `rng`'s state.
    """
    return sample_with_angles(num, rng, max_depth_mm=max_depth_mm)[0]


def sample_with_angles(num: int, rng: np.random.Generator, *, max_depth_mm: float = 2.5) -> tuple[_Array, _Array]:
    """As `sample_poses`, and the (num, D) degrees of freedom in degrees that the poses were made from."""
    if num < 0:
        raise ValueError(f"num: expected a count >= 0, got {num}")
    axes = skeleton().axes
    poses: list[_Array] = [np.zeros((0, 45))]
    angles: list[_Array] = [np.zeros((0, NUM_DOFS))]
    num_kept = 0
    while num_kept < num:
        drawn = _draw(max(2 * (num - num_kept), 64), rng)
        pose = to_pose(axes, drawn)
        kept = penetration_mm(pose) < max_depth_mm
        poses.append(pose[kept])
        angles.append(drawn[kept])
        num_kept += int(kept.sum())
    return np.concatenate(poses)[:num], np.concatenate(angles)[:num]


def _draw(num: int, rng: np.random.Generator) -> _Array:
    """(num, D) angles from the three kinds of pose, with noise, within the limits."""
    bank = np.stack(list(GESTURES_DEG.values()))
    synergy = _closing_synergy(num, rng)
    first, second = rng.integers(len(bank), size=(2, num))
    share = rng.beta(0.5, 0.5, num)[:, None]
    blend = bank[first] * (1 - share) + bank[second] * share
    independent = _independent_fingers(num, bank, rng)
    kind = rng.random(num)[:, None]
    angles = np.where(kind < _SYNERGY_SHARE, synergy, np.where(kind < _SYNERGY_SHARE + _BLEND_SHARE, blend, independent))
    spread_deg = np.array([_noise_deg(joint, axis) for joint, axis in DOFS]) * (0.5 + rng.random((num, 1)))
    return _natural(angles + spread_deg * rng.standard_normal((num, NUM_DOFS)))


def _noise_deg(joint: int, axis: int) -> float:
    if joint >= FIRST_JOINT["thumb"]:
        return 6
    return {FLEXION: 7, ABDUCTION: 2.5, TWIST: 2}[axis]


def _closing_synergy(num: int, rng: np.random.Generator) -> _Array:
    """The whole hand closing, neighbouring fingers together; the thumb follows loosely."""
    closing = rng.beta(0.9, 1.1, num)
    correlation = np.linalg.cholesky(0.65 ** np.abs(np.subtract.outer(range(4), range(4))))
    per_finger = np.clip(closing[:, None] + 0.16 * rng.standard_normal((num, 4)) @ correlation.T, 0, 1)
    mcp = np.clip(per_finger + 0.16 * rng.standard_normal((num, 4)), 0, 1)
    pip = np.clip(per_finger + 0.12 * rng.standard_normal((num, 4)), 0, 1)
    angles = np.zeros((num, NUM_DOFS))
    fan = rng.normal(0, 0.6, num)
    for k, name in enumerate(FINGER_ORDER):
        first = FIRST_JOINT[name]
        pip_deg = 2 + 96 * pip[:, k]
        angles[:, COLUMN[first, FLEXION]] = -6 + 84 * mcp[:, k]
        angles[:, COLUMN[first + 1, FLEXION]] = pip_deg
        angles[:, COLUMN[first + 2, FLEXION]] = 0.58 * pip_deg + rng.normal(0, 5, num)
        angles[:, COLUMN[first, ABDUCTION]] = fan * (1 - 0.8 * mcp[:, k]) * _FAN_DEG[k]
    opposition = np.clip(closing + 0.3 * rng.standard_normal(num), 0, 1)
    angles[:, COLUMN[13, FLEXION]] = -12 + 46 * opposition
    angles[:, COLUMN[13, ABDUCTION]] = rng.normal(14, 12, num)
    angles[:, COLUMN[13, TWIST]] = -30 * opposition
    angles[:, COLUMN[14, FLEXION]] = -4 + 44 * np.clip(opposition + 0.25 * rng.standard_normal(num), 0, 1)
    angles[:, COLUMN[15, FLEXION]] = -8 + 60 * np.clip(opposition + 0.3 * rng.standard_normal(num), 0, 1)
    return angles


def _independent_fingers(num: int, bank: _Array, rng: np.random.Generator) -> _Array:
    """Every finger from a gesture of its own, the little finger half following the ring finger."""
    choice = rng.integers(len(bank), size=(num, 5))
    angles = np.zeros((num, NUM_DOFS))
    for column, (joint, _) in enumerate(DOFS):
        angles[:, column] = bank[choice[:, (joint - 1) // 3], column]
    for k in range(3):
        little, ring = COLUMN[FIRST_JOINT["little"] + k, FLEXION], COLUMN[FIRST_JOINT["ring"] + k, FLEXION]
        angles[:, little] = 0.5 * angles[:, little] + 0.5 * angles[:, ring]
    return angles


def _natural(angles: _Array) -> _Array:
    """Couplings that tendons and ligaments impose, then the limits."""
    for name in FINGER_ORDER:
        first = FIRST_JOINT[name]
        mcp, pip, dip = (COLUMN[first + k, FLEXION] for k in range(3))
        angles[:, dip] = np.minimum(angles[:, dip], 12 + 0.75 * np.maximum(angles[:, pip], 0))  # a straight PIP can't hold a bent DIP
        angles[:, COLUMN[first, ABDUCTION]] *= 1 - 0.6 * np.clip(angles[:, mcp] / 90, 0, 1)  # little abduction when bent
    return np.clip(angles, LOWEST_DEG, HIGHEST_DEG)
