"""Predicted meshes for the page's 3D viewer: 16 bits a coordinate, 8 a colour, base64, one list of faces for all.

The camera frame is kept: x right, y down, z forward, metres; `lens` projects it to the pixels of the image.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.drawing import SIDE_COLORS
from pipelines.evaluation.predicted import PredictedHands

LEVELS = 2**16 - 1
BEHIND = 1.12  # the image stands this many times as far away as the farthest vertex


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshScene:
    """The hands of one image: their camera and meshes, and their colours (D, 778, 3) in [0, 1] if the network predicts them."""

    caption: str
    size_px: tuple[int, int]
    hands: PredictedHands
    colors: NDArray[np.float32] | None


def viewer_data(scenes: Sequence[tuple[str, str, MeshScene]], faces: NDArray[np.integer]) -> dict[str, Any]:
    """What viewer.js reads. scenes: (name, id of the <img> with the input, meshes); faces (F, 3), of either side."""
    return {
        "faces": _base64(faces.astype("<u2")),
        "side_colors": [list(color) for color in SIDE_COLORS],
        "scenes": [_scene(name, image, scene) for name, image, scene in scenes if len(scene.hands)],
    }


def quantised(vertices_m: NDArray[np.floating]) -> tuple[NDArray[np.uint16], NDArray[np.float64], NDArray[np.float64]]:
    """(..., 3) metres as (..., 3) whole numbers, with low (3,) and step (3,): metres = low + step * number, to half a step."""
    flat = np.asarray(vertices_m, np.float64).reshape(-1, 3)
    low = flat.min(0)
    step = np.maximum((flat.max(0) - low) / LEVELS, 1e-12)
    return np.round((vertices_m - low) / step).astype("<u2"), low, step


def _scene(name: str, image: str, scene: MeshScene) -> dict[str, Any]:
    hands, K = scene.hands, scene.hands.K[0]
    numbers, low, step = quantised(hands.vertices_m)
    colors: list[NDArray[np.uint8] | None] = [None] * len(hands)
    if scene.colors is not None:
        colors = list(np.round(np.clip(scene.colors, 0, 1) * 255).astype(np.uint8))
    return {
        "name": name,
        "caption": scene.caption,
        "image": image,
        "size": list(scene.size_px),
        "lens": [float(f"{value:.8g}") for value in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])],
        "picture_m": round(BEHIND * float(hands.vertices_m[..., 2].max()), 5),
        "low": [float(f"{value:.8g}") for value in low],
        "step": [float(f"{value:.8g}") for value in step],
        "hands": [
            {
                "side": int(hands.side[i]),
                "score": round(float(hands.score[i]), 4),
                "vertices": _base64(numbers[i]),
                "colors": None if color is None else _base64(color),
            }
            for i, color in enumerate(colors)
        ],
    }


def _base64(array: NDArray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
