"""Backgrounds: noise, gradients, textures, clutter, rooms, a folder of images, and things with the colour of skin.

Everything is drawn small or by OpenCV's fillers, a few milliseconds an image; each is a pure function of its generator.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.background_files import IMAGE_SUFFIXES, decode_at_least, image_files
from pipelines.datasets.sample import DataError

Image = NDArray[np.uint8]
FOLDER_SHARE = 0.75  # of the images that come from the folder when there is one
DISTRACTOR_SHARE = 0.4
# display colours of skin, light to dark
_SKIN = np.array([(243, 207, 184), (230, 187, 158), (210, 160, 126), (178, 124, 92), (132, 86, 60), (88, 57, 41)], np.float32)


def list_images(folder: Path) -> tuple[Path, ...]:
    """All images below a folder, sorted. DataError if the folder is missing or has none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: backgrounds_dir: expected a folder of images, got no such folder")
    found = tuple(image_files(folder))
    if not found:
        raise DataError(f"{folder}: backgrounds_dir: expected at least one image ({', '.join(IMAGE_SUFFIXES)}), got none")
    return found


@lru_cache(maxsize=32)
def read_image(path: Path, min_px: int) -> Image:
    """An RGB image (H,W,3) uint8, scaled down as far as both sides stay at least min_px (never up).

    DataError naming the file if it can't be decoded.
    """
    data = path.read_bytes()
    try:
        image = decode_at_least(data, min_px)
        if image is None:
            raise ValueError("unknown or damaged format" if data else "empty file")
    except ValueError as error:
        raise DataError(f"{path}: expected a readable image, got one that can't be decoded ({error})") from None
    shrink = min_px / min(image.shape[:2])
    if shrink < 0.5:
        image = np.asarray(cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)
    return image


def make_background(size: int, rng: np.random.Generator, folder: tuple[Path, ...] = ()) -> Image:
    """One background (size,size,3) uint8 RGB, sharp or out of focus."""
    # what is out of focus needs no detail: it is drawn smaller and enlarged
    shrink, blur = ((1, 0.0), (1, 0.6), (2, 0.8), (3, 1.2))[int(rng.integers(4))]
    side = -(-size // shrink)
    if folder and rng.random() < FOLDER_SHARE:
        image = _crop(read_image(folder[int(rng.integers(len(folder)))], 2 * size), side, rng)
    else:
        maker = (_noise, _gradient, _texture, _clutter, _room)[int(rng.choice(5, p=[0.15, 0.1, 0.2, 0.3, 0.25]))]
        image = maker(side, rng)
    if rng.random() < DISTRACTOR_SHARE:
        _distract(image, rng)
    blur_px = blur * size / 224
    if blur_px > 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur_px), np.uint8)
    if shrink > 1:
        image = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
    return image


def _crop(source: Image, size: int, rng: np.random.Generator) -> Image:
    height, width = source.shape[:2]
    side = rng.uniform(0.5, 1.0) * min(height, width)
    x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
    scale = size / side
    move = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    if rng.random() < 0.5:
        move = np.array([[-scale, 0, (x + side) * scale], [0, scale, -y * scale]])
    # cv2 counts pixel centres as integers
    move[:, 2] += 0.5 * (move[:, 0] + move[:, 1]) - 0.5
    flag = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return np.asarray(cv2.warpAffine(source, move, (size, size), flags=flag, borderMode=cv2.BORDER_REFLECT), np.uint8)


def _color(rng: np.random.Generator) -> NDArray[np.float32]:
    """A display colour, muted more often than vivid."""
    gray = rng.uniform(15, 245)
    tint = rng.normal(0, 1, 3) * rng.choice([5.0, 15.0, 50.0], p=[0.4, 0.4, 0.2])
    return np.clip(gray + tint, 0, 255).astype(np.float32)


def _fractal(size: int, rng: np.random.Generator, channels: int = 1, roughness: float = 0.55) -> NDArray[np.float32]:
    """Noise (size,size,channels) with energy at all scales, about unit range."""
    total = np.zeros((size, size, channels), np.float32)
    cells, weight = int(rng.integers(2, 5)), 1.0
    while cells <= size // 2:
        low = rng.standard_normal((cells, cells, channels), dtype=np.float32) * weight
        total += cv2.resize(low, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, channels)
        cells, weight = cells * 2 + 1, weight * roughness
    return total


def _bytes(image: NDArray) -> Image:
    return np.clip(image, 0, 255).astype(np.uint8)


def _noise(size: int, rng: np.random.Generator) -> Image:
    grain = _fractal(size, rng, 1, rng.uniform(0.4, 0.85)) * np.float32(rng.uniform(8, 45))
    tint = _fractal(size, rng, 1, 0.5) * rng.normal(0, rng.choice([3.0, 12.0]), 3).astype(np.float32)
    return _bytes(_color(rng) + grain + tint)


def _gradient(size: int, rng: np.random.Generator) -> Image:
    corners = np.stack([_color(rng) for _ in range(4)]).reshape(2, 2, 3)
    if rng.random() < 0.5:  # a wall: one colour, unevenly lit
        corners = corners[:1, :1] * rng.uniform(0.6, 1.25, (2, 2, 1)).astype(np.float32)
    return _bytes(cv2.resize(corners.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR))


def _texture(size: int, rng: np.random.Generator) -> Image:
    """Stripes, checks, tiles, wood or weave, turned and warped."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.03, 0.25) * size
    axis = np.arange(size, dtype=np.float32)
    x, y = axis[None] * np.float32(np.cos(angle)), axis[:, None] * np.float32(np.sin(angle))
    warp = _fractal(size, rng)[..., 0] * np.float32(rng.uniform(0, 0.35) * period)
    u = (x + y + warp) * np.float32(2 * np.pi / period)
    kind = rng.integers(4)
    if kind == 0:
        wave = np.sin(u)
    elif kind == 1:  # wood: stretched grain
        wave = np.sin(u) * 0.4 + np.sin(u * 5.3 + 2 * np.sin(u)) * 0.3
    else:
        v = (axis[:, None] * np.float32(np.cos(angle)) - axis[None] * np.float32(np.sin(angle)) + warp) * np.float32(2 * np.pi / period)
        wave = np.sin(u) * np.sin(v) if kind == 2 else np.maximum(np.cos(u), np.cos(v)) * 2 - 1
    mix = np.clip(wave * rng.choice([1.0, 4.0]), -1, 1)[..., None] * np.float32(0.5) + np.float32(0.5)
    first, second = _color(rng), _color(rng)
    grain = _fractal(size, rng, 1, 0.8) * np.float32(rng.uniform(2, 12))
    return _bytes(first + (second - first) * np.float32(rng.uniform(0.2, 1.0)) * mix + grain)


def _clutter(size: int, rng: np.random.Generator) -> Image:
    image = _gradient(size, rng) if rng.random() < 0.5 else _noise(size, rng)
    for _ in range(int(rng.integers(4, 26))):
        _shape(image, rng, tuple(float(c) for c in _color(rng)))
    return image


def _shape(image: Image, rng: np.random.Generator, color: tuple[float, ...]) -> None:
    """One box, polygon, ellipse, ring or line, with a soft edge of shade on one side."""
    size = image.shape[0]
    center, reach = rng.uniform(-0.1, 1.1, 2) * size, rng.uniform(0.04, 0.3) * size
    kind = rng.integers(5)
    angle = rng.uniform(0, 360)
    darker = tuple(0.7 * c for c in color)
    if kind == 0:
        box = cv2.boxPoints(((center[0], center[1]), (reach, reach * rng.uniform(0.3, 1.5)), angle))
        cv2.fillConvexPoly(image, (box + 0.02 * size).astype(np.int32), darker, cv2.LINE_AA)
        cv2.fillConvexPoly(image, box.astype(np.int32), color, cv2.LINE_AA)
    elif kind == 1:
        points = center + rng.normal(0, 0.6, (int(rng.integers(3, 8)), 2)) * reach
        cv2.fillPoly(image, [points.astype(np.int32)], color, cv2.LINE_AA)
    elif kind == 2:
        axes = (int(reach * 0.6), int(reach * rng.uniform(0.2, 0.6)))
        where = (int(center[0]), int(center[1]))
        cv2.ellipse(image, where, axes, angle, 0, 360, darker, -1, cv2.LINE_AA)
        cv2.ellipse(image, where, (int(axes[0] * 0.85), int(axes[1] * 0.85)), angle, 0, 360, color, -1, cv2.LINE_AA)
    elif kind == 3:
        cv2.circle(image, (int(center[0]), int(center[1])), int(reach * 0.5), color, max(int(reach * 0.1), 1), cv2.LINE_AA)
    else:
        end = center + rng.normal(0, 1, 2) * reach * 2
        cv2.line(image, center.astype(int).tolist(), end.astype(int).tolist(), color, max(int(0.02 * size * rng.random()), 1), cv2.LINE_AA)


def _room(size: int, rng: np.random.Generator) -> Image:
    """A wall over a table or floor, with a few things standing about and light falling off to one side."""
    wall = (_gradient, _noise, _texture)[int(rng.choice(3, p=[0.6, 0.2, 0.2]))](size, rng)
    floor = (_texture, _noise, _gradient)[int(rng.integers(3))](size, rng)
    edge = rng.uniform(0.35, 0.85) * size + np.tan(np.radians(rng.normal(0, 4))) * (np.arange(size) - size / 2)
    below = np.arange(size)[:, None] > edge[None]
    image = np.where(below[..., None], floor, wall)
    for _ in range(int(rng.integers(1, 7))):
        _shape(image, rng, tuple(float(c) for c in _color(rng)))
    light = cv2.resize(rng.uniform(0.55, 1.15, (2, 2)).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return _bytes(image * light[..., None])


def _distract(image: Image, rng: np.random.Generator) -> None:
    """Blobs and finger-like strokes in skin colours, lit from one side, so that colour alone does not find the hand."""
    size = image.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        tone = rng.uniform(0, len(_SKIN) - 1.001)
        color = _SKIN[int(tone)] + (_SKIN[int(tone) + 1] - _SKIN[int(tone)]) * (tone % 1)
        color = np.clip(color * rng.uniform(0.5, 1.05) + rng.normal(0, 6, 3), 0, 255)
        start = rng.uniform(0, 1, 2) * size
        thick = rng.uniform(0.03, 0.2) * size
        heading = rng.uniform(0, 2 * np.pi)
        bend = rng.normal(0, 0.5)
        light = np.array([np.cos(a := rng.uniform(0, 2 * np.pi)), np.sin(a)]) * thick * 0.05
        path = [start]
        for _ in range(int(rng.integers(1, 5))):
            path.append(path[-1] + np.array([np.cos(heading), np.sin(heading)]) * thick * rng.uniform(0.3, 1.6))
            heading += bend
        for step in range(7):
            shade = tuple(float(c) for c in color * (0.6 + 0.07 * step))
            points = (np.array(path) + light * step).astype(np.int32)
            width = max(int(thick * (1 - 0.11 * step)), 1)
            cv2.polylines(image, [points], False, shade, width, cv2.LINE_AA)
