"""The free hand's flesh as a signed-distance function over its bones, at rest or posed; millimetres.

Every shape moves rigidly with a joint; fingers melt into the palm but never into each other.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from handnet.hand.dofs import FIRST_JOINT
from handnet.hand.frames import unit
from handnet.hand.generator.bones import BONES, CHAINS, LONG_FINGERS, Finger, skeleton
from handnet.hand.generator.primitives import Anchor, Array, Cone, Ellipsoid, Membrane, Primitive, smooth_union

PALM = "palm"
WRIST_CUT_MM = 109.0  # x of the open edge
_X, _Y, _Z = np.eye(3)
_WITHIN_FINGER_MM, _WITHIN_PALM_MM = 1.6, 3.0  # how softly shapes of one group melt together
_FINGER_TO_PALM_MM, _THUMB_TO_PALM_MM = 4.0, 8.0
# where the metacarpals start in the carpus, and their radii there and at the knuckle
_METACARPAL_BASE = {"index": (72, 5.5, 14), "middle": (72, 7, 6), "ring": (72, 6.5, -3), "little": (74, 4, -11)}
_METACARPAL_RADII = {"index": (12, 9.2), "middle": (12.5, 9.4), "ring": (12, 9.0), "little": (11.5, 8.4)}


class Anatomy:
    """The flesh of the right hand: shapes in groups, one for each finger and one for the palm."""

    def __init__(self) -> None:
        bones = skeleton()
        self.joints, self.tips, self.axes = bones.joints, bones.tips, bones.axes
        self.shapes: list[tuple[str, Anchor, Primitive]] = []
        for chain, name in enumerate(CHAINS):
            self._add_finger(chain, name)
        self._add_palm()
        self._add_webs()
        self._add_thumb_base()

    def distance(self, points: Array, transforms: Array | None = None, groups: Collection[str] | None = None) -> Array:
        """(N,) smooth signed distance of (N, 3) points.

        transforms: (16, 4, 4) of the joints relative to rest; None is the rest pose. groups: only these, None is all.
        """
        local: dict[Anchor, Array] = {}
        by_group: dict[str, list[Array]] = {}
        for group, anchor, shape in self.shapes:
            if groups is not None and group not in groups:
                continue
            if anchor not in local:
                local[anchor] = points if transforms is None else self._to_rest(points, anchor, transforms)
            by_group.setdefault(group, []).append(shape.distance(local[anchor]))
        united = {group: smooth_union(parts, _WITHIN_PALM_MM if group == PALM else _WITHIN_FINGER_MM) for group, parts in by_group.items()}
        if PALM in united:
            for group in united.keys() - {PALM}:
                softness = _THUMB_TO_PALM_MM if group == "thumb" else _FINGER_TO_PALM_MM
                united[group] = smooth_union([united[group], united[PALM]], softness)
        return np.min(np.stack(list(united.values())), axis=0)

    def gradient(
        self, points: Array, step_mm: float = 0.05, transforms: Array | None = None, groups: Collection[str] | None = None
    ) -> tuple[Array, Array]:
        """Distances (N,) and their central-difference gradients (N, 3)."""
        shifted = [points + step_mm * sign * axis for axis in np.eye(3) for sign in (1, -1)]
        d = self.distance(np.concatenate([points, *shifted]), transforms, groups).reshape(7, len(points))
        return d[0], np.stack([d[1] - d[2], d[3] - d[4], d[5] - d[6]], 1) / (2 * step_mm)

    def project(self, points: Array, steps: int = 6, transforms: Array | None = None, groups: Collection[str] | None = None) -> Array:
        """Points moved onto the surface by Newton steps of at most 4 mm along the gradient."""
        for _ in range(steps):
            d, g = self.gradient(points, transforms=transforms, groups=groups)
            points = points - g * (d / np.maximum((g * g).sum(1), 0.1))[:, None].clip(-4, 4)
        return points

    def _to_rest(self, points: Array, anchor: Anchor, transforms: Array) -> Array:
        """Points in the rest frame of a joint, or of the frame half-way between a parent and a child."""
        if isinstance(anchor, int):
            inverse = np.linalg.inv(transforms)[anchor]
            return points @ inverse[:3, :3].T + inverse[:3, 3]
        parent, child = anchor
        turned, place = transforms[child, :3, :3], self.joints[child]
        between = Rotation.from_matrix(transforms[parent, :3, :3].T @ turned).as_rotvec()
        half = transforms[parent, :3, :3] @ Rotation.from_rotvec(0.5 * between).as_matrix()
        return (points - (turned @ place + transforms[child, :3, 3])) @ half + place

    def _cone(
        self, group: str, anchor: int, start: Array, end: Array, radii: tuple[float, float], up: Array | None = None, flat: float = 1.0
    ) -> None:
        up = self.axes[anchor][1] if up is None else unit(up)
        self.shapes.append((group, anchor, Cone(start, end, *radii, up, flat)))

    def _ellipsoid(self, group: str, anchor: Anchor, center: Array, axes: list[Array] | Array, radii: tuple[float, float, float]) -> None:
        self.shapes.append((group, anchor, Ellipsoid(center, np.asarray(axes, float), np.asarray(radii, float))))

    def _membrane(self, a: Array, b: Array, c: Array, radius: float) -> None:
        self.shapes.append((PALM, 0, Membrane(a, b, c, radius)))

    def _add_finger(self, chain: int, name: str) -> None:
        first, finger = FIRST_JOINT[name], BONES[name]
        ends = [*self.joints[first : first + 3], self.tips[chain]]
        r = finger.radii
        for k in range(3):
            joint, length = first + k, finger.lengths[k]
            lateral, dorsal, bone = self.axes[joint]
            start, end = ends[k], ends[k + 1]
            frame = [bone, lateral, dorsal]
            if k == 2:  # the cone ends short of the tip by its end radius; a pulp below it
                self._cone(name, joint, start, end - bone * r[3] - dorsal * 0.5, (r[2] - 1.2, r[3] - 0.2), flat=1.12)
                pulp = start + bone * (length * 0.56) - dorsal * (0.15 * r[2])
                self._ellipsoid(name, joint, pulp, frame, (length * 0.43, r[2] * 0.88, r[2] * 0.82))
            elif k == 0 and name == "thumb":
                self._cone(name, joint, start, end, (11.0, r[1] - 1.4))
            else:  # with a pad on the palm side
                self._cone(name, joint, start, end, (r[k] - 1.1, r[k + 1] - 1.4), flat=1.05)
                pad = start + bone * (length * 0.5) - dorsal * (0.22 * r[k + 1])
                self._ellipsoid(name, joint, pad, frame, (length * 0.50, r[k + 1] * 0.95, r[k + 1] * 0.88))
        self._add_finger_knuckles(name, first, finger, ends)

    def _add_finger_knuckles(self, name: str, first: int, finger: Finger, ends: list[Array]) -> None:
        for k in (1, 2):
            before, after = self.axes[first + k - 1], self.axes[first + k]
            out, radius = unit(after[1] + before[1]), finger.radii[k]
            axes = [unit(after[2] + before[2]), after[0], out]
            center = ends[k] + out * 0.12 * radius
            self._ellipsoid(name, (first + k - 1, first + k), center, axes, (radius * 1.15, radius * 0.84, radius * 0.82))

    def _root(self, name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Array:
        """A point given from the first joint of a finger."""
        return self.joints[FIRST_JOINT[name]] + np.array([x, y, z])

    def _add_palm(self) -> None:
        base = {name: np.asarray(place, float) for name, place in _METACARPAL_BASE.items()}
        for name in LONG_FINGERS:
            near, far = np.array(_METACARPAL_RADII[name]) - 2.2
            self._cone(PALM, 0, base[name], self._root(name, x=1), (near, far), up=_Y)
            self._ellipsoid(PALM, 0, self._root(name, 1.5, 1.6), np.eye(3), (9.5, 7.6, 7.6))  # knuckle
        for a, b in pairwise(LONG_FINGERS):  # flesh between the metacarpals
            middle = base[a] * 0.5 + base[b] * 0.5
            self._membrane(middle, self._root(a, 5, -1.5), self._root(b, 5, -1.5), 8.0)
        self._cone(PALM, 0, np.array([64.0, 5, 3]), np.array([150, 6.0, 4.0]), (24.5, 27.5), up=_Y, flat=1.52)  # carpus and wrist
        hypothenar = [unit(np.array([-1, 0, -0.22])), unit(np.array([-0.22, 0, 1])), _Y]
        self._ellipsoid(PALM, 0, np.array([57, -4.5, -20.5]), hypothenar, (38, 12, 11.5))
        pad_places = {"index": (4, -5.5, 1), "middle": (4, -7.0, 0), "ring": (4, -6.3, 0), "little": (4, -3.5, 0.5)}
        pads = [self._root(name, *place) for name, place in pad_places.items()]
        for start, end in pairwise(pads):
            self._cone(PALM, 0, start, end, (6.2, 6.2), up=_Y)

    def _add_webs(self) -> None:
        for a, b in pairwise(LONG_FINGERS):
            reach = 0.22 if b == "little" else 0.32
            from_a = self._root(a) + self.axes[FIRST_JOINT[a]][2] * BONES[a].lengths[0] * 0.30
            from_b = self._root(b) + self.axes[FIRST_JOINT[b]][2] * BONES[b].lengths[0] * reach
            between = (self._root(a) + self._root(b)) / 2
            self._membrane(from_a - _Y * 3.0, from_b - _Y * 3.0, between - _Y * 3, 6.0)

    def _add_thumb_base(self) -> None:
        """The thenar eminence, which moves with the thumb, and the first web, which stays with the palm."""
        joint, bone = FIRST_JOINT["thumb"], self.axes[FIRST_JOINT["thumb"]][2]
        root = self.joints[joint]
        axes = [bone, unit(np.cross(bone, _Y)), unit(np.cross(np.cross(bone, _Y), bone))]
        self._ellipsoid("thumb", joint, root + bone * 19 + np.array([2, -5.5, -6.5]), axes, (29, 14.5, 13))
        self._ellipsoid(PALM, 0, np.array([72.0, -5, 17]), np.eye(3), (20, 13, 13))
        self._membrane(np.array([62.0, 1, 20]), root + bone * 33 + [2, 0, -3], self._root("index", 20, -1, 2), 6.0)
