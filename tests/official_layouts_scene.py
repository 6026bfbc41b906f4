"""A painted pair of hands whose 3D is known: what fixtures in the official layouts show, and what their tests look for."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from fake_samples import project
from painted_hands import DOTS, skeleton_m

from handnet.skeleton import BONES

SKIN = {"left": (90, 60, 40), "right": (250, 200, 180)}  # told apart from each other and from the dots by any test
DOT_RADIUS_PX = 3


@dataclass(frozen=True)
class Pair:
    """image (H,W,3) RGB; by side: points_m (21,3) in OpenCV's camera frame, keypoints_px (21,2), std21; masks (H,W) bool."""

    image: np.ndarray
    K: np.ndarray
    points_m: dict[str, np.ndarray]
    keypoints_px: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


def painted_pair(index: int, height: int, width: int, focal_px: float, sides: tuple[str, ...] = ("left", "right")) -> Pair:
    """Hands beside each other, the left one in the left half; keypoint k is a dot of colour DOTS[k] on skin of the side's colour."""
    rng = np.random.default_rng((7, index))
    K = np.array([[focal_px, 0, width / 2 + 3], [0, focal_px * 1.02, height / 2 - 2], [0, 0, 1]])
    image = np.full((height, width, 3), 128, np.uint8)
    image += rng.integers(0, 9, (height, width, 1), np.uint8)
    depth = 2.1 * focal_px * 0.17 / min(height, width / 2)
    points, keypoints, masks = {}, {}, {}
    for side in sides:
        shape = skeleton_m(rng) * ([-1, 1, 1] if side == "left" else [1, 1, 1])
        aside = 0.25 * width * depth / focal_px * (-1 if side == "left" else 1)
        points[side] = shape + [aside, 0.085 + rng.uniform(-0.01, 0.01), depth * rng.uniform(1.0, 1.1)]
        keypoints[side] = project(K, points[side])
        at = [tuple(int(v) for v in np.round((p - 0.5) * 16)) for p in keypoints[side]]
        mask = np.zeros((height, width), np.uint8)
        for parent, child in BONES:
            cv2.line(mask, at[parent], at[child], 1, 11, cv2.LINE_8, 4)
        masks[side] = mask > 0
        image[masks[side]] = SKIN[side]
        for k, point in enumerate(at):
            cv2.circle(image, point, DOT_RADIUS_PX * 16, DOTS[k].tolist(), -1, cv2.LINE_8, 4)
            masks[side] |= cv2.circle(np.zeros_like(mask), point, DOT_RADIUS_PX * 16, 1, -1, cv2.LINE_8, 4) > 0
    return Pair(image, K, points, keypoints, masks)


def assert_dots_at(image: np.ndarray, keypoints_px: np.ndarray, visible: np.ndarray) -> None:
    """Every visible keypoint lies on its own colour: the order, the place and the picture belong together."""
    for k in np.flatnonzero(visible):
        x, y = np.floor(keypoints_px[k]).astype(int)
        found = image[y, x].astype(int)
        assert np.argmin(np.abs(DOTS.astype(int) - found).sum(1)) == k, f"keypoint {k} at ({x}, {y}): {found}"
        assert np.abs(DOTS[k].astype(int) - found).max() < 60, f"keypoint {k} at ({x}, {y}): {found}"


def assert_on_skin_of(image: np.ndarray, mask: np.ndarray, side: str) -> None:
    """Most of a mask's pixels have the skin colour that hands of `side` were painted with."""
    pixels = image[mask].astype(int)
    own, other = (np.abs(pixels - SKIN[s]).sum(1) for s in (side, "left" if side == "right" else "right"))
    assert (own < 60).mean() > 0.3
    assert (other < 60).mean() < 0.05
