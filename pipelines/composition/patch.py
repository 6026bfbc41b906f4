"""The two kinds of pixels a scene is made of: a hand cut out of its source, and a whole source image; label and pixels moved alike.

Crops are whole pixels and scaling is a resize, so that labels follow exactly: x -> s (x - x0) + x1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.composition.kernels import clean_edge, spread
from pipelines.composition.layout import Square
from pipelines.datasets.sample import MASK_IGNORE, DoubleArray, HandLabel, HandSample

BOX_MARGIN = 0.05  # of the box's longer side, on each side of it
MIN_MARGIN_PX = 3

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A hand without its background, for the canvas's pixels from (x, y) on.

    pixels (h,w,4) uint8: RGB and opacity; the hand owns the pixels that it covers by half or more. gain (3,) float64:
    factor on the colours. label: in canvas pixels.
    """

    x: int
    y: int
    pixels: NDArray[np.uint8]
    gain: NDArray[np.float64]
    label: HandLabel


@dataclass(frozen=True, kw_only=True)
class WholeImage:
    """A source image as large as the canvas: image (H,W,3) uint8 RGB, owner (H,W) uint8: 0 none, i + 1 = labels[i], 255 ignored."""

    image: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    labels: tuple[HandLabel, ...]


def scale_affine(scale_x: float, scale_y: float, x: float, y: float) -> DoubleArray:
    """(2,3) affine x -> scale_x x + x, y -> scale_y y + y."""
    return np.array([[scale_x, 0.0, x], [0.0, scale_y, y]])


def crop_square(label: HandLabel, mask_box: Box | None, size_px: int) -> tuple[int, int, int]:
    """x0, y0, side of the square of whole source pixels around a hand's box and its mask's, with a margin.

    Where it will be reduced to `size_px` by more than half, the side is a multiple of `reduction_factor`.
    """
    x0, y0, x1, y1 = label.box_px.tolist()
    left, top, right, bottom = mask_box or (x0, y0, x1, y1)
    left, top, right, bottom = min(x0, left), min(y0, top), max(x1, right), max(y1, bottom)
    longer = max(right - left, bottom - top)
    side = math.ceil(longer + 2 * max(longer * BOX_MARGIN, MIN_MARGIN_PX))
    factor = reduction_factor(side, size_px)
    side = -(-side // factor) * factor
    return math.floor((left + right - side) / 2), math.floor((top + bottom - side) / 2), side


def reduction_factor(side: int, size_px: int) -> int:
    """The largest whole number by which a square of `side` can be reduced without getting smaller than `size_px`; at least 1."""
    return max(side // size_px, 1)


def resize_reach(side: int, size_px: int) -> int:
    """How far apart, at the most, the pixels of a square are that `_resize` mixes into one."""
    factor = reduction_factor(side, size_px)
    return 1 if factor == 1 else 2 * factor


def cut_hand(sample: HandSample, hand: int, square: Square, *, flip: bool, feather_px: float, gain: NDArray[np.float64]) -> Patch:
    """Hand number `hand` of `sample`, without its background, scaled into `square` of the canvas.

    feather_px: half the width of the edge's ramp, in canvas pixels. gain (3,): factor on the colours. The sample must have a
    mask. Where the square reaches beyond the source image nothing is drawn.
    """
    assert sample.mask is not None
    label = sample.hands[hand]
    number = float(hand + 1)  # OpenCV's own stubs know of no numbers here
    mask = np.asarray(cv2.compare(sample.mask, number, cv2.CMP_EQ), np.uint8)  # type: ignore[call-overload]
    box = mask_box(mask)
    x0, y0, side = crop_square(label, box, square.side)
    scale = square.side / side
    pixels = np.zeros((side, side, 4), np.uint8)
    if box is not None:
        _draw_hand(pixels, sample.image, mask, box, (x0, y0), feather_px / scale, resize_reach(side, square.side))
    if flip:
        pixels = np.asarray(cv2.flip(pixels, 1), np.uint8)
        x0 = sample.width_px - x0 - side
    affine = scale_affine(scale, scale, square.x - scale * x0, square.y - scale * y0)
    return Patch(
        x=square.x,
        y=square.y,
        pixels=_resize(pixels, square.side),
        gain=gain,
        label=label.moved(affine, flip_width_px=sample.width_px if flip else None),
    )


def mask_box(mask: NDArray[np.uint8]) -> Box | None:
    """x0, y0, x1, y1 around the pixels of a mask that are not 0, if there are any."""
    left, top, width, height = cv2.boundingRect(mask)
    return (left, top, left + width, top + height) if width else None


def _draw_hand(
    square: NDArray[np.uint8],
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    box: Box,
    corner: tuple[int, int],
    feather_px: float,
    mixed_px: int,
) -> None:
    """Draw the hand of `image` under `mask`, 0 or 255, and in `box`, into an empty square (side,side,4) that begins at `corner`.

    All in the source's pixels. The colours go on as far beyond the hand as its edge has any opacity once it is resized, which
    mixes pixels up to `mixed_px` apart.
    """
    # a mask's edge is a staircase of whole pixels, which shows where it is enlarged, so it is blurred by half a pixel at least
    sigma = math.hypot(feather_px / 2, 0.5) if feather_px else 0.0
    radius = round(2 * sigma)
    side = square.shape[0]
    reach = 1 + radius + mixed_px
    around = reach + 2
    left, top = max(box[0] - around, corner[0]), max(box[1] - around, corner[1])
    right, bottom = min(box[2] + around, corner[0] + side), min(box[3] + around, corner[1] + side)
    pixels = np.asarray(cv2.cvtColor(_part(image, left, top, right, bottom), cv2.COLOR_RGB2RGBA), np.uint8)
    opacity = np.ascontiguousarray(_part(mask, left, top, right, bottom))
    clean_edge(pixels.view(np.uint32)[..., 0], opacity, reach)
    if radius:
        kernel = (2 * radius + 1, 2 * radius + 1)
        opacity = np.asarray(cv2.GaussianBlur(opacity, kernel, sigma, borderType=cv2.BORDER_REPLICATE), np.uint8)
    cv2.insertChannel(opacity, pixels, 3)
    square[top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]] = pixels


def _part(image: NDArray[np.uint8], left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
    """A rectangle of an image, zero where it reaches outside."""
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inside.shape[:2] == (bottom - top, right - left):
        return inside
    out = np.zeros((bottom - top, right - left, *image.shape[2:]), np.uint8)
    y, x = max(-top, 0), max(-left, 0)
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out


def _resize(pixels: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """(size,size,4) uint8: a square (side,side,4) at another size; a side of at least twice as much is reduced first."""
    side = pixels.shape[0]
    factor = reduction_factor(side, size_px)
    if factor > 1:
        pixels = np.asarray(cv2.resize(pixels, (side // factor, side // factor), interpolation=cv2.INTER_AREA), np.uint8)
    # to less than half of it: each pixel is still read
    return np.asarray(cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_LINEAR), np.uint8)


def whole_image(sample: HandSample, canvas_px: int, offset: float, *, flip: bool) -> WholeImage:
    """The whole source image with all its hands, scaled to fit the canvas and padded to fill it.

    offset (0..1): where the image lies along the padded direction. Padding mirrors the image's rim, or repeats it where
    the mirror image would show a hand (what is drawn out of a hand at the rim is owned by 255). The sample must have a mask.
    """
    assert sample.mask is not None
    width = max(1, round(sample.width_px * canvas_px / max(sample.width_px, sample.height_px)))
    height = max(1, round(sample.height_px * canvas_px / max(sample.width_px, sample.height_px)))
    interpolation = cv2.INTER_AREA if width < sample.width_px else cv2.INTER_LINEAR
    pixels, mask = sample.image, sample.mask
    if flip:
        pixels, mask = np.asarray(cv2.flip(pixels, 1), np.uint8), np.asarray(cv2.flip(mask, 1), np.uint8)
    image = np.asarray(cv2.resize(pixels, (width, height), interpolation=interpolation), np.uint8)
    owner = resize_mask(mask, width, height)
    left, top = int(offset * (canvas_px - width)), int(offset * (canvas_px - height))
    if (width, height) != (canvas_px, canvas_px):
        around = (top, canvas_px - height - top, left, canvas_px - width - left)
        mirrored = cv2.copyMakeBorder(owner, *around, cv2.BORDER_REFLECT)
        repeated = cv2.copyMakeBorder(owner, *around, cv2.BORDER_REPLICATE)
        owner = np.asarray(cv2.copyMakeBorder(owner, *around, cv2.BORDER_CONSTANT, value=0), np.uint8)
        if np.any(mirrored != owner):
            image = np.asarray(cv2.copyMakeBorder(image, *around, cv2.BORDER_REPLICATE), np.uint8)
            owner[repeated != owner] = MASK_IGNORE  # a hand that touches the rim is drawn out into stripes of skin
        else:
            image = np.asarray(cv2.copyMakeBorder(image, *around, cv2.BORDER_REFLECT), np.uint8)
    affine = scale_affine(width / sample.width_px, height / sample.height_px, left, top)
    flip_width_px = sample.width_px if flip else None
    return WholeImage(image=image, owner=owner, labels=tuple(hand.moved(affine, flip_width_px=flip_width_px) for hand in sample.hands))


def resize_mask(mask: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """(height,width): of each pixel the value of the source pixel that its centre lies in."""
    out = np.empty((height, width), np.uint8)
    spread(mask, out)
    return out
