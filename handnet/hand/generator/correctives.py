"""Pose blend shapes: what plain skinning gets wrong at bent joints, regressed from the posed anatomy.

Joint by joint, the step from the skinned surface to the anatomy's surface as a linear function of R - I.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handnet.hand.dofs import FIRST_JOINT
from handnet.hand.generator.anatomy import PALM, Anatomy
from handnet.hand.generator.bones import CHAINS
from handnet.hand.generator.mesh import HandMesh
from handnet.hand.generator.primitives import Array
from handnet.hand.generator.topology import edges_of
from handnet.skeleton import MANO_PARENTS

_Angles = tuple[float, float, float]  # flexion, abduction, twist in degrees
_THUMB_ROOT_ANGLES: list[_Angles] = [(f, a, t) for f in (-20, 0, 20, 40) for a in (-15, 0, 25, 45) for t in (-30, 10)]
_ROOT_ANGLES: list[_Angles] = [(f, a, 0) for f in (-20, 20, 45, 70, 95) for a in (-15, 0, 15)]
_HINGE_ANGLES: list[_Angles] = [(f, 0, 0) for f in (-15, 15, 35, 55, 75, 95, 110)]


def correctives(anatomy: Anatomy, mesh: HandMesh, weights: Array, limit_mm: float = 5.0, ridge: float = 0.02) -> Array:
    """(N, 3, 135) displacements in mm per unit of each entry of R - I of joints 1..15."""
    num = len(mesh.vertices)
    directions = np.zeros((num, 3, 135))
    neighbours: list[list[int]] = [[] for _ in range(num)]
    for a, b in edges_of(mesh.faces).tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    for name in CHAINS:
        for k in range(3):
            joint = FIRST_JOINT[name] + k
            moved = weights @ _descends_from(joint)
            ids = np.nonzero((moved > 0.01) & (moved < 0.995))[0]
            groups = (name, PALM) if k == 0 else (name,)
            features, steps = [], []
            rest = anatomy.project(mesh.vertices[ids], steps=6, groups=groups) - mesh.vertices[ids]
            for angles in _angles_of(name, k):
                rotation = _turn(anatomy.axes[joint], angles)
                step = _step_to_surface(anatomy, mesh.vertices[ids], weights[ids], joint, rotation, groups) - rest
                step *= np.minimum(1, limit_mm / np.maximum(np.linalg.norm(step, axis=1), 1e-9))[:, None]
                features.append((rotation.as_matrix() - np.eye(3)).ravel())
                steps.append(_smoothed(step, ids, neighbours).ravel())
            x, y = np.array(features), np.array(steps)
            solution = np.linalg.solve(x.T @ x + ridge * np.eye(9), x.T @ y)  # (9, 3 * len(ids))
            directions[ids, :, 9 * (joint - 1) : 9 * joint] = solution.T.reshape(len(ids), 3, 9)
    return directions


def _angles_of(name: str, k: int) -> list[_Angles]:
    if k:
        return _HINGE_ANGLES
    return _THUMB_ROOT_ANGLES if name == "thumb" else _ROOT_ANGLES


def _descends_from(joint: int) -> NDArray[np.bool_]:
    """(16,) whether each joint is `joint` or one of the (at most two) below it on its finger."""
    parents = MANO_PARENTS
    return np.array([j == joint or parents[j] == joint or (parents[j] > 0 and parents[parents[j]] == joint) for j in range(16)])


def _turn(axes: Array, angles: _Angles) -> Rotation:
    """Abduction after flexion after twist, degrees, in a joint's frame."""
    flexion, abduction, twist = np.radians(angles)
    lateral, dorsal, bone = axes
    turned = Rotation.from_rotvec(abduction * dorsal) * Rotation.from_rotvec(flexion * lateral) * Rotation.from_rotvec(twist * bone)
    return Rotation.from_rotvec(turned.as_rotvec())


def _step_to_surface(
    anatomy: Anatomy, vertices: Array, weights: Array, joint: int, rotation: Rotation, groups: tuple[str, ...]
) -> Array:
    """From skinned vertices to the anatomy posed by one joint, turned back to the rest pose."""
    transforms = _transforms(anatomy.joints, joint, rotation)
    blended = np.einsum("vj,jab->vab", weights, transforms)
    skinned = np.einsum("vab,vb->va", blended[:, :3, :3], vertices) + blended[:, :3, 3]
    step = anatomy.project(skinned, steps=6, transforms=transforms, groups=groups) - skinned
    return np.einsum("vba,vb->va", blended[:, :3, :3], step)


def _transforms(joints: Array, turned: int, rotation: Rotation) -> Array:
    """(16, 4, 4) world transforms relative to rest with a single joint turned."""
    local = np.tile(np.eye(3), (16, 1, 1))
    local[turned] = rotation.as_matrix()
    world = np.zeros((16, 4, 4))
    world[:, 3, 3] = 1
    world[0, :3, :3], world[0, :3, 3] = local[0], joints[0]
    for joint in range(1, 16):
        above = world[MANO_PARENTS[joint]]
        world[joint, :3, :3] = above[:3, :3] @ local[joint]
        world[joint, :3, 3] = above[:3, :3] @ (joints[joint] - joints[MANO_PARENTS[joint]]) + above[:3, 3]
    relative = world.copy()
    relative[:, :3, 3] -= np.einsum("jab,jb->ja", world[:, :3, :3], joints)
    return relative


def _smoothed(steps: Array, ids: NDArray[np.int64], neighbours: list[list[int]], rounds: int = 2) -> Array:
    """Steps of the vertices `ids`, averaged a little over the mesh; vertices elsewhere don't move."""
    everywhere = np.zeros((len(neighbours), 3))
    everywhere[ids] = steps
    for _ in range(rounds):
        everywhere[ids] = 0.6 * everywhere[ids] + 0.4 * np.array([everywhere[neighbours[v]].mean(0) for v in ids])
    return everywhere[ids]
