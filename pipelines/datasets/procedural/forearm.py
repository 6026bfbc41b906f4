"""What is behind the wrist: a bare forearm, a sleeve, or a cap on the cut, so that no picture shows a hollow hand.

Vertices are appended to the hand's fine mesh; the tube starts on the hand's own open edge, so there is no seam.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.procedural.color import to_linear

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

LENGTH_M = 0.26
NUM_RINGS = 14
# a forearm that comes toward the camera more steeply than this would hide the hand: it gets a stub
MAX_TOWARD_CAMERA = 0.45


@dataclass(frozen=True, kw_only=True)
class Forearm:
    """Vertices after the hand's N and faces into the joint list, with the attributes the shading needs."""

    vertices_m: FloatArray  # (A,3) camera frame
    faces: IntArray  # (G,3)
    albedo: FloatArray  # (A,3) linear
    gloss: FloatArray  # (A,)


def make_forearm(
    hand_m: FloatArray, albedo: FloatArray, loop: IntArray, axis: NDArray, across: NDArray, rng: np.random.Generator
) -> Forearm:
    """Continue a hand beyond its open wrist.

    hand_m (N,3) fine vertices in the camera frame, albedo (N,3) linear, loop (R,) ordered open edge; axis and across (3,):
    unit directions from hand to elbow, and from the little finger's side to the thumb's.
    """
    kind = rng.choice(["bare", "sleeve", "cut"], p=[0.5, 0.38, 0.12])
    edge = hand_m[loop].astype(np.float64)
    center = edge.mean(0)
    size = len(loop)
    flex, deviate = np.radians(np.clip(rng.normal(0, [16.0, 8.0]), -38, 38))
    turn = flex * across + deviate * np.cross(axis, across)
    length = LENGTH_M if kind != "cut" else 0.0
    if (_rotations(turn, np.ones(1))[0] @ axis)[2] < -MAX_TOWARD_CAMERA:
        length = min(length, 0.03)
    along = length * (np.arange(1, NUM_RINGS + 1) / NUM_RINGS) ** 1.5
    bend = _rotations(turn, np.minimum(along / 0.05, 1.0))
    position = center + np.cumsum((bend @ axis) * np.diff(along, prepend=0.0)[:, None], 0)
    t = along[:, None, None] / LENGTH_M
    width = 1 + rng.uniform(0.25, 0.6) * t * t * (3 - 2 * t) - 0.03 * np.sin(np.pi * np.minimum(t * 4, 1))
    # from the wrist's own outline to a rounder one
    spoke = (edge - center) @ bend.transpose(0, 2, 1)
    reach = np.linalg.norm(spoke, axis=-1, keepdims=True)
    even = spoke / reach * reach.mean(1, keepdims=True) * rng.uniform(0.9, 1.1)
    rings = position[:, None] + width * (spoke * (1 - 0.6 * t) + even * 0.6 * t)
    skin = albedo[loop]
    plain = skin.mean(0)
    fade = np.minimum(3 * t, 1)
    shade = skin * (1 - fade) + plain * fade
    first = len(hand_m)
    index = np.concatenate([loop[None], first + np.arange(NUM_RINGS * size).reshape(NUM_RINGS, size)])
    vertices, colors = [rings.reshape(-1, 3), position[-1:]], [shade.reshape(-1, 3), plain[None]]
    faces = [_tube(index), _fan(index[-1], first + NUM_RINGS * size)]
    num = NUM_RINGS * size + 1
    gloss = [np.full(num, 0.2)]
    if kind == "sleeve" and length == LENGTH_M:
        start = int(rng.integers(3, 9))
        sleeve, cloth = _sleeve(rings[start:], rng)
        rows = len(sleeve)
        index = first + num + np.arange(rows * size).reshape(rows, size)
        vertices.append(sleeve.reshape(-1, 3))
        colors.append(cloth.reshape(-1, 3))
        faces.append(_tube(index))
        gloss.append(np.zeros(rows * size))
    return Forearm(
        vertices_m=np.concatenate(vertices).astype(np.float32),
        faces=np.concatenate(faces),
        albedo=np.concatenate(colors).astype(np.float32),
        gloss=np.concatenate(gloss).astype(np.float32),
    )


def _rotations(turn: NDArray, shares: NDArray) -> NDArray[np.float64]:
    """Rotation matrices (S,3,3) by shares (S,) of the rotation vector `turn` (Rodrigues)."""
    angle = float(np.linalg.norm(turn))
    x, y, z = turn / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angles = (angle * shares)[:, None, None]
    rotations: NDArray[np.float64] = np.eye(3) + np.sin(angles) * cross + (1 - np.cos(angles)) * (cross @ cross)
    return rotations


def _sleeve(skin_rings: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Rings of cloth (S,R,3) around the forearm's rings, with a turned-in hem, and their linear albedo (S,R,3)."""
    num, size = skin_rings.shape[:2]
    middle = skin_rings.mean(1, keepdims=True)
    loose = rng.uniform(1.08, 1.35)
    angle = np.linspace(0, 2 * np.pi, size, endpoint=False)
    row = np.arange(num)[:, None]
    folds = np.zeros((num, size))
    for _ in range(3):
        wave = angle * rng.integers(1, 4) + row * rng.uniform(0.5, 2.2) + rng.uniform(0, 2 * np.pi)
        folds += rng.uniform(0.01, 0.035) * np.sin(wave)
    cloth = middle + (skin_rings - middle) * (loose + folds)[..., None]
    hem = middle[0] + (skin_rings[0] - middle[0]) * 0.97
    lip = middle[0] + (skin_rings[0] - middle[0]) * (loose + folds[0])[:, None] * 0.985
    rings = np.concatenate([hem[None], lip[None], cloth])
    base = to_linear(rng.random(3).astype(np.float32) ** 1.3 * rng.uniform(0.25, 1.0))
    color = np.broadcast_to(base, rings.shape).copy()
    if rng.random() < 0.35:
        stripe = to_linear(rng.random(3).astype(np.float32))
        color[np.arange(len(rings)) % int(rng.integers(2, 5)) == 0] = stripe
    color[0] *= 0.3
    return rings, color


def _tube(index: IntArray) -> IntArray:
    """Faces between consecutive rings of vertex ids (S,R), facing outward when ring 0 is the hand's open edge."""
    a, b = index[:-1], index[1:]
    a2, b2 = np.roll(a, -1, 1), np.roll(b, -1, 1)
    return np.concatenate([np.stack([a, a2, b], -1).reshape(-1, 3), np.stack([a2, b2, b], -1).reshape(-1, 3)])


def _fan(ring: IntArray, center: int) -> IntArray:
    return np.stack([ring, np.roll(ring, -1), np.full(len(ring), center)], -1)
