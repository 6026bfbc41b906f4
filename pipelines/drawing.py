"""Overlays for people: skeletons, boxes, centres and masks over images, and grids of images.

Everything takes and returns (H,W,3) uint8 RGB, leaves its input alone, and counts in continuous pixel coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import BONES

Image = NDArray[np.uint8]

FINGER_COLORS = ((255, 90, 80), (255, 190, 40), (90, 210, 90), (60, 170, 255), (190, 110, 255))  # thumb .. little
SIDE_COLORS = ((0, 200, 255), (255, 120, 0))  # left cyan, right orange
INSTANCE_COLORS = ((255, 80, 80), (80, 200, 80), (80, 130, 255), (255, 200, 60), (200, 90, 255), (60, 220, 220))
IGNORE_COLOR = (150, 150, 150)
_SHIFT = 4  # cv2 draws at 1/16 px


def _fixed(point: NDArray) -> tuple[int, int]:
    """Continuous coordinates as cv2's fixed-point ones, which count pixel centres as integers."""
    x, y = (np.asarray(point, np.float64) - 0.5) * (1 << _SHIFT)
    limit = 1 << 20  # far outside of any picture; keeps wild predictions from overflowing
    return int(np.clip(round(x), -limit, limit)), int(np.clip(round(y), -limit, limit))


def upscale(image: Image, min_side_px: int) -> tuple[Image, float]:
    """The image enlarged by a whole number until its longer side is at least `min_side_px`, and that factor."""
    factor = max(1, -(-min_side_px // max(image.shape[:2])))
    if factor == 1:
        return image.copy(), 1.0
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8), float(factor)


def draw_skeleton(
    image: Image,
    keypoints_px: NDArray,
    visible: NDArray[np.bool_] | None = None,
    side: int | None = None,
    *,
    thickness_px: float | None = None,
) -> Image:
    """Bones in finger colours, keypoints (21,2) as dots: filled if visible, rings if not.

    side (0 left, 1 right): colour of the wrist and of the outline, so that hands of both sides can be told apart.
    """
    out = np.ascontiguousarray(image).copy()
    keypoints = np.asarray(keypoints_px, np.float64)
    shown = np.ones(len(keypoints), bool) if visible is None else np.asarray(visible, bool)
    extent = float(np.ptp(keypoints, axis=0).max())
    width = thickness_px if thickness_px is not None else float(np.clip(extent / 60, 1, 4))
    line = max(1, round(width))
    outline = (20, 20, 20) if side is None else SIDE_COLORS[side]
    for thickness, is_outline in ((line + 2, True), (line, False)):
        for parent, child in BONES:
            color = outline if is_outline else FINGER_COLORS[(child - 1) // 4]
            cv2.line(out, _fixed(keypoints[parent]), _fixed(keypoints[child]), color, thickness, cv2.LINE_AA, _SHIFT)
    for i, point in enumerate(keypoints):
        color = outline if i == 0 else FINGER_COLORS[(i - 1) // 4]
        radius = round((width + (1.5 if i == 0 else 0.8)) * (1 << _SHIFT))
        cv2.circle(out, _fixed(point), radius, (255, 255, 255) if shown[i] else (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(out, _fixed(point), radius, color, 1, cv2.LINE_AA, _SHIFT)
    return out


def draw_boxes(
    image: Image, boxes_px: NDArray, sides: Sequence[int] | None = None, labels: Sequence[str] | None = None, *, thickness_px: int = 1
) -> Image:
    """Boxes (N,4) x0, y0, x1, y1 in their sides' colours, each with an optional text above it."""
    out = np.ascontiguousarray(image).copy()
    for i, box in enumerate(np.asarray(boxes_px, np.float64).reshape(-1, 4)):
        color = (255, 255, 255) if sides is None else SIDE_COLORS[sides[i]]
        cv2.rectangle(out, _fixed(box[:2]), _fixed(box[2:]), color, thickness_px, cv2.LINE_AA, _SHIFT)
        if labels is not None:
            out = draw_text(out, labels[i], (float(box[0]), float(box[1]) - 3), color=color)
    return out


def draw_centers(image: Image, centers_px: NDArray, sides: Sequence[int] | None = None, *, radius_px: float = 4.0) -> Image:
    """Crosses on white discs at centres (N,2)."""
    out = np.ascontiguousarray(image).copy()
    for i, point in enumerate(np.asarray(centers_px, np.float64).reshape(-1, 2)):
        color = (0, 0, 0) if sides is None else SIDE_COLORS[sides[i]]
        cv2.circle(out, _fixed(point), round(radius_px * (1 << _SHIFT)), (255, 255, 255), -1, cv2.LINE_AA, _SHIFT)
        for step in (np.array([radius_px, 0]), np.array([0, radius_px])):
            cv2.line(out, _fixed(point - step), _fixed(point + step), color, 1, cv2.LINE_AA, _SHIFT)
    return out


def blend_mask(image: Image, mask: NDArray[np.uint8], alpha: float = 0.45) -> Image:
    """Instance mask (H,W) over the image: hand i in a colour of its own, 255 (ignored) grey, 0 untouched."""
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask: expected shape {image.shape[:2]}, got {mask.shape}")
    table = np.zeros((256, 3), np.float32)
    for value in range(1, 255):
        table[value] = INSTANCE_COLORS[(value - 1) % len(INSTANCE_COLORS)]
    table[255] = IGNORE_COLOR
    weight = (mask != 0).astype(np.float32)[..., None] * alpha
    return (image * (1 - weight) + table[mask] * weight + 0.5).astype(np.uint8)


def draw_text(
    image: Image, text: str, origin_px: tuple[float, float], *, color: tuple[int, int, int] = (255, 255, 255), scale: float = 0.4
) -> Image:
    """One line of text, outlined, its lower left corner at `origin_px` (moved inside the image)."""
    out = np.ascontiguousarray(image).copy()
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(origin_px[0], 1, max(1, image.shape[1] - width - 1)))
    y = int(np.clip(origin_px[1], height + 1, max(height + 1, image.shape[0] - baseline)))
    for ink, thickness in (((0, 0, 0), 3), (color, 1)):
        cv2.putText(out, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)
    return out


def grid(images: Sequence[Image], columns: int, pad_px: int = 4, background: tuple[int, int, int] = (255, 255, 255)) -> Image:
    """Images in rows of `columns`, each centred in a cell as large as the largest image."""
    if not images or columns < 1:
        raise ValueError(f"grid: expected at least one image and one column, got {len(images)} images and {columns} columns")
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    out = np.empty((rows * (height + pad_px) + pad_px, columns * (width + pad_px) + pad_px, 3), np.uint8)
    out[:] = background
    for i, image in enumerate(images):
        y = pad_px + (i // columns) * (height + pad_px) + (height - image.shape[0]) // 2
        x = pad_px + (i % columns) * (width + pad_px) + (width - image.shape[1]) // 2
        out[y : y + image.shape[0], x : x + image.shape[1]] = image
    return out
