"""The structured mesh of the right hand: palm rows, finger rings and caps, laid on the anatomy's surface; millimetres.

Rings have 5 + 5 vertices, the wrist 8 + 8. Relaxation and refinement (relax.py) bring it to 778 vertices.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from handnet.hand.dofs import FIRST_JOINT
from handnet.hand.frames import unit
from handnet.hand.generator.anatomy import PALM, WRIST_CUT_MM, Anatomy
from handnet.hand.generator.bones import BONES, CHAINS, LONG_FINGERS
from handnet.hand.generator.primitives import Array
from handnet.hand.generator.topology import Faces, Loop, Triangle, strip, zipper

_Point = tuple[float, float, float]
IN_PALM = -1
_RING_ANGLES = np.radians([18, 54, 90, 126, 162])  # of a ring's dorsal chain, from the thumb side
_CIRCLE = np.concatenate([_RING_ANGLES, -_RING_ANGLES])

# rings as (bone, fraction along it); the first one is shared with the palm
_RINGS = [(0, 0.44), (0, 0.63), (0, 0.84), (1, 0.0), (1, 0.20), (1, 0.52), (1, 0.82), (2, 0.0), (2, 0.26), (2, 0.52)]
_THUMB_RINGS = [(0, 0.80), (1, 0.0), (1, 0.22), (1, 0.50), (1, 0.78), (2, 0.0), (2, 0.22), (2, 0.44), (2, 0.62)]
_CAP_RING, _CAP_STAR = (0.74, np.radians(36)), (0.76, np.radians(66))  # fraction of the last bone, latitude
_THUMB_TURN = np.radians(36)  # the thumb's columns are one further from its own dorsal line

# palm rows: columns; the middle line between the sheets as points from the thumb side; half thickness
_Row = tuple[int, list[_Point], float]
_UPPER_ROWS: list[_Row] = [
    (8, [(WRIST_CUT_MM, 6, 26), (WRIST_CUT_MM, 6, -18)], 15),
    (8, [(97, 6, 26), (97, 5, -18)], 15),
    (9, [(86, 1, 31), (85, 4, 5), (86, 2, -23)], 14),
    (11, [(74, -6, 38), (73, 1, 5), (75, 0, -29)], 14),
    (13, [(61, -12, 46), (62, 0, 12), (64, -1, -34)], 12),
]
_SPLIT_ROW: _Row = (10, [(41, -3, 36), (44, 1, 10), (51, -2, -38)], 11)  # where the thumb leaves
_LOWER_ROWS: list[_Row] = [
    (11, [(27, 0, 34), (30, 1, 5), (38, -2, -41)], 11),
    (13, [(13, 0, 33), (14, 1, 5), (28, -2, -42)], 10),
    (15, [(1, -1, 33), (0, 0, 5), (18, -3, -41)], 9),
]


@dataclass(kw_only=True)
class HandMesh:
    """vertices (N, 3) mm; faces (F, 3) wound outwards; part (N,) chain or -1; free (N,) how much a vertex may slide."""

    vertices: Array
    faces: Faces
    part: NDArray[np.int64]
    free: Array
    tips: list[int]  # in CHAINS order
    wrist: list[int]  # the open edge in cyclic order


class MeshBuilder:
    """Lays out the mesh part by part; `build` returns it."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.vertices: list[Array] = []
        self.faces: list[Triangle] = []
        self.part: list[int] = []
        self.free: list[float] = []

    def build(self) -> HandMesh:
        """The mesh before relaxation."""
        upper = [self._palm_row(*row, free=1.0 if k else 0.0) for k, row in enumerate(_UPPER_ROWS)]
        split = self._palm_row(*_SPLIT_ROW)  # its first column is the crotch, shared with the thumb
        origin, lateral, dorsal, _ = self._frame("thumb", 0, 0.62)
        angles = np.concatenate([_RING_ANGLES[:4], -_RING_ANGLES[:4]])
        root = self._add(self._cast(origin, lateral, dorsal, angles, ("thumb", PALM)), IN_PALM, 1.0)
        whole = Loop(root[:4] + split.dorsal, root[4:] + split.palmar)
        self._strips([*upper, whole])
        lower = [split] + [self._palm_row(*row) for row in _LOWER_ROWS]
        web, bases = self._finger_bases()
        self._strips([*lower, web])
        bases["thumb"] = Loop(root[:4] + split.dorsal[:1], root[4:] + split.palmar[:1])
        tips = [self._finger(chain, name, bases[name]) for chain, name in enumerate(CHAINS)]
        vertices, faces = np.array(self.vertices), np.array(self.faces)
        if np.einsum("ij,ij->", np.cross(vertices[faces[:, 0]], vertices[faces[:, 1]]), vertices[faces[:, 2]]) < 0:
            faces = faces[:, ::-1].copy()
        wrist = upper[0].dorsal + upper[0].palmar[::-1]
        return HandMesh(vertices=vertices, faces=faces, part=np.array(self.part), free=np.array(self.free), tips=tips, wrist=wrist)

    def _add(self, points: Array | Sequence[Array], part: int, free: float = 0.0) -> list[int]:
        start = len(self.vertices)
        self.vertices += [np.asarray(point, float) for point in points]
        self.part += [part] * len(points)
        self.free += [free] * len(points)
        return list(range(start, len(self.vertices)))

    def _strips(self, loops: Sequence[Loop]) -> None:
        for first, second in pairwise(loops):
            self.faces += strip(first, second)

    def _palm_row(self, columns: int, line: list[_Point], half_thickness: float, free: float = 1.0) -> Loop:
        """Two sheets above and below a line, like a flattened ellipse, before they are projected on the surface."""
        points = np.array(line, float)
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        phi = (np.arange(columns) + 0.5) * np.pi / columns
        t = (1 - np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** 0.75) / 2 * along[-1]
        middle = np.stack([np.interp(t, along, points[:, k]) for k in range(3)], 1)
        up = np.array([0, 1.0, 0]) * (half_thickness * np.sin(phi) ** 0.6)[:, None]
        return Loop(self._add(middle + up, IN_PALM, free), self._add(middle - up, IN_PALM, free))

    def _cast(
        self,
        origin: Array,
        lateral: Array,
        dorsal: Array,
        angles: Array,
        groups: Collection[str],
        axis: Array | None = None,
        latitude: float = 0.0,
    ) -> Array:
        """Where rays from `origin` in the (lateral, dorsal) plane, tilted towards `axis`, first leave the flesh."""
        rays = np.cos(angles)[:, None] * lateral + np.sin(angles)[:, None] * dorsal
        if axis is not None:
            rays = rays * np.cos(latitude) + axis * np.sin(latitude)
        steps = np.linspace(2, 26, 49)
        d = self.anatomy.distance((origin + steps[:, None, None] * rays).reshape(-1, 3), groups=groups).reshape(len(steps), -1)
        first = np.argmax(d > 0, axis=0)
        low, high = steps[np.maximum(first - 1, 0)], steps[first]
        for _ in range(18):
            middle = (low + high) / 2
            outside = self.anatomy.distance(origin + middle[:, None] * rays, groups=groups) > 0
            low, high = np.where(outside, low, middle), np.where(outside, middle, high)
        return origin + ((low + high) / 2)[:, None] * rays

    def _frame(self, name: str, bone: int, fraction: float) -> tuple[Array, Array, Array, Array]:
        """Origin and (lateral, dorsal, axis) at a fraction of a bone, turning smoothly across the joints."""
        first = FIRST_JOINT[name]
        own = self.anatomy.axes[first + bone]
        origin = self.anatomy.joints[first + bone] + own[2] * (fraction * BONES[name].lengths[bone])
        other = bone - 1 if fraction < 0.5 else bone + 1
        weight = max(0.0, 0.5 - min(fraction, 1 - fraction) / 0.25 * 0.5) if 0 <= other <= 2 else 0.0
        next_to = self.anatomy.axes[first + min(max(other, 0), 2)]
        axis = unit(own[2] * (1 - weight) + next_to[2] * weight)
        dorsal = unit(own[1] * (1 - weight) + next_to[1] * weight)
        dorsal = unit(dorsal - axis * (axis @ dorsal))
        if name == "thumb":  # one column nearer to the palm's grid, the rest of the twist spread over the base
            dorsal = unit(dorsal * np.cos(_THUMB_TURN) + np.cross(axis, dorsal) * np.sin(_THUMB_TURN))
            if bone == 0:
                up = unit(np.array([0, 1.0, 0]) - axis * axis[1])
                share = np.clip((fraction - 0.6) / 0.5, 0, 1)
                dorsal = unit(up * (1 - share) + dorsal * share)
        return origin, np.cross(dorsal, axis), dorsal, axis

    def _finger_bases(self) -> tuple[Loop, dict[str, Loop]]:
        """The first ring of the four fingers; neighbours share the pair of vertices in the web between them."""
        web, bases = Loop([], []), {}
        for name in LONG_FINGERS:
            origin, lateral, dorsal, _ = self._frame(name, *_RINGS[0])
            ring = self._cast(origin, lateral, dorsal, _CIRCLE, (name,))
            back, front = ring[:5], ring[5:]
            if web.dorsal:
                shared_back, shared_front = web.dorsal[-1], web.palmar[-1]
                self.vertices[shared_back] = (self.vertices[shared_back] + back[0]) / 2
                self.vertices[shared_front] = (self.vertices[shared_front] + front[0]) / 2
                self.free[shared_back] = self.free[shared_front] = 1.0
                loop = Loop([shared_back, *self._add(back[1:], IN_PALM, 0.5)], [shared_front, *self._add(front[1:], IN_PALM, 0.5)])
                web.dorsal += loop.dorsal[1:]
                web.palmar += loop.palmar[1:]
            else:
                loop = Loop(self._add(back, IN_PALM, 0.5), self._add(front, IN_PALM, 0.5))
                web.dorsal += loop.dorsal
                web.palmar += loop.palmar
            bases[name] = loop
        return web, bases

    def _finger(self, chain: int, name: str, base: Loop) -> int:
        """Rings along a finger and its cap; returns the tip's vertex."""
        is_thumb = name == "thumb"
        loops = [base]
        for number, (bone, fraction) in enumerate(_THUMB_RINGS if is_thumb else _RINGS[1:]):
            origin, lateral, dorsal, _ = self._frame(name, bone, fraction)
            groups = (name, PALM) if is_thumb and number < 2 else (name,)
            points = self._cast(origin, lateral, dorsal, _CIRCLE, groups)
            ids = self._add(points, chain, 0.6 if is_thumb and number == 0 else 0.0)
            loops.append(Loop(ids[:5], ids[5:]))
        origin, lateral, dorsal, axis = self._cap_frame(name, _CAP_RING[0])
        ids = self._add(self._cast(origin, lateral, dorsal, _CIRCLE, (name,), axis, _CAP_RING[1]), chain)
        loops.append(Loop(ids[:5], ids[5:]))
        self._strips(loops)
        return self._close_cap(chain, name, loops[-1])

    def _cap_frame(self, name: str, fraction: float) -> tuple[Array, Array, Array, Array]:
        _, lateral, dorsal, axis = self._frame(name, 2, 0.5)
        return self.anatomy.joints[FIRST_JOINT[name] + 2] + axis * (fraction * BONES[name].lengths[2]), lateral, dorsal, axis

    def _close_cap(self, chain: int, name: str, last: Loop) -> int:
        """A ring of five and the tip itself."""
        origin, lateral, dorsal, axis = self._cap_frame(name, _CAP_STAR[0])
        angles = np.radians(90 + 72 * np.arange(5))  # the first one is dorsal
        star = self._add(self._cast(origin, lateral, dorsal, angles, (name,), axis, _CAP_STAR[1]), chain)
        circle = last.dorsal + last.palmar[::-1]
        circle = circle[2:] + circle[:2]  # from the dorsal middle line
        self.faces += zipper(circle + circle[:1], star + star[:1])
        tip = self._add(self._cast(origin, lateral, dorsal, np.zeros(1), (name,), axis, np.pi / 2), chain)[0]
        self.faces += [(star[k], tip, star[(k + 1) % 5]) for k in range(5)]
        return tip
