"""Vertex ids everyone hard-codes: fingertips, the vertices next to them, and the loop that seals the wrist."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.generator.bones import CHAINS
from handnet.hand.generator.mesh import HandMesh

TIP_IDS: Final = {"thumb": 745, "index": 317, "middle": 444, "ring": 556, "little": 673}
# smplx's ids; here the vertex next to the tip on the palm side, and for the middle finger manopth's left id as well
NEXT_TO_TIP_IDS: Final = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "little": 671}
MIDDLE_LEFT_TIP_ID: Final = 445
# closing MANO's open wrist with a fan over this loop is common practice
WRIST_LOOP: Final = (108, 79, 78, 121, 214, 215, 279, 239, 234, 92, 38, 122, 118, 117, 119, 120)


def renumbered(mesh: HandMesh) -> NDArray[np.int64]:
    """(N,) the present id of each new vertex; ids without a convention keep their order."""
    vertices, faces = mesh.vertices, mesh.faces
    wanted: dict[int, int] = {}
    for chain, name in enumerate(CHAINS):
        tip = mesh.tips[chain]
        around = set(faces[(faces == tip).any(1)].ravel().tolist()) - {tip}
        # the palm side first; left and right of a finger are equally high but for rounding
        by_height = sorted(sorted(around), key=lambda vertex: round(float(vertices[vertex, 1]), 6))
        wanted[TIP_IDS[name]] = tip
        wanted[NEXT_TO_TIP_IDS[name]] = by_height[0]
        if name == "middle":
            wanted[MIDDLE_LEFT_TIP_ID] = by_height[1]
    wanted.update(zip(WRIST_LOOP, _outward_loop(mesh), strict=True))
    if len(set(wanted.values())) != len(wanted):
        raise ValueError("mesh: expected distinct vertices for the conventional ids, got one vertex twice")
    order = np.full(len(vertices), -1)
    for new, old in wanted.items():
        order[new] = old
    taken = set(wanted.values())
    order[order < 0] = [vertex for vertex in range(len(vertices)) if vertex not in taken]
    return order


def _outward_loop(mesh: HandMesh) -> list[int]:
    """The wrist's edge in the direction in which a fan of (previous, this, centre) faces outwards."""
    directed = {(face[k], face[(k + 1) % 3]) for face in mesh.faces.tolist() for k in range(3)}
    # a sealing face has to run against its neighbour
    return mesh.wrist[::-1] if (mesh.wrist[0], mesh.wrist[1]) in directed else list(mesh.wrist)
