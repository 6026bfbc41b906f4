"""What stands behind the hands: generated pictures, a folder of photographs, or the part of a source without a hand.

Every picture is a pure function of its random generator (and of the files, where there are any).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.background_files import IMAGE_SUFFIXES, decode_at_least, image_files
from pipelines.datasets.sample import DataError, HandSample

Image = NDArray[np.uint8]

MIN_COARSE_PX = 64
MIN_CROP = 0.6  # smallest side of a crop, as a share of the picture's shorter side
GRAIN = 4  # at most, up or down; a power of two
MIN_STRIP_PX = 24  # a narrower strip beside a hand shows nothing when it is enlarged


def generate(side_px: int, rng: np.random.Generator) -> Image:
    """(side, side, 3) uint8 RGB: smooth noise, gradients and shapes in random mixture, with a little grain."""
    # shapes and grain are drawn at half the size, what is smooth at a quarter, so that most of the work is one enlargement
    half_px, coarse_px = (min(side_px, max(side_px // factor, MIN_COARSE_PX)) for factor in (2, 4))
    smooth = _gradient(coarse_px, rng)
    if rng.random() < 0.7:
        share = np.float32(rng.uniform(0.2, 0.8))
        smooth += share * (_smooth_noise(coarse_px, rng) - smooth)
    canvas = _enlarge(np.clip(smooth, 0, 255).astype(np.uint8), half_px)
    if rng.random() < 0.6:
        _draw_shapes(canvas, int(rng.integers(2, 9)), rng)
    if rng.random() < 0.5:
        size = int(rng.choice([3, 5, 7])) * half_px // side_px | 1
        canvas = np.asarray(cv2.GaussianBlur(canvas, (size, size), 0), np.uint8)
    grain = np.frombuffer(rng.bytes(half_px**2), np.uint8).reshape(half_px, half_px) & (2 * GRAIN - 1)
    darker = np.maximum(canvas, GRAIN) - np.uint8(GRAIN)
    return _enlarge(np.asarray(cv2.add(darker, cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB)), np.uint8), side_px)


def _enlarge(image: Image, side_px: int) -> Image:
    return np.asarray(cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_LINEAR), np.uint8)


def _gradient(side_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.linspace(-0.5, 0.5, side_px, dtype=np.float32)
    across, along = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    ramp = np.clip(steps[None, :] * across + steps[:, None] * along + np.float32(0.5), 0, 1)
    ends = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    if rng.random() < 0.5:
        ends[1] = np.clip(ends[0] + rng.uniform(-50, 50, 3), 0, 255)  # one surface, unevenly lit
    return np.asarray(cv2.merge([first + ramp * (last - first) for first, last in ends.T]), np.float32)


def _smooth_noise(side_px: int, rng: np.random.Generator) -> NDArray[np.float32]:
    total = np.zeros((side_px, side_px, 3), np.float32)
    weight = 0.0
    for cells in (3, 8, 24):
        amount = rng.uniform(0.2, 1.0) / cells**0.5
        coarse = rng.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
        total += np.float32(amount) * cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_LINEAR)
        weight += amount
    return total / np.float32(weight)


def _draw_shapes(canvas: Image, num_shapes: int, rng: np.random.Generator) -> None:
    side_px = canvas.shape[0]
    for _ in range(num_shapes):
        color = tuple(float(v) for v in rng.integers(0, 256, 3))
        center = rng.uniform(-0.1, 1.1, 2) * side_px
        size = rng.uniform(0.06, 0.4, 2) * side_px
        if rng.random() < 0.5:
            axes = (int(size[0]), int(size[1]))
            cv2.ellipse(canvas, (int(center[0]), int(center[1])), axes, float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA)
        else:
            corners = center + (rng.random((int(rng.integers(3, 6)), 2)) - 0.5) * 2 * size
            cv2.fillConvexPoly(canvas, cv2.convexHull(corners.astype(np.int32)), color, cv2.LINE_AA)


def list_images(folder: str | Path) -> list[Path]:
    """Images below `folder`, sorted. DataError if it is not a folder or holds none."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"backgrounds_dir: {root}: not a folder")
    images = image_files(root)
    if not images:
        raise DataError(f"backgrounds_dir: {root}: no image below it; expected files ending in {list(IMAGE_SUFFIXES)}")
    return images


def from_file(path: Path, side_px: int, rng: np.random.Generator) -> Image:
    """A random square of an image file, scaled to (side, side, 3) RGB and flipped half the time. DataError names a bad file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        image = decode_at_least(data, int(side_px / MIN_CROP) + 1)
    except ValueError as error:
        raise DataError(f"{path}: not an image that can be decoded: {error}") from None
    if image is None:
        raise DataError(f"{path}: not an image that can be decoded")
    return _random_square(image, side_px, rng)


def from_source(sample: HandSample, side_px: int, rng: np.random.Generator) -> Image | None:
    """The largest strip of a source image beside all its hands, as (side, side, 3); None if there is none wide enough."""
    height, width = sample.height_px, sample.width_px
    x0, y0, x1, y1 = 0, 0, 0, 0
    if sample.mask is not None and sample.mask.any():
        x0, y0, w, h = (int(v) for v in cv2.boundingRect(sample.mask))
        x1, y1 = x0 + w, y0 + h
    for hand in sample.hands:
        box = hand.box_px
        x0, y0 = min(x0, int(np.floor(box[0]))), min(y0, int(np.floor(box[1])))
        x1, y1 = max(x1, int(np.ceil(box[2]))), max(y1, int(np.ceil(box[3])))
    gap = 2  # what surrounds a mask still holds some of the hand's colour
    strips = [(0, 0, x0 - gap, height), (x1 + gap, 0, width, height), (0, 0, width, y0 - gap), (0, y1 + gap, width, height)]
    left, top, right, bottom = max(strips, key=lambda s: min(s[2] - s[0], s[3] - s[1]))
    if min(right - left, bottom - top) < MIN_STRIP_PX:
        return None
    return _random_square(sample.image[max(top, 0) : bottom, max(left, 0) : right], side_px, rng)


def _random_square(image: Image, side_px: int, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    largest = min(height, width)
    side = int(rng.integers(max(1, min(largest, side_px, int(MIN_CROP * largest))), largest + 1))
    x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    crop = image[y : y + side, x : x + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    interpolation = cv2.INTER_AREA if side > side_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(crop), (side_px, side_px), interpolation=interpolation), np.uint8)
