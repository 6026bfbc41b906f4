"""Even out the palm of the mesh: slide free vertices over the surface, flip edges, split the worst ones.

Fingers and their rings stay as they were laid out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from handnet.hand.frames import unit
from handnet.hand.generator.anatomy import PALM, WRIST_CUT_MM, Anatomy
from handnet.hand.generator.mesh import IN_PALM, HandMesh
from handnet.hand.generator.primitives import Array
from handnet.hand.generator.topology import Faces, edges_of, faces_of_edges, flip_edges, neighbour_means


def relax(mesh: HandMesh, anatomy: Anatomy, iterations: int = 40, wrist_iterations: int = 30) -> HandMesh:
    """Free vertices slide to the mean of their neighbours and back onto the surface; edges flip to Delaunay."""
    vertices, faces = mesh.vertices.copy(), mesh.faces
    wrist = np.array(mesh.wrist)
    for _ in range(wrist_iterations):
        vertices[wrist] = 0.5 * vertices[wrist] + 0.25 * (vertices[np.roll(wrist, 1)] + vertices[np.roll(wrist, -1)])
        vertices[wrist] = _on_wrist_cut(vertices[wrist], anatomy)
    movable = np.nonzero(mesh.free > 0)[0]
    for iteration in range(iterations):
        means = neighbour_means(vertices, edges_of(faces))
        step = (means - vertices)[movable] * (0.5 * mesh.free[movable])[:, None]
        vertices[movable] = anatomy.project(vertices[movable] + step, steps=2)
        if iteration % 10 == 9 or iteration == iterations - 1:
            faces = flip_edges(vertices, faces, mesh.free)
    vertices[movable] = anatomy.project(vertices[movable], steps=6)
    return replace(mesh, vertices=vertices, faces=faces)


def _on_wrist_cut(points: Array, anatomy: Anatomy) -> Array:
    """Points moved into the plane of the cut and, within it, onto the surface."""
    points = points.copy()
    points[:, 0] = WRIST_CUT_MM
    for _ in range(2):
        distance, gradient = anatomy.gradient(points, groups=(PALM,))
        gradient[:, 0] = 0
        points -= gradient * (distance / np.maximum((gradient * gradient).sum(1), 0.1))[:, None]
    return points


def refine(mesh: HandMesh, anatomy: Anatomy, num_vertices: int) -> HandMesh:
    """Split the worst free edge, long and sharply folded, until there are `num_vertices`, relaxing in between."""
    while len(mesh.vertices) < num_vertices:
        mesh = relax(_split(mesh, anatomy, _worst_edge(mesh)), anatomy, iterations=6, wrist_iterations=0)
    return mesh


def _worst_edge(mesh: HandMesh) -> tuple[int, int]:
    vertices, faces = mesh.vertices, mesh.faces
    normals = unit(np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]))
    score = {
        edge: np.linalg.norm(vertices[edge[0]] - vertices[edge[1]]) * (1 + 2.0 * (1 - normals[sides[0]] @ normals[sides[1]]))
        for edge, sides in faces_of_edges(faces).items()
        if len(sides) == 2 and min(mesh.free[list(edge)]) > 0.9
    }
    return max(score, key=lambda edge: score[edge])


def _split(mesh: HandMesh, anatomy: Anatomy, edge: tuple[int, int]) -> HandMesh:
    a, b = edge
    new = len(mesh.vertices)
    faces: Faces = mesh.faces.copy()
    added = []
    for face in faces_of_edges(faces)[edge]:
        first, second = faces[face].copy(), faces[face].copy()
        first[first == a], second[second == b] = new, new
        faces[face] = first
        added.append(second)
    middle = anatomy.project((mesh.vertices[a] + mesh.vertices[b])[None] / 2)
    return replace(
        mesh,
        vertices=np.concatenate([mesh.vertices, middle]),
        faces=np.concatenate([faces, added]),
        part=np.append(mesh.part, IN_PALM),
        free=np.append(mesh.free, 1.0),
    )
