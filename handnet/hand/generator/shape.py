"""The ten shape directions of the free hand, by name, and the joint regressor that follows them.

A direction stretches every bone along its own axes and is blended with the skinning weights, so joints move consistently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from handnet.hand.frames import unit
from handnet.hand.generator.anatomy import Anatomy
from handnet.hand.generator.primitives import Array
from handnet.skeleton import MANO_PARENTS

_LATERAL_DORSAL, _LENGTH = slice(0, 2), 2
# palm flesh: centres and extents in mm of the thenar, the hypothenar and the distal pad, their shares, height at one sigma
_FLESH_PADS = (((50, -15, 35), (26, 16, 22), 1.0), ((57, -12, -22), (30, 14, 16), 1.0), ((5, -10, 0), (14, 12, 40), 0.5))
_FLESH_MM = 1.8


@dataclass(frozen=True, kw_only=True)
class ShapeSpace:
    """vertices (N, 3, 10) and joints (16, 3, 10): displacements in mm at one sigma; names of the ten directions."""

    vertices: Array
    joints: Array
    names: list[str]


def strains() -> dict[str, Array]:
    """(16, 3) relative stretch of every bone along (lateral, dorsal, bone) at one sigma, by name."""
    names = (
        "size",
        "thickness",
        "finger_length",
        "palm_width",
        "palm_length",
        "thumb_length",
        "index_vs_ring",
        "little_length",
        "fingertip_width",
    )
    s = {name: np.zeros((16, 3)) for name in names}
    s["size"] += 0.05
    s["thickness"][1:, _LATERAL_DORSAL], s["thickness"][0, _LATERAL_DORSAL] = 0.07, (0.025, 0.07)
    s["finger_length"][1:13, _LENGTH], s["finger_length"][13:, _LENGTH] = 0.05, 0.03
    s["palm_width"][0, 0], s["palm_width"][1:, 0] = 0.045, 0.02
    s["palm_length"][0, _LENGTH] = 0.045
    s["thumb_length"][13:, _LENGTH], s["thumb_length"][13:, _LATERAL_DORSAL] = 0.05, 0.02
    s["index_vs_ring"][1:4, _LENGTH], s["index_vs_ring"][10:13, _LENGTH] = 0.03, -0.03
    s["little_length"][7:10, _LENGTH] = 0.06
    tips = s["fingertip_width"]
    tips[[3, 6, 9, 12, 15], _LATERAL_DORSAL] = 0.09
    tips[[2, 5, 8, 11, 14], _LATERAL_DORSAL] = 0.02
    tips[[1, 4, 7, 10], _LATERAL_DORSAL] = -0.03
    return s


def shape_space(anatomy: Anatomy, vertices: Array, weights: Array) -> ShapeSpace:
    """Ten directions: overall size first, then by how far they move the surface."""
    names, displacements, joints = [], [], []
    for name, strain in strains().items():
        moved, moved_joints = _stretched(anatomy, vertices, weights, strain)
        names.append(name)
        displacements.append(moved)
        joints.append(moved_joints)
    names.append("palm_flesh")
    displacements.append(_palm_flesh(anatomy, vertices))
    joints.append(np.zeros((16, 3)))
    order = np.argsort([-np.sqrt((d**2).sum(1).mean()) for d in displacements])
    order = np.concatenate([[0], order[order != 0]])
    return ShapeSpace(
        vertices=np.stack([displacements[i] for i in order], -1),
        joints=np.stack([joints[i] for i in order], -1),
        names=[names[i] for i in order],
    )


def _stretched(anatomy: Anatomy, vertices: Array, weights: Array, strain: Array) -> tuple[Array, Array]:
    joints, axes = anatomy.joints, anatomy.axes
    gradients = np.einsum("jki,jk,jkl->jil", axes, strain, axes)  # displacement gradient of each bone
    moved = np.zeros((16, 3))
    for joint in range(1, 16):
        parent = MANO_PARENTS[joint]
        moved[joint] = moved[parent] + gradients[parent] @ (joints[joint] - joints[parent])
    by_bone = np.einsum("jab,vjb->vja", gradients, vertices[:, None] - joints[None]) + moved[None]
    return np.einsum("vj,vja->va", weights, by_bone), moved


def _palm_flesh(anatomy: Anatomy, vertices: Array) -> Array:
    normals = unit(anatomy.gradient(vertices)[1])
    height = np.zeros(len(vertices))
    for center, extent, share in _FLESH_PADS:
        height += share * np.exp(-(((vertices - center) / extent) ** 2).sum(1))
    height = height * np.clip(-normals[:, 1] + 0.2, 0, 1)
    return normals * (_FLESH_MM * height)[:, None]


def joint_regressor(vertices: Array, joints: Array, shapes: ShapeSpace, num_vertices: int = 36, ridge: float = 0.02) -> Array:
    """(16, N) rows >= 0 that sum to 1, sparse: the joints from the template's vertices and from every shape direction."""
    regressor = np.zeros((len(joints), len(vertices)))
    k = num_vertices
    for joint, place in enumerate(joints):
        # rings are symmetric, so distances come in pairs that only rounding tells apart
        near = np.argsort(np.round(np.linalg.norm(vertices - place, axis=1), 6), kind="stable")[:k]
        template = (vertices[near] - place).T
        directions = 3 * shapes.vertices[near].transpose(1, 2, 0).reshape(-1, k)
        sum_row, spread = 300 * np.ones((1, k)), ridge * 100 * np.eye(k) / np.sqrt(k)
        target = [np.zeros(3), 3 * shapes.joints[joint].ravel(), [300], ridge * 100 / k * np.ones(k) / np.sqrt(k)]
        row, _ = nnls(np.concatenate([template, directions, sum_row, spread]), np.concatenate(target))
        regressor[joint, near] = row / row.sum()
    return regressor
