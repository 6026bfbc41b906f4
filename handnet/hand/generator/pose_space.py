"""The pose space of the free hand: mean, principal components and bounds of the axis-angle numbers.

From poses of the natural-pose sampler, so `hands_components` spans what hands do rather than what joints could.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handnet.hand.dofs import HIGHEST_DEG, LOWEST_DEG, NUM_DOFS, to_pose
from handnet.hand.generator.primitives import Array
from handnet.hand.pose_sampler import sample_poses


@dataclass(frozen=True, kw_only=True)
class PoseSpace:
    """mean (45,); components (45, 45), orthonormal rows by falling deviation (45,); lowest and highest (45,), radians."""

    mean: Array
    components: Array
    deviations: Array
    lowest: Array
    highest: Array


def pose_space(axes: Array, num_poses: int = 8000, seed: int = 0) -> PoseSpace:
    """Principal components of sampled poses; `axes` (16, 3, 3) are the joint frames the bounds are taken in."""
    poses = sample_poses(num_poses, np.random.default_rng(seed))
    mean = poses.mean(0)
    _, singular, components = np.linalg.svd(poses - mean, full_matrices=False)
    num_used = int((singular > 1e-6 * singular[0]).sum())
    lowest, highest = _bounds(axes)
    return PoseSpace(
        mean=mean,
        components=_determined(components, num_used),
        deviations=np.where(np.arange(len(singular)) < num_used, singular / np.sqrt(num_poses), 0.0),
        lowest=lowest,
        highest=highest,
    )


def _determined(components: Array, num_used: int) -> Array:
    """Components freed of what an SVD leaves open, so that every machine finds the same.

    A vector's sign: its largest entry is made positive. Directions no pose ever takes (hinges have two each) are a
    subspace with no axes of its own: it is filled with the coordinate axes, made orthogonal in turn.
    """
    used = components[:num_used]
    rows = [row * np.sign(row[np.abs(row).argmax()]) for row in used]
    while len(rows) < len(components):
        basis = np.stack(rows)
        rest = np.eye(len(components)) - basis.T @ basis
        axis = int(np.round(np.diag(rest), 6).argmax())  # the axis with most of its length still outside
        for _ in range(2):  # twice, for orthogonality to rounding
            rest[axis] -= basis.T @ (basis @ rest[axis])
        rows.append(rest[axis] / np.linalg.norm(rest[axis]))
    return np.stack(rows)


def _bounds(axes: Array, num: int = 20000, seed: int = 0, margin: float = 0.01) -> tuple[Array, Array]:
    """Component-wise bounds of the 45 numbers over the whole anatomical range: half corners, half interior."""
    share = np.random.default_rng(seed).random((num, NUM_DOFS))
    share[: num // 2] = np.round(share[: num // 2])
    poses = to_pose(axes, LOWEST_DEG + (HIGHEST_DEG - LOWEST_DEG) * share)
    return poses.min(0) - margin, poses.max(0) + margin
