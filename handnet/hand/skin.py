"""Skin of the free hand on its rest surface: colour, height of the fine relief, and gloss at every vertex.

Made of tones for back and palm, nails, flexion creases, blush over joints and pads, mottling and veins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handnet.hand.dofs import FIRST_JOINT
from handnet.hand.frames import unit
from handnet.hand.generator.bones import BONES, CHAINS, THUMB_CHAIN, Finger, skeleton

_Array = NDArray[np.float64]
_Line = tuple[tuple[float, float], ...]

# sRGB of the back of the hand and of the palm, light to dark
TONES: Final[_Array] = (
    np.array(
        [
            [(243, 207, 184), (242, 196, 178)],
            [(230, 187, 158), (234, 182, 160)],
            [(210, 160, 126), (224, 170, 144)],
            [(178, 124, 92), (208, 152, 126)],
            [(132, 86, 60), (188, 134, 112)],
            [(88, 57, 41), (166, 118, 98)],
        ]
    )
    / 255.0
)
SKIN_GLOSS: Final = 0.25  # of bare skin; nails are at 1
# lines on the palm and the back as (x, z) in mm: life, head and heart line; four veins
_PALM_CREASES: Final[tuple[_Line, ...]] = (
    ((13, 34), (20, 24), (33, 14), (52, 7), (72, 6), (86, 10)),
    ((15, 34), (22, 20), (30, 2), (40, -16), (50, -28)),
    ((22, -42), (12, -30), (6, -14), (2, 2), (-6, 15)),
)
_VEINS: Final[tuple[_Line, ...]] = (
    ((84, 2), (60, 12), (36, 16), (14, 16)),
    ((80, -2), (56, -6), (34, -6), (16, -6)),
    ((60, 12), (45, 2), (34, -6)),
    ((76, -14), (52, -20), (32, -25)),
)
# what a full effect does to the colour: factor of blushing skin and of a vein; colours of nail bed, moon and free edge
_BLUSH: Final = np.array([1.03, 0.80, 0.78])
_VEIN_DARKENING: Final = np.array([0.035, 0.012, 0.0])
_NAIL_BED: Final = np.array([0.93, 0.72, 0.68])
_MOON: Final = np.array([0.95, 0.86, 0.83])
_NAIL_EDGE: Final = np.array([0.95, 0.92, 0.87])


class Skin(NamedTuple):
    """albedo (N, 3) sRGB in [0, 1]; relief_mm (N,) height over the smooth surface; gloss (N,) in [0, 1]."""

    albedo: _Array
    relief_mm: _Array
    gloss: _Array


@dataclass
class _Layers:
    """What the parts add up: blush and darkness, relief, and the masks of the nail's parts."""

    num: int
    red: _Array = field(init=False)
    dark: _Array = field(init=False)
    relief: _Array = field(init=False)
    nail: _Array = field(init=False)
    edge: _Array = field(init=False)
    moon: _Array = field(init=False)
    rim: _Array = field(init=False)

    def __post_init__(self) -> None:
        for name in ("red", "dark", "relief", "nail", "edge", "moon", "rim"):
            setattr(self, name, np.zeros(self.num))


def skin(
    rest_mm: NDArray[np.floating],
    normals: NDArray[np.floating],
    part: NDArray[np.integer],
    tone: float = 2.0,
    rng: np.random.Generator | None = None,
) -> Skin:
    """Skin at points of the right hand's rest surface.

    rest_mm: (N, 3) places in millimetres. normals: (N, 3) unit, outward. part: (N,) finger of each point, 0 index,
    1 middle, 2 little, 3 ring, 4 thumb, -1 palm. tone: 0 light to 5 dark, between tones too. rng: of the mottling.
    """
    return skins(rest_mm, normals, part, [tone], rng)[0]


def skins(
    rest_mm: NDArray[np.floating],
    normals: NDArray[np.floating],
    part: NDArray[np.integer],
    tones: Sequence[float],
    rng: np.random.Generator | None = None,
) -> list[Skin]:
    """`skin` in several tones, of which only the colour is each one's own."""
    points: _Array = np.asarray(rest_mm, dtype=np.float64)
    facing: _Array = np.asarray(normals, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or facing.shape != points.shape or part.shape != points.shape[:1]:
        raise ValueError(f"rest_mm, normals, part: expected (N, 3), (N, 3), (N,), got {points.shape}, {facing.shape}, {part.shape}")
    rng = rng or np.random.default_rng(0)
    palmar = _palmar(points, facing, part)
    layers = _Layers(len(points))
    pads = _bump(np.linalg.norm(points - [50, -18, 36], axis=1), 18) + _bump(np.linalg.norm(points - [58, -15, -24], axis=1), 18)
    layers.red = 0.25 * palmar * (pads + _bump(points[:, 0] - 3, 12))
    for chain, name in enumerate(CHAINS):
        own = part == chain
        _add_interphalangeal_creases(layers, points, own, name)
        if chain != THUMB_CHAIN:
            _add_finger_root(layers, points, facing, own, part < 0, name)
        _add_nail(layers, points, own, FIRST_JOINT[name] + 2, BONES[name])
    for crease in _PALM_CREASES:
        distance = _line_distance(points[:, [0, 2]], crease)
        layers.dark += 0.12 * palmar * (part < 0) * _bump(distance, 1.0)
        layers.relief -= 0.45 * palmar * (part < 0) * _bump(distance, 1.3)
    mottling = _mottling(points, rng)
    layers.red += 0.06 * mottling
    layers.dark += 0.012 * mottling
    veins = [_bump(_line_distance(points[:, [0, 2]], vein), 2.2) * smoothstep(facing[:, 1], 0.3, 0.8) * (part < 0) for vein in _VEINS]
    for strength in veins:
        layers.relief += 0.22 * strength
    gloss = SKIN_GLOSS + (1 - SKIN_GLOSS) * layers.nail
    made: list[Skin] = []
    for tone in tones:
        back, palm = _tone_colors(tone)
        color = back * (1 - palmar[:, None]) + palm * palmar[:, None]
        for strength in veins:
            color = color * (1 - strength[:, None] * _VEIN_DARKENING)
        made.append(Skin(_colored(color, palm, layers), layers.relief, gloss))
    return made


def smoothstep(x: _Array, low: float, high: float) -> _Array:
    """0 below `low`, 1 above `high`, a smooth cubic between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(distance: _Array, width: float) -> _Array:
    return np.exp(-((distance / width) ** 2) / 2)


def _tone_colors(tone: float) -> tuple[_Array, _Array]:
    low = int(np.clip(tone, 0, len(TONES) - 2))
    t = tone - low
    back, palm = TONES[low] * (1 - t) + TONES[low + 1] * t
    return back, palm


def _line_distance(points: _Array, line: _Line) -> _Array:
    """Distance in the plane to a polyline whose corners are cut three times (Chaikin)."""
    curve = np.array(line, float)
    for _ in range(3):
        cut = np.stack([curve[:-1] * 0.75 + curve[1:] * 0.25, curve[:-1] * 0.25 + curve[1:] * 0.75], 1).reshape(-1, 2)
        curve = np.concatenate([curve[:1], cut, curve[-1:]])
    nearest = np.full(len(points), 1e9)
    for a, b in pairwise(curve):
        t = np.clip((points - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(points - a - t[:, None] * (b - a), axis=1))
    return nearest


def _palmar(points: _Array, normals: _Array, part: NDArray[np.integer]) -> _Array:
    """(N,) 1 on palm skin, 0 on the back; the thumb has its own dorsal direction, the wrist no palm skin."""
    bones = skeleton()
    thumb_dorsal = bones.axes[14][1]
    dorsal = np.where((part == THUMB_CHAIN)[:, None], thumb_dorsal, [0, 1.0, 0])
    along = smoothstep((points - bones.joints[13]) @ bones.axes[13][2], 5, 40)
    thumbness = along * smoothstep(points[:, 2] - points[:, 0] * 0.2, 18, 40) * (part != CHAINS.index("index"))
    dorsal = unit(dorsal * (1 - thumbness[:, None]) + thumb_dorsal * thumbness[:, None])
    return smoothstep(-(normals * dorsal).sum(1), -0.35, 0.55) * smoothstep(-points[:, 0], -100, -84)


def _add_interphalangeal_creases(layers: _Layers, points: _Array, own: NDArray[np.bool_], name: str) -> None:
    """Wrinkles on the back and one or two creases on the palm side of the middle and the last joint."""
    bones = skeleton()
    for k in (1, 2):
        joint = FIRST_JOINT[name] + k
        bone = unit(bones.axes[joint][2] + bones.axes[joint - 1][2])
        offset = points - bones.joints[joint]
        along = offset @ bone
        side = unit(offset - np.outer(along, bone)) @ bones.axes[joint][1]
        back, front = smoothstep(side, 0.2, 0.8) * own, smoothstep(-side, -0.1, 0.5) * own
        strength = 1.0 if k == 1 else 0.6
        for shift in (-3.0, -1.0, 1.0, 3.0):
            wavy = along - shift * strength - 0.25 * np.sin(offset @ bones.axes[joint][0] * 0.9 + shift)
            layers.dark += 0.085 * strength * back * _bump(wavy, 0.42)
            layers.relief -= 0.16 * strength * back * _bump(wavy, 0.45)
        layers.relief += 0.25 * strength * back * _bump(along, 3.2)
        layers.red += 0.35 * strength * back * _bump(along, 4.5)
        for shift in (-1.2, 1.2) if k == 1 else (0.0,):
            layers.dark += 0.08 * front * _bump(along - shift + 1.0, 0.6)
            layers.relief -= 0.30 * front * _bump(along - shift + 1.0, 0.7)


def _add_finger_root(
    layers: _Layers, points: _Array, normals: _Array, own: NDArray[np.bool_], in_palm: NDArray[np.bool_], name: str
) -> None:
    """Blush over the knuckle, and the crease where the finger leaves the palm."""
    bones, joint, finger = skeleton(), FIRST_JOINT[name], BONES[name]
    lateral, dorsal, bone = bones.axes[joint]
    offset = points - bones.joints[joint]
    along = offset @ bone
    side = unit(offset - np.outer(along, bone)) @ dorsal
    near = np.linalg.norm(offset, axis=1) < 1.6 * finger.radii[0]
    layers.red += 0.25 * smoothstep(side, 0.4, 0.9) * near * _bump(along, 7)
    front = smoothstep(-(normals @ dorsal), 0.0, 0.6)
    below = np.abs(offset @ lateral) < finger.radii[0]
    crease = front * (own | (below & in_palm)) * _bump(along - 0.47 * finger.lengths[0], 0.9)
    layers.dark += 0.08 * crease
    layers.relief -= 0.3 * crease


def _add_nail(layers: _Layers, points: _Array, own: NDArray[np.bool_], joint: int, finger: Finger) -> None:
    """A nail with its moon and free edge, the fold around it, and the blush of the fingertip."""
    bones = skeleton()
    length, radius = finger.lengths[2], finger.radii[2]
    lateral, dorsal, bone = bones.axes[joint]
    offset = points - bones.joints[joint]
    along, across, height = offset @ bone / length, offset @ lateral / radius, offset @ dorsal / radius
    # a superellipse, a little narrower towards the root: 1 on the nail's outline
    outline = np.abs((along - 0.70) / 0.275) ** 3.2 + np.abs(across / (0.70 - 0.06 * (along < 0.6))) ** 3.2
    upper = own & (height > 0.1)
    nail = np.where(upper, smoothstep(-outline, -1.15, -0.85), 0)
    fold = np.exp(-(((outline - 1.12) / 0.22) ** 2))
    layers.nail = np.maximum(layers.nail, nail)
    layers.edge = np.maximum(layers.edge, nail * smoothstep(along, 0.885, 0.915))
    moon = smoothstep(-(((along - 0.43) / 0.09) ** 2) - (across / 0.45) ** 2, -1.1, -0.7)
    layers.moon = np.maximum(layers.moon, nail * moon)
    layers.rim = np.maximum(layers.rim, np.where(upper, fold, 0) * smoothstep(-along, -0.95, -0.85))
    wall = 0.22 * np.exp(-(((outline - 1.9) / 0.5) ** 2)) * smoothstep(-along, -0.8, -0.6)
    layers.relief += np.where(upper, 0.28 * nail - 0.35 * fold * smoothstep(-along, -0.95, -0.85) + wall, 0)
    tip = bones.joints[joint] + bone * length * 0.75
    layers.red += 0.35 * own * _bump(np.linalg.norm(points - tip, axis=1), 7) * (1 - layers.nail)


def _mottling(points: _Array, rng: np.random.Generator) -> _Array:
    total = np.zeros(len(points))
    for frequency in (0.05, 0.11, 0.23):
        for _ in range(4):
            wave = rng.normal(size=3) * frequency * 2
            total += np.sin(points @ wave + rng.uniform(0, 6.28)) * 0.25 / np.sqrt(1 + frequency * 8)
    return total


def _colored(color: _Array, palm: _Array, layers: _Layers) -> _Array:
    color = color * (1 + np.clip(layers.red, 0, 0.9)[:, None] * (_BLUSH - 1) * 0.75)
    color = color * (1 - np.clip(layers.dark, 0, 0.5) * (1 - layers.nail))[:, None]
    color = color * (1 - layers.nail[:, None]) + (0.55 * _NAIL_BED + 0.45 * palm) * layers.nail[:, None]
    color = color + layers.moon[:, None] * 0.35 * (_MOON - color)
    color = color + layers.edge[:, None] * 0.75 * (_NAIL_EDGE - color)
    color = color * (1 - 0.16 * layers.rim)[:, None]
    return np.clip(color, 0, 1)
