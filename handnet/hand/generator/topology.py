"""Connectivity of the structured hand mesh: two-sheet loops, the strips between them, edges and Delaunay flips.

A loop is a dorsal and a palmar chain of equal length, both from the thumb side to the little finger's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handnet.hand.frames import unit
from handnet.hand.generator.primitives import Array

Triangle = tuple[int, int, int]
Faces = NDArray[np.int64]
_FLIP_ABOVE_RAD = np.pi + 0.05  # sum of the angles opposite an edge
_FLAT_ENOUGH = 0.5  # cosine between the two faces


@dataclass
class Loop:
    """Vertex ids of the dorsal and the palmar chain."""

    dorsal: list[int]
    palmar: list[int]


def zipper(first: Sequence[int], second: Sequence[int]) -> list[Triangle]:
    """Triangles between two open chains, advancing along whichever lags behind in its own length."""
    i = j = 0
    triangles: list[Triangle] = []
    n, m = len(first) - 1, len(second) - 1
    while i < n or j < m:
        a = (i + 1) / n if i < n else 9
        b = (j + 1) / m if j < m else 9
        if a < b - 1e-9 or (abs(a - b) < 1e-9 and (i + j) % 4 < 2):
            triangles.append((first[i], second[j], first[i + 1]))
            i += 1
        else:
            triangles.append((first[i], second[j], second[j + 1]))
            j += 1
    return triangles


def strip(first: Loop, second: Loop) -> list[Triangle]:
    """Triangles between two loops: one strip on the back, one on the palm, and a quad at each side."""
    triangles = zipper(first.dorsal, second.dorsal)
    triangles += [t[::-1] for t in zipper(first.palmar, second.palmar)]
    for side, flip in ((0, False), (-1, True)):
        a, b, c, d = first.dorsal[side], first.palmar[side], second.palmar[side], second.dorsal[side]
        for triangle in ((a, b, c), (a, c, d)):
            triangles.append(triangle[::-1] if flip else triangle)
    return triangles


def edges_of(faces: Faces) -> Faces:
    """(E, 2) undirected edges, each once, ids ascending."""
    return np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)


def neighbour_means(values: Array, edges: Faces) -> Array:
    """(N, K) mean of every vertex's neighbours' (N, K) values."""
    total, count = np.zeros_like(values), np.zeros(len(values))
    for a, b in ((0, 1), (1, 0)):
        np.add.at(total, edges[:, a], values[edges[:, b]])
        np.add.at(count, edges[:, a], 1)
    return total / count[:, None]


def faces_of_edges(faces: Faces) -> dict[tuple[int, int], list[int]]:
    """Undirected edge (low id, high id) -> the faces on it, in order of first appearance."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, face in enumerate(faces.tolist()):
        for k in range(3):
            found.setdefault((min(face[k], face[k - 1]), max(face[k], face[k - 1])), []).append(number)
    return found


def flip_edges(vertices: Array, faces: Faces, free: Array, rounds: int = 4) -> Faces:
    """Delaunay flips of edges between nearly flat faces that touch a free vertex; returns new faces."""
    faces = faces.copy()
    for _ in range(rounds):
        found = faces_of_edges(faces)
        edges, touched, num_flips = set(found), set[int](), 0
        for (a, b), sides in found.items():
            if len(sides) != 2 or sides[0] in touched or sides[1] in touched:
                continue
            c, d = (next(v for v in faces[side].tolist() if v not in (a, b)) for side in sides)
            across = (min(c, d), max(c, d))
            if free[[a, b, c, d]].max() < 0.9 or across in edges or not _should_flip(vertices, faces, (a, b, c, d), sides):
                continue
            triangle = faces[sides[0]].tolist()
            i = triangle.index(c)
            x, y = triangle[(i + 1) % 3], triangle[(i + 2) % 3]
            faces[sides[0]], faces[sides[1]] = (c, x, d), (c, d, y)
            touched.update(sides)
            edges.discard((a, b))
            edges.add(across)
            num_flips += 1
        if not num_flips:
            break
    return faces


def _should_flip(vertices: Array, faces: Faces, quad: tuple[int, int, int, int], sides: list[int]) -> bool:
    a, b, c, d = quad
    if _angle(vertices, c, a, b) + _angle(vertices, d, a, b) <= _FLIP_ABOVE_RAD:
        return False
    normals = [np.cross(vertices[f[1]] - vertices[f[0]], vertices[f[2]] - vertices[f[0]]) for f in (faces[side] for side in sides)]
    return bool(unit(normals[0]) @ unit(normals[1]) >= _FLAT_ENOUGH)


def _angle(vertices: Array, at: int, first: int, second: int) -> float:
    cosine = unit(vertices[first] - vertices[at]) @ unit(vertices[second] - vertices[at])
    return float(np.arccos(np.clip(cosine, -1, 1)))
