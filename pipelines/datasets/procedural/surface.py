"""The fine surface of the free hand: a smooth subdivision, its skin in six tones, and the open edge at the wrist.

Built once per process; everything here is the same for every identity and sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from handnet.hand.files import load_free_arrays, load_hand
from handnet.hand.skin import SKIN_GLOSS, skins
from handnet.hand.subdivision import subdivide
from pipelines.datasets.procedural.kernels import vertex_normals

LEVELS = 2
NUM_TONES = 6
# weights of the subdivision below this move a vertex by less than 0.01 mm
_NEGLIGIBLE = 1e-4

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Surface:
    """N fine vertices over the model's 778. Skin arrays belong to the right hand at rest; a left hand shares them."""

    matrix: csr_matrix  # (N,778) float32: fine vertices = matrix @ vertices
    coarse_faces: IntArray  # (1538,3) of the model
    middle_faces: IntArray  # one subdivision less, into the first of the fine vertices: a lighter copy of the surface
    faces: IntArray  # (F,3) counter-clockwise from outside on a right hand
    rest_m: FloatArray  # (N,3)
    tone_albedo: FloatArray  # (6,N,3) sRGB in [0, 1], light to dark
    relief_mm: FloatArray  # (N,) height of creases, knuckles, veins over the smooth surface
    gloss: FloatArray  # (N,) in [0, 1]
    nail: FloatArray  # (N,) in [0, 1]
    wrist_loop: IntArray  # (R,) fine vertices of the open edge, counter-clockwise seen from the elbow

    @property
    def num_vertices(self) -> int:
        return len(self.rest_m)


def boundary_loop(faces: IntArray) -> IntArray:
    """The single open edge of a mesh as an ordered loop, in the direction that closes it outward."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    codes = edges[:, 0] * (faces.max() + 1) + edges[:, 1]
    reverse = edges[:, 1] * (faces.max() + 1) + edges[:, 0]
    open_edges = edges[~np.isin(codes, reverse)]
    after = dict(open_edges[:, ::-1].tolist())  # a closing face runs against its neighbour
    start = int(open_edges[0, 0])
    loop = [start]
    while after[loop[-1]] != start:
        loop.append(after[loop[-1]])
    if len(loop) != len(open_edges):
        raise ValueError(f"boundary_loop: expected one open edge, got {len(open_edges)} edges of which {len(loop)} form the first loop")
    return np.array(loop, np.int64)


@lru_cache(maxsize=1)
def free_hand_surface() -> Surface:
    """The surface of the package's free hand (about 12,000 vertices)."""
    model = load_hand()
    template_m, coarse = model.v_template[1], model.faces[1]
    dense, faces = subdivide(coarse, len(template_m), LEVELS)
    matrix = csr_matrix(dense)
    del dense  # tens of megabytes, in every worker process
    matrix.data[np.abs(matrix.data) < _NEGLIGIBLE] = 0
    matrix.eliminate_zeros()
    matrix.data /= np.repeat(np.asarray(matrix.sum(1)).ravel(), np.diff(matrix.indptr))
    _, middle_faces = subdivide(coarse, len(template_m), LEVELS - 1)
    faces = np.ascontiguousarray(faces, np.int64)
    rest_m = (matrix @ template_m).astype(np.float32)
    normals = vertex_normals(rest_m, faces)
    part = load_free_arrays()["part"][np.asarray(abs(matrix).argmax(1)).ravel()]
    tones = skins(rest_m * 1000.0, normals, part, range(NUM_TONES))
    gloss = tones[0].gloss.astype(np.float32)
    return Surface(
        matrix=matrix.astype(np.float32),
        coarse_faces=coarse.copy(),  # the model's is read-only, which would compile every kernel again
        middle_faces=np.ascontiguousarray(middle_faces, np.int64),
        faces=faces,
        rest_m=rest_m,
        tone_albedo=np.stack([tone.albedo for tone in tones]).astype(np.float32),
        relief_mm=tones[0].relief_mm.astype(np.float32),
        gloss=gloss,
        nail=np.clip((gloss - SKIN_GLOSS) / (1 - SKIN_GLOSS), 0, 1),
        wrist_loop=boundary_loop(faces),
    )
