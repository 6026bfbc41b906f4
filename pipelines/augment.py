"""Geometric and colour augmentation of a labelled image; labels and K follow exactly.

A rotation is a camera roll (about the principal point), so 3D labels rotate with it and K stays a camera matrix; a flip mirrors the scene
and swaps sides; scale and translation change K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from pipelines.config import AugmentConfig
from pipelines.datasets.sample import MASK_IGNORE, HandSample

Array = NDArray[np.float64]

PLAIN_TONE: Final[NDArray[np.float32]] = np.tile(np.arange(256, dtype=np.float32) / np.float32(255), (3, 1))


@dataclass(frozen=True, kw_only=True)
class View:
    """How a source image is seen by the network: mirrored or not, rolled, then mapped by scale and translation."""

    flip: bool
    roll_rad: float
    affine: Array  # (2, 3) source pixels -> input pixels, flip and roll included
    K: Array  # (3, 3) of the input image


def fixed_view(sample: HandSample, input_px: int, center_px: Array) -> View:
    """No augmentation: the whole source scale, with `center_px` in the middle of a square input."""
    return _view(sample, input_px, center_px, flip=False, roll_rad=0.0, scale=1.0, shift=np.zeros(2))


def random_view(sample: HandSample, input_px: int, center_px: Array, config: AugmentConfig, rng: np.random.Generator) -> View:
    """Draw a view; the same rng gives the same view."""
    flip = bool(rng.random() < config.flip)
    roll = float(np.radians(rng.uniform(-config.rotate_deg, config.rotate_deg)))
    scale = float(np.exp(rng.uniform(*np.log(config.scale))))
    shift = rng.uniform(-config.translate, config.translate, 2) * input_px
    return _view(sample, input_px, center_px, flip=flip, roll_rad=roll, scale=scale, shift=shift)


def _view(sample: HandSample, input_px: int, center_px: Array, *, flip: bool, roll_rad: float, scale: float, shift: Array) -> View:
    height, width = sample.image.shape[:2]
    first = np.eye(3)
    K = sample.K.copy()
    if flip:
        first[0] = -1.0, 0.0, width
        K[0, 2] = width - K[0, 2]
    if roll_rad:  # a roll of the camera moves pixels by K Rz K^-1
        first = K @ roll_matrix(roll_rad) @ _inverse(K) @ first
    zoom = scale * input_px / max(height, width)
    moved = first[:2, :2] @ center_px + first[:2, 2]
    second = np.diag([zoom, zoom, 1.0])
    second[:2, 2] = input_px / 2 - zoom * moved + shift
    return View(flip=flip, roll_rad=roll_rad, affine=(second @ first)[:2], K=second @ K)


def _inverse(K: Array) -> Array:
    """The inverse of a camera matrix, whose last row is 0, 0, 1 and whose first column is fx, 0, 0."""
    (fx, skew, cx), (_, fy, cy), _ = K.tolist()
    return np.array([[1 / fx, -skew / (fx * fy), (skew * cy / fy - cx) / fx], [0.0, 1 / fy, -cy / fy], [0.0, 0.0, 1.0]])


def roll_matrix(angle_rad: float) -> Array:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def warp_vectors(points_m: NDArray[np.floating], view: View) -> NDArray[np.float32]:
    """(..., 3) camera-frame points under a view's flip and roll."""
    mirrored = points_m * np.array([-1.0 if view.flip else 1.0, 1.0, 1.0])
    return (mirrored @ roll_matrix(view.roll_rad).T).astype(np.float32)


def warp_image(image: NDArray[np.uint8], affine: Array, size_px: int) -> NDArray[np.uint8]:
    """Bilinear warp into a square; the border repeats by reflection."""
    pad, shifted = _padding(image, affine, size_px)
    # with four channels and a border that is there already, OpenCV takes less than half of the time
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    if pad:
        four = cv2.copyMakeBorder(four, pad, pad, pad, pad, cv2.BORDER_REFLECT_101)
    border = cv2.BORDER_REFLECT_101 if pad is None else cv2.BORDER_CONSTANT
    warped = _warp(np.asarray(four, np.uint8), shifted, size_px, cv2.INTER_LINEAR, border)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.uint8)


def _padding(image: NDArray[np.uint8], affine: Array, size_px: int) -> tuple[int | None, Array]:
    """How far the output reaches beyond the image, with a pixel to spare, and the affine of the padded image; None: too far to pad."""
    height, width = image.shape[:2]
    (a, b, x), (c, d, y) = affine.tolist()
    determinant = a * d - b * c
    reach = 0.0
    for u, v in ((0, 0), (size_px, 0), (0, size_px), (size_px, size_px)):
        back_x, back_y = (d * (u - x) - b * (v - y)) / determinant, (a * (v - y) - c * (u - x)) / determinant
        reach = max(reach, -back_x, -back_y, back_x - width, back_y - height)
    pad = int(np.ceil(reach)) + 1 if reach > -1 else 0
    if pad >= min(height, width):
        return None, affine
    shifted = affine.copy()
    shifted[:, 2] -= pad * (affine[:, 0] + affine[:, 1])
    return pad, shifted


def warp_mask(mask: NDArray[np.uint8], affine: Array, size_px: int) -> NDArray[np.uint8]:
    """Nearest warp of instance ids; beyond the border, where the image shows reflections, nothing is labelled."""
    return _warp(mask, affine, size_px, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)


def _warp(pixels: NDArray[np.uint8], affine: Array, size_px: int, interpolation: int, border: int) -> NDArray[np.uint8]:
    size = (size_px, size_px)
    out = cv2.warpAffine(pixels, _integer_centers(affine), size, flags=interpolation, borderMode=border, borderValue=MASK_IGNORE)
    return np.asarray(out, np.uint8)


def _integer_centers(affine: Array) -> Array:
    """The same map for OpenCV, whose pixel centres are integers: x_cv = x - 0.5."""
    shifted = affine.copy()
    shifted[:, 2] += 0.5 * (affine[:, 0] + affine[:, 1]) - 0.5
    return shifted


def random_tone(strength: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(3,256) what becomes of each colour value, 0..1: brightness, contrast and per-channel gain, each within +- strength."""
    if strength == 0:
        return PLAIN_TONE
    gain = (1 + rng.uniform(-strength, strength)) * (1 + rng.uniform(-strength, strength, 3) * 0.5)
    offset = rng.uniform(-strength, strength) * 64
    return (np.clip(np.arange(256) * gain[:, None] + offset, 0, 255) / 255).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def apply_tone(image: NDArray[np.uint8], tone: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Colours (H,W,3) uint8 through their channels' curves (3,256) into out (H,W,3)."""
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            out[i, j, 0] = tone[0, image[i, j, 0]]
            out[i, j, 1] = tone[1, image[i, j, 1]]
            out[i, j, 2] = tone[2, image[i, j, 2]]
