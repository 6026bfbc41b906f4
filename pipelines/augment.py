"""Geometric and colour augmentation of a labelled image; labels and K follow exactly.

A rotation is a camera roll (about the principal point), so 3D labels rotate with it and K stays a camera matrix; a flip mirrors the scene
and swaps sides; scale and translation change K.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.config import AugmentConfig
from pipelines.datasets.sample import MASK_IGNORE, HandSample

Array = NDArray[np.float64]


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
        first = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        K[0, 2] = width - K[0, 2]
    # a roll of the camera moves pixels by K Rz K^-1
    first = K @ roll_matrix(roll_rad) @ np.linalg.inv(K) @ first
    zoom = scale * input_px / max(height, width)
    moved = first[:2, :2] @ center_px + first[:2, 2]
    second = np.eye(3)
    second[0, 0] = second[1, 1] = zoom
    second[:2, 2] = input_px / 2 - zoom * moved + shift
    return View(flip=flip, roll_rad=roll_rad, affine=(second @ first)[:2], K=second @ K)


def roll_matrix(angle_rad: float) -> Array:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def warp_vectors(points_m: NDArray[np.floating], view: View) -> NDArray[np.float32]:
    """(..., 3) camera-frame points under a view's flip and roll."""
    mirrored = points_m * np.array([-1.0 if view.flip else 1.0, 1.0, 1.0])
    return (mirrored @ roll_matrix(view.roll_rad).T).astype(np.float32)


def warp_image(image: NDArray[np.uint8], affine: Array, size_px: int) -> NDArray[np.uint8]:
    """Bilinear warp into a square; the border repeats by reflection."""
    return _warp(image, affine, size_px, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)


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
    shifted[:, 2] += affine[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return shifted


def jitter_color(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast and per-channel gain, each within +- strength."""
    if strength == 0:
        return image
    gain = (1 + rng.uniform(-strength, strength)) * (1 + rng.uniform(-strength, strength, 3) * 0.5)
    offset = rng.uniform(-strength, strength) * 64
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[:, None, :]), np.uint8)
