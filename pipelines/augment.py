"""Geometric and colour augmentation of labelled images; labels and K follow exactly.

A rotation is a camera roll (about the principal point), so 3D labels rotate with it and K stays a camera matrix; a flip mirrors the scene
and swaps sides; scale and translation change K. A batch is computed at once: B images, M hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.bilinear import warp_colors
from pipelines.config import AugmentConfig
from pipelines.datasets.sample import MASK_IGNORE, HandSample

Array = NDArray[np.float64]

PLAIN_TONE: Final[Array] = np.array([[1.0, 0.0]] * 3)
NUM_DRAWS: Final = 11  # uniform numbers that an image's augmentation takes, the last for the hand it is about
MIN_BOX_PX: Final = 8.0  # what a smaller box counts as


@dataclass(frozen=True, kw_only=True)
class View:
    """How a source image is seen by the network: mirrored or not, rolled, then mapped by scale and translation."""

    flip: bool
    roll_rad: float
    affine: Array  # (2, 3) source pixels -> input pixels, flip and roll included
    K: Array  # (3, 3) of the input image


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of B images: flip (B,), roll_rad (B,), affine (B,2,3), K (B,3,3)."""

    flip: NDArray[np.bool_]
    roll_rad: Array
    affine: Array
    K: Array

    @staticmethod
    def of(views: list[View]) -> Views:
        """Single views, side by side."""
        return Views(
            flip=np.array([view.flip for view in views], np.bool_),
            roll_rad=np.array([view.roll_rad for view in views]),
            affine=np.stack([view.affine for view in views]),
            K=np.stack([view.K for view in views]),
        )

    def take(self, rows: list[int]) -> Views:
        """The views of some of the images."""
        return Views(flip=self.flip[rows], roll_rad=self.roll_rad[rows], affine=self.affine[rows], K=self.K[rows])

    def __getitem__(self, row: int) -> View:
        return View(flip=bool(self.flip[row]), roll_rad=float(self.roll_rad[row]), affine=self.affine[row], K=self.K[row])


def whole_zoom(size_px: Array, input_px: int) -> Array:
    """(B,) input pixels to a pixel of images whose height and width are size_px (B,2), the longer of which fills the input."""
    zoom: Array = input_px / size_px.max(-1)
    return zoom


def box_zoom(box_px: NDArray[np.floating], box_scale: float, input_px: int) -> Array:
    """(B,) input pixels to a pixel, with which box_scale times the longer side of a box (B,4) fills the input."""
    sides = (box_px[:, 2:] - box_px[:, :2]).max(-1).astype(np.float64)
    zoom: Array = input_px / (box_scale * np.maximum(sides, MIN_BOX_PX))
    return zoom


def fixed_view(sample: HandSample, input_px: int, center_px: Array, zoom: float | None = None) -> View:
    """No augmentation: `center_px` in the middle of a square input, `zoom` times as large; by default the whole source scale."""
    size = np.array([sample.image.shape[:2]], np.float64)
    scale = whole_zoom(size, input_px) if zoom is None else np.array([zoom])
    nothing = np.zeros(1)
    return make_views(sample.K[None], size, center_px[None], input_px, nothing > 0, nothing, scale, np.zeros((1, 2)))[0]


def random_views(K: Array, size_px: Array, center_px: Array, zoom: Array, input_px: int, config: AugmentConfig, draws: Array) -> Views:
    """Views of B images of cameras K (B,3,3), from uniform draws (B,NUM_DRAWS), as `make_views` takes the rest."""
    flip = draws[:, 0] < config.flip
    roll = np.radians(config.rotate_deg) * _both_ways(draws[:, 1])
    low, high = np.log(config.scale)
    scale = zoom * np.exp(low + (high - low) * draws[:, 2])
    shift = config.translate * input_px * _both_ways(draws[:, 3:5])
    return make_views(K, size_px, center_px, input_px, flip, roll, scale, shift)


def make_views(
    K: Array, size_px: Array, center_px: Array, input_px: int, flip: NDArray[np.bool_], roll_rad: Array, zoom: Array, shift_px: Array
) -> Views:
    """Flip (B,) images of cameras K (B,3,3) and size_px (B,2: height, width), roll them by roll_rad (B,) and bring center_px (B,2),
    zoomed by zoom (B,), to the input's middle plus shift_px (B,2)."""
    first = np.tile(np.eye(3), (len(K), 1, 1))
    first[flip, 0, 0], first[flip, 0, 2] = -1.0, size_px[flip, 1]
    K = K.copy()
    K[flip, 0, 2] = size_px[flip, 1] - K[flip, 0, 2]
    rolled = roll_rad != 0
    if rolled.any():  # a roll of the camera moves pixels by K Rz K^-1
        first[rolled] = K[rolled] @ roll_matrices(roll_rad[rolled]) @ np.linalg.inv(K[rolled]) @ first[rolled]
    moved = np.einsum("bij,bj->bi", first[:, :2, :2], center_px) + first[:, :2, 2]
    second = np.zeros((len(K), 3, 3))
    second[:, 0, 0] = second[:, 1, 1] = zoom
    second[:, 2, 2] = 1.0
    second[:, :2, 2] = input_px / 2 - zoom[:, None] * moved + shift_px
    return Views(flip=flip, roll_rad=roll_rad, affine=(second @ first)[:, :2], K=second @ K)


def _both_ways(draws: Array) -> Array:
    """Uniform numbers of 0..1 in -1..1."""
    return 2 * draws - 1


def roll_matrices(angle_rad: Array) -> Array:
    """(N,3,3) rotations about the optical axis."""
    out = np.zeros((len(angle_rad), 3, 3))
    out[:, 0, 0] = out[:, 1, 1] = np.cos(angle_rad)
    out[:, 1, 0] = np.sin(angle_rad)
    out[:, 0, 1] = -out[:, 1, 0]
    out[:, 2, 2] = 1.0
    return out


def warp_vectors(points_m: NDArray[np.floating], flip: NDArray[np.bool_], roll_rad: Array) -> NDArray[np.float32]:
    """(M,N,3) camera-frame points of M hands under their views' flip (M,) and roll (M,)."""
    moves = roll_matrices(roll_rad)
    moves[flip, :, 0] *= -1
    return (points_m @ moves.transpose(0, 2, 1)).astype(np.float32)


def random_tones(strength: float, draws: Array) -> Array:
    """(B,3,2) gain and offset in levels of each channel, from uniform draws (B,NUM_DRAWS).

    Brightness and contrast are within +- strength, a channel's own gain within half of that.
    """
    if strength == 0:
        return np.tile(PLAIN_TONE, (len(draws), 1, 1))
    changes = strength * _both_ways(draws[:, 5:10])
    tones = np.empty((len(draws), 3, 2))
    tones[..., 0] = (1 + changes[:, :1]) * (1 + changes[:, 1:4] * 0.5)
    tones[..., 1] = changes[:, 4:] * 64
    return tones


def warp_image(image: NDArray[np.uint8], affine: Array, size_px: int) -> NDArray[np.uint8]:
    """Bilinear warp of (H,W,3) into a square; the border repeats by reflection."""
    out = np.empty((size_px, size_px, 3), np.uint8)
    warp_into(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), np.uint8), affine, PLAIN_TONE, out)
    return out


def warp_into(pixels: NDArray[np.uint8], affine: Array, tone: Array, out: NDArray[np.uint8]) -> None:
    """Bilinear warp of pixels (H,W,4), the fourth channel unread, into out (S,S,3), their colours changed by tone (3,2)."""
    if warp_colors(pixels, affine, tone, out):
        return
    warped = _warp(pixels, affine, len(out), cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)[..., :3]
    out[...] = (warped * tone[:, 0] + tone[:, 1] + 0.5).clip(0, 255)


def warp_mask(mask: NDArray[np.uint8], affine: Array, out: NDArray[np.uint8]) -> None:
    """Nearest warp of instance ids into out (S,S); beyond the border, where the image shows reflections, nothing is labelled."""
    _warp(mask, affine, len(out), cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, out)


def _warp(
    pixels: NDArray[np.uint8], affine: Array, size_px: int, interpolation: int, border: int, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    shifted = affine.copy()  # OpenCV's pixel centres are whole numbers: x_cv = x - 0.5
    shifted[:, 2] += 0.5 * (affine[:, 0] + affine[:, 1]) - 0.5
    size = (size_px, size_px)
    return np.asarray(cv2.warpAffine(pixels, shifted, size, out, interpolation, border, MASK_IGNORE), np.uint8)
