"""Subdivision against Loop's rules written out per edge and vertex, and the skin's sanity on the free hand."""

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from handnet.hand.files import load_free_arrays, load_hand
from handnet.hand.generator.bones import BONES, skeleton
from handnet.hand.skin import SKIN_GLOSS, TONES, skin
from handnet.hand.subdivision import loop_step, subdivide

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def naive_loop(vertices: np.ndarray, faces: np.ndarray) -> tuple[dict[frozenset, np.ndarray], np.ndarray]:
    """Loop's rules one edge and one vertex at a time: new point of every edge, new place of every vertex."""
    opposite, neighbours = defaultdict(list), defaultdict(set)
    for face in faces.tolist():
        for k in range(3):
            a, b, c = face[k], face[(k + 1) % 3], face[(k + 2) % 3]
            opposite[frozenset((a, b))].append(c)
            neighbours[a] |= {b, c}
    edge_points = {}
    for edge, others in opposite.items():
        a, b = edge
        middle = (vertices[a] + vertices[b]) / 2
        edge_points[edge] = middle if len(others) == 1 else 0.75 * middle + sum(vertices[c] for c in others) / 8
    moved = np.zeros_like(vertices)
    for v in range(len(vertices)):
        boundary = [w for w in neighbours[v] if len(opposite[frozenset((v, w))]) == 1]
        if boundary:
            moved[v] = 0.75 * vertices[v] + sum(vertices[w] for w in boundary) / 8
        else:
            n = len(neighbours[v])
            beta = (5 / 8 - (3 / 8 + math.cos(2 * math.pi / n) / 4) ** 2) / n
            moved[v] = (1 - n * beta) * vertices[v] + beta * sum(vertices[w] for w in neighbours[v])
    return edge_points, moved


@pytest.mark.parametrize("which", ["tetrahedron", "hand"])
def test_one_step_equals_loops_rules(which):
    model = load_hand()
    vertices, faces = model.v_template[1], model.faces[1]
    if which == "tetrahedron":
        vertices, faces = np.random.default_rng(0).random((4, 3)), TETRAHEDRON
    matrix, fine_faces = loop_step(faces, len(vertices))
    fine = matrix @ vertices
    edge_points, moved = naive_loop(vertices, faces)
    assert np.abs(fine[: len(vertices)] - moved).max() < 1e-12
    assert len(fine) == len(vertices) + len(edge_points)
    assert len(fine_faces) == 4 * len(faces)
    for i, (a, b, c) in enumerate(faces.tolist()):
        middle = fine_faces[3 * len(faces) + i]  # the inner one of the four: the new points of ab, bc, ca
        for new, edge in zip(middle, ((a, b), (b, c), (c, a)), strict=True):
            assert np.abs(fine[new] - edge_points[frozenset(edge)]).max() < 1e-12


def test_rows_sum_to_one_and_winding_is_kept():
    model = load_hand()
    matrix, faces = subdivide(model.faces[1], 778, 2)
    assert matrix.shape == (12337, 778)
    assert faces.shape == (16 * 1538, 3)
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12
    fine = matrix @ model.v_template[1]

    def volume(v, f):
        return np.einsum("ij,ij->", np.cross(v[f[:, 0]], v[f[:, 1]]), v[f[:, 2]]) / 6

    coarse_volume = volume(model.v_template[1], model.faces[1])
    assert volume(fine, faces) == pytest.approx(coarse_volume, rel=0.04)  # a little fuller than the coarse mesh


def test_correction_undoes_the_shrinkage():
    model = load_hand()
    template = model.v_template[1]
    plain, _ = subdivide(model.faces[1], 778, 2, corrections=0)
    corrected, _ = subdivide(model.faces[1], 778, 2, corrections=1)
    shrunk, kept = (np.linalg.norm(m[:778] @ template - template, axis=1) for m in (plain, corrected))
    assert kept.mean() < 0.5 * shrunk.mean()
    assert kept.mean() < 5e-4


@pytest.mark.parametrize(("faces", "num", "levels"), [(np.array([[0, 1, 9]]), 4, 1), (np.array([[0, 1]]), 4, 1), (TETRAHEDRON, 4, 0)])
def test_wrong_meshes_are_named(faces, num, levels):
    with pytest.raises(ValueError, match=r"(faces|levels): expected"):
        subdivide(faces, num, levels)


@pytest.fixture(scope="module")
def surface():
    """Fine rest vertices in mm, their normals and parts."""
    model = load_hand()
    matrix, faces = subdivide(model.faces[1], 778, 2)
    points = matrix @ model.v_template[1] * 1000
    normals = np.zeros_like(points)
    face_normals = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    for k in range(3):
        np.add.at(normals, faces[:, k], face_normals)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return points, normals, load_free_arrays()["part"][np.abs(matrix).argmax(1)]


def test_skin_ranges_and_determinism(surface):
    first, again = skin(*surface, 2.0), skin(*surface, 2.0)
    num = len(surface[0])
    assert first.albedo.shape == (num, 3)
    assert first.relief_mm.shape == first.gloss.shape == (num,)
    assert first.albedo.min() >= 0
    assert first.albedo.max() <= 1
    assert np.abs(first.relief_mm).max() < 2
    assert first.gloss.min() == SKIN_GLOSS
    assert first.gloss.max() == pytest.approx(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_tones_run_from_light_to_dark_and_interpolate(surface):
    brightness = [skin(*surface, tone).albedo.mean() for tone in (0, 1, 1.5, 3, 5)]
    assert all(light > dark for light, dark in pairwise(brightness))


def test_palms_are_lighter_than_backs_on_dark_skin(surface):
    points, normals, part = surface
    albedo = skin(points, normals, part, 5.0).albedo.mean(1)
    palm = (part < 0) & (normals[:, 1] < -0.8) & (points[:, 0] < 60)
    back = (part < 0) & (normals[:, 1] > 0.8) & (points[:, 0] < 60)
    assert albedo[palm].mean() > albedo[back].mean() + 0.15
    assert np.median(albedo[back]) == pytest.approx(TONES[5, 0].mean(), abs=0.04)


def test_nails_are_on_the_back_of_every_fingertip(surface):
    points, normals, part = surface
    nail = skin(points, normals, part).gloss > 0.9
    bones = skeleton()
    for chain, name in enumerate(("index", "middle", "little", "ring", "thumb")):
        own = nail & (part == chain)
        assert own.sum() > 20
        dorsal, bone = bones.axes[3 * chain + 3][1:]
        assert (normals[own] @ dorsal).min() > 0
        along = (points[own] - bones.joints[3 * chain + 3]) @ bone / BONES[name].lengths[2]
        assert along.min() > 0.3
        assert along.max() < 1.1
    assert not nail[part < 0].any()


def test_mottling_follows_the_generator(surface):
    a, b = (skin(*surface, 2.0, np.random.default_rng(seed)).albedo for seed in (1, 2))
    assert 1e-4 < np.abs(a - b).mean() < 0.05


def test_skin_shapes_are_checked(surface):
    points, normals, part = surface
    with pytest.raises(ValueError, match="rest_mm, normals, part: expected"):
        skin(points, normals[:-1], part)
