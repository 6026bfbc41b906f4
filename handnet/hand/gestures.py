"""Twenty-two gestures of the right hand as degrees of freedom, settled so that touching fingers touch.

The thumbs of gestures with contact were fitted once, so that pads meet and nothing goes deep into the palm.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.dofs import ABDUCTION, COLUMN, FINGER_ORDER, FIRST_JOINT, FLEXION, NUM_DOFS, TWIST

_Three = tuple[float, float, float]
_STRAIGHT: Final[_Three] = (0, 0, 0)


def dofs_deg(
    index: _Three = _STRAIGHT,
    middle: _Three = _STRAIGHT,
    ring: _Three = _STRAIGHT,
    little: _Three = _STRAIGHT,
    abduction: tuple[float, float, float, float] = (0, 0, 0, 0),
    thumb: tuple[float, float, float, float, float] = (0, 0, 0, 0, 0),
) -> NDArray[np.float64]:
    """(D,) angles in degrees. Fingers: MCP, PIP, DIP flexion; abduction of the four fingers, index to little;
    thumb: CMC flexion, abduction and twist, MCP flexion, IP flexion."""
    angles = np.zeros(NUM_DOFS)
    for k, (name, flexions) in enumerate(zip(FINGER_ORDER, (index, middle, ring, little), strict=True)):
        first = FIRST_JOINT[name]
        angles[[COLUMN[first + i, FLEXION] for i in range(3)]] = flexions
        angles[COLUMN[first, ABDUCTION]] = abduction[k]
    thumb_dofs = ((13, FLEXION), (13, ABDUCTION), (13, TWIST), (14, FLEXION), (15, FLEXION))
    angles[[COLUMN[dof] for dof in thumb_dofs]] = thumb
    return angles


# fingers of an open hand and of a fist, where a gesture has nothing more to say about them
_OPEN: Final[dict[str, _Three]] = {"index": (2, 4, 2), "middle": (2, 4, 2), "ring": (2, 5, 3), "little": (3, 6, 3)}
_FIST: Final[dict[str, _Three]] = {"index": (72, 98, 55), "middle": (76, 100, 56), "ring": (80, 100, 56), "little": (84, 98, 54)}
_SHUT = (_FIST["middle"], _FIST["ring"], _FIST["little"])

GESTURES_DEG: Final[dict[str, NDArray[np.float64]]] = {
    "flat": dofs_deg(abduction=(-3, 0, 4, 10), thumb=(8, -8, 0, 0, 0)),
    "rest": dofs_deg(),
    "relaxed": dofs_deg((22, 28, 12), (28, 34, 15), (32, 36, 17), (36, 36, 17), (0, 0, 1, 3), (14, 8, -8, 12, 14)),
    "spread": dofs_deg((-8, 0, 0), (-6, 0, 0), (-6, 0, 0), (-8, 0, 0), (12, 1, -10, -16), (-18, 8, 0, -6, -10)),
    "fist": dofs_deg(**_FIST, abduction=(-1, 0, 1, 2), thumb=(48, 36, -39, 23, 21)),
    "point": dofs_deg((0, 4, 2), *_SHUT, thumb=(44, 29, -30, 21, 23)),
    "victory": dofs_deg((0, 3, 2), (2, 3, 2), *_SHUT[1:], (10, -4, 0, 0), (48, 34, -9, 37, 19)),
    "three": dofs_deg((0, 3, 2), (0, 3, 2), (4, 6, 3), _FIST["little"], (8, 0, -6, 0), (44, 20, -30, 55, 35)),
    "four": dofs_deg(**_OPEN, abduction=(8, 2, -4, -8), thumb=(42, 4, -25, 50, 40)),
    "call": dofs_deg((68, 98, 52), (76, 100, 56), (74, 98, 54), (0, 5, 2), (0, 0, 0, -10), (-20, 4, 0, -4, -8)),
    "horns": dofs_deg((0, 4, 2), *_SHUT[:2], (2, 5, 3), (4, 0, 0, -8), (43, 32, -29, 24, 26)),
    "gun": dofs_deg((0, 4, 2), (6, 8, 4), *_SHUT[1:], (0, 2, 0, 0), (-22, -8, 0, -4, -10)),
    "thumbs_up": dofs_deg(**_FIST, abduction=(-1, 0, 1, 2), thumb=(-22, -10, 0, -6, -14)),
    "hook": dofs_deg((2, 92, 52), (2, 94, 54), (3, 94, 54), (4, 92, 52), (-1, 0, 1, 3), (10, -6, 0, 5, 10)),
    "tabletop": dofs_deg((84, 6, 3), (86, 6, 3), (86, 7, 4), (86, 8, 4), (-1, 0, 1, 3), (10, 10, -5, 5, 5)),
    "pinch": dofs_deg((38, 46, 26), (34, 32, 14), (28, 26, 12), (22, 22, 10), (-6, 0, 0, 0), (39, 17, -29, 3, -7)),
    "ok": dofs_deg((38, 46, 26), (10, 10, 5), (6, 8, 4), (2, 6, 3), (-6, 0, -3, -6), (39, 17, -29, 3, -7)),
    "tripod": dofs_deg((43, 36, 20), (43, 62, 26), (50, 52, 26), (48, 50, 24), (-12, 8, 2, 2), (48, 16, -18, 1, -22)),
    "cylinder": dofs_deg((42, 52, 26), (46, 56, 28), (48, 56, 28), (50, 52, 26), (0, 0, 0, -2), (30, 36, -25, 18, 22)),
    "sphere": dofs_deg((34, 38, 22), (34, 40, 22), (36, 40, 22), (36, 38, 22), (8, 1, -6, -12), (14, 40, -20, 8, 12)),
    "lumbrical": dofs_deg((62, 12, 8), (62, 14, 8), (62, 14, 8), (62, 14, 8), (0, 0, 0, 2), (34, 30, -22, 4, 4)),
    "key": dofs_deg((60, 78, 36), (66, 84, 40), (70, 86, 42), (72, 84, 40), (0, 0, 0, 0), (17, 3, -10, 13, 24)),
}
