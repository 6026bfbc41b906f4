"""Loop subdivision of a triangle mesh as one matrix, so that posing stays on the coarse mesh.

Fine vertices = matrix @ coarse vertices, for positions as for colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

_Weights = NDArray[np.float64]
_Faces = NDArray[np.int64]


def subdivide(faces: NDArray[np.integer], num_vertices: int, levels: int = 2, corrections: int = 1) -> tuple[_Weights, _Faces]:
    """Dense matrix (fine, num_vertices) and fine faces (4**levels * F, 3), wound like `faces`.

    Loop's surface is smaller than its control mesh; each of the `corrections` takes back most of what is left of that,
    by moving the control vertices first. The first num_vertices rows are the coarse vertices.
    """
    fine: _Faces = np.asarray(faces, dtype=np.int64)
    if fine.ndim != 2 or fine.shape[1] != 3 or fine.min(initial=0) < 0 or fine.max(initial=-1) >= num_vertices:
        raise ValueError(f"faces: expected (F, 3) vertex ids below {num_vertices}, got shape {fine.shape} up to {fine.max(initial=-1)}")
    if levels < 1:
        raise ValueError(f"levels: expected at least 1, got {levels}")
    total = None
    num_fine = num_vertices
    for _ in range(levels):
        step, fine = loop_step(fine, num_fine)
        num_fine = step.shape[0]
        total = step if total is None else step @ total
    assert total is not None
    shrinkage = np.eye(num_vertices) - total[:num_vertices].toarray()
    correction = np.eye(num_vertices)
    for _ in range(corrections):  # the first terms of (I - shrinkage)^-1
        correction = np.eye(num_vertices) + shrinkage @ correction
    return np.asarray(total @ correction), fine


def loop_step(faces: _Faces, num_vertices: int) -> tuple[csr_matrix, _Faces]:
    """One step: sparse (num_vertices + edges, num_vertices) and four faces for each; edges of the boundary are cubic B-splines."""
    half_edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    edges, edge_of, count = np.unique(half_edges, axis=0, return_inverse=True, return_counts=True)
    boundary = count == 1
    rows, columns, weights = [], [], []

    def put(row: NDArray[np.integer], column: NDArray[np.integer], weight: NDArray[np.float64]) -> None:
        rows.append(row)
        columns.append(column)
        weights.append(weight)

    new = num_vertices + np.arange(len(edges))
    for end in (0, 1):  # a new vertex on each edge
        put(new, edges[:, end], np.where(boundary, 0.5, 3 / 8))
    inner = ~boundary[edge_of]
    put(num_vertices + edge_of[inner], opposite[inner], np.full(inner.sum(), 1 / 8))

    on_boundary = np.zeros(num_vertices, bool)
    on_boundary[edges[boundary].ravel()] = True
    valence = np.maximum(np.bincount(edges.ravel(), minlength=num_vertices), 1)
    beta = (5 / 8 - (3 / 8 + np.cos(2 * np.pi / valence) / 4) ** 2) / valence
    vertices = np.arange(num_vertices)
    put(vertices, vertices, np.where(on_boundary, 0.75, 1 - valence * beta))
    for end in (0, 1):  # old vertices move towards their neighbours, on the boundary only along it
        vertex, neighbour = edges[:, end], edges[:, 1 - end]
        free = ~on_boundary[vertex]
        put(vertex[free], neighbour[free], beta[vertex[free]])
        put(vertex[boundary], neighbour[boundary], np.full(boundary.sum(), 1 / 8))

    shape = (num_vertices + len(edges), num_vertices)
    matrix = csr_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    a, b, c = faces.T
    ab, bc, ca = (num_vertices + part for part in np.split(edge_of, 3))
    fine = np.concatenate([np.stack(corner, 1) for corner in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return matrix, fine
