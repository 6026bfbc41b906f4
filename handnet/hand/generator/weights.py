"""Skinning weights of the free hand: how much of each vertex moves with each of the 16 joints.

Along a finger the weight passes from bone to bone around each joint; in the palm it fades into the wrist.
"""

from __future__ import annotations

import numpy as np

from handnet.hand.dofs import FIRST_JOINT
from handnet.hand.frames import unit
from handnet.hand.generator.anatomy import Anatomy
from handnet.hand.generator.bones import BONES, CHAINS, LONG_FINGERS, THUMB_CHAIN
from handnet.hand.generator.mesh import IN_PALM, HandMesh
from handnet.hand.generator.primitives import Array
from handnet.hand.generator.topology import edges_of, neighbour_means
from handnet.hand.skin import smoothstep

MAX_JOINTS_PER_VERTEX = 4
_METACARPAL_START = {"index": (75, 5, 14), "middle": (75, 6, 6), "ring": (75, 5, -3), "little": (75, 3, -12)}
_LATERAL_WIDTH_MM = 6.0
_FLESH_MM = 7  # taken off distances to bones, because flesh that near belongs to the bone entirely


def skin_weights(anatomy: Anatomy, mesh: HandMesh, smoothings: int = 4) -> Array:
    """(N, 16) weights, rows sum to 1, at most four of them above zero."""
    weights = np.zeros((len(mesh.vertices), 16))
    shares = _long_finger_shares(anatomy, mesh) | {"thumb": _thumb_share(anatomy, mesh)}
    for chain, name in enumerate(CHAINS):
        first = FIRST_JOINT[name]
        share = shares[name] * ((mesh.part == IN_PALM) | (mesh.part == chain))
        second, third = _along_finger(anatomy, mesh, chain)
        weights[:, first] = share * (1 - second)
        weights[:, first + 1] = share * second * (1 - third)
        weights[:, first + 2] = share * second * third
    weights[:, 0] = np.maximum(1 - weights[:, 1:].sum(1), 0)
    weights /= weights.sum(1, keepdims=True)
    edges, palm = edges_of(mesh.faces), mesh.part == IN_PALM
    for _ in range(smoothings):
        weights[palm] = 0.5 * weights[palm] + 0.5 * neighbour_means(weights, edges)[palm]
    smallest = np.argsort(weights, axis=1)[:, :-MAX_JOINTS_PER_VERTEX]
    np.put_along_axis(weights, smallest, 0, 1)
    weights[weights < 1e-3] = 0
    return weights / weights.sum(1, keepdims=True)


def segment_distances(points: Array, start: Array, end: Array) -> Array:
    """(N,) distances of (N, 3) points to a segment."""
    axis = end - start
    t = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(points - start - t[:, None] * axis, axis=1)


def _past_joint(
    anatomy: Anatomy, vertices: Array, joint: int, direction: Array, half_width_mm: float, shift_mm: float | Array = 0.0
) -> Array:
    """0 before a joint, 1 past it, along `direction`."""
    return smoothstep((vertices - anatomy.joints[joint]) @ direction - shift_mm, -half_width_mm, half_width_mm)


def _long_finger_shares(anatomy: Anatomy, mesh: HandMesh) -> dict[str, Array]:
    """Per finger: 1 on it, fading through the knuckles into the palm, divided between neighbours."""
    vertices, part = mesh.vertices, mesh.part
    palm_side = np.clip(-(vertices[:, 1] - anatomy.joints[0, 1] + 4) / 14, 0, 1)
    squared = []
    for name in LONG_FINGERS:
        first = FIRST_JOINT[name]
        bone, offset = anatomy.axes[first][2], vertices - anatomy.joints[first]
        across = offset - np.outer(offset @ bone, bone)
        across[:, 1] = 0
        squared.append((across**2).sum(1))
    nearest = np.min(squared, axis=0)[:, None]
    lateral = np.exp(-np.stack(squared, 1) / _LATERAL_WIDTH_MM**2 / 2 + nearest / _LATERAL_WIDTH_MM**2 / 2)
    lateral /= lateral.sum(1, keepdims=True)
    shares = {}
    for k, name in enumerate(LONG_FINGERS):
        first, radius = FIRST_JOINT[name], BONES[name].radii[0]
        outward = unit(anatomy.axes[first][2] + [-1, 0, 0])
        past = _past_joint(anatomy, vertices, first, outward, 1.25 * radius, 0.25 * radius * palm_side)
        shares[name] = past * np.where(part == CHAINS.index(name), 1.0, np.where(part != IN_PALM, 0.0, lateral[:, k]))
    return shares


def _thumb_share(anatomy: Anatomy, mesh: HandMesh) -> Array:
    """Between the thumb's metacarpal and the palm's by relative distance."""
    joint, vertices = FIRST_JOINT["thumb"], mesh.vertices
    root, bone = anatomy.joints[joint], anatomy.axes[joint][2]
    to_thumb = np.maximum(segment_distances(vertices, root + 8 * bone, anatomy.joints[joint + 1]) - _FLESH_MM, 0.5)
    to_metacarpals = [
        segment_distances(vertices, np.array(start, float), anatomy.joints[FIRST_JOINT[name]]) for name, start in _METACARPAL_START.items()
    ]
    to_palm = np.maximum(np.min(to_metacarpals, axis=0) - _FLESH_MM, 0.5)
    share = smoothstep(to_palm / (to_palm + to_thumb), 0.22, 0.80) * smoothstep((vertices - root) @ bone, -8, 20)
    share[mesh.part == THUMB_CHAIN] = 1
    return share


def _along_finger(anatomy: Anatomy, mesh: HandMesh, chain: int) -> tuple[Array, Array]:
    """How far each vertex is past a finger's second and third joint, 0 to 1; 0 away from the finger."""
    name, vertices = CHAINS[chain], mesh.vertices
    first, radii, axes = FIRST_JOINT[name], BONES[name].radii, anatomy.axes
    width = 1.0 if name == "thumb" else 0.85
    second = _past_joint(anatomy, vertices, first + 1, unit(axes[first][2] + axes[first + 1][2]), width * radii[1])
    third = _past_joint(anatomy, vertices, first + 2, unit(axes[first + 1][2] + axes[first + 2][2]), 0.85 * radii[2])
    near = (mesh.part == chain) | (segment_distances(vertices, anatomy.joints[first], anatomy.joints[first + 1]) < 20)
    return second * near, third * near
