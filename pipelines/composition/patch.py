"""The two kinds of pixels a scene is made of: a hand cut out of its source, and a whole source image; label and pixels moved alike.

Crops are whole pixels and scaling is a resize, so that labels follow exactly: x -> s (x - x0) + x1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.composition.cutting import draw_hand, find_box
from pipelines.composition.kernels import spread
from pipelines.composition.layout import Square
from pipelines.datasets.sample import MASK_IGNORE, DoubleArray, HandLabel, HandSample

BOX_MARGIN = 0.05  # of the box's longer side, on each side of it
MIN_MARGIN_PX = 3

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A hand without its background, for the canvas's pixels from (x, y) on.

    pixels (h,w,4) uint8: RGB and opacity; the hand owns the pixels that it covers by half or more. part: of the pixels, those
    that may show anything. gain (3,) float64: factor on the colours. label: in canvas pixels.
    """

    x: int
    y: int
    pixels: NDArray[np.uint8]
    part: Box
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
    box = mask_box(sample.mask, hand + 1)
    x0, y0, side = crop_square(label, box, square.side)
    scale = square.side / side
    pixels = np.zeros((side, side, 4), np.uint8)
    shown: Box = (0, 0, 0, 0)
    if box is not None:
        weights = blur_weights(feather_px / scale)
        blurred = len(weights) // 2
        # the colours go on as far beyond the hand as its edge has any opacity once it is resized, which mixes pixels
        reach = 1 + blurred + resize_reach(side, square.side)
        around = reach + 2
        left, top = max(box[0] - around, x0), max(box[1] - around, y0)
        right, bottom = min(box[2] + around, x0 + side), min(box[3] + around, y0 + side)
        part = (left, top, right, bottom)
        draw_hand(pixels.view(np.uint32)[..., 0], (x0, y0), sample.image, sample.mask, hand + 1, part, reach, weights, flip)
        first, last = box[0] - blurred - x0, box[2] + blurred - x0
        columns = (side - last, side - first) if flip else (first, last)
        shown = _resized_box((columns[0], box[1] - blurred - y0, columns[1], box[3] + blurred - y0), side, square.side)
    if flip:
        x0 = sample.width_px - x0 - side
    affine = scale_affine(scale, scale, square.x - scale * x0, square.y - scale * y0)
    return Patch(
        x=square.x,
        y=square.y,
        pixels=_resize(pixels, square.side),
        part=shown,
        gain=gain,
        label=label.moved(affine, flip_width_px=sample.width_px if flip else None),
    )


def mask_box(mask: NDArray[np.uint8], number: int) -> Box | None:
    """x0, y0, x1, y1 around the pixels of a mask that hold `number`, if there are any."""
    left, top, right, bottom = find_box(mask, number)
    return (left, top, right, bottom) if right else None


def blur_weights(feather_px: float) -> NDArray[np.uint16]:
    """(2 r + 1,) weights of the blur that makes an edge's ramp of twice `feather_px`: Gaussian, in 256ths; a single one for 0."""
    # a mask's edge is a staircase of whole pixels, which shows where it is enlarged, so it is blurred by half a pixel at least
    sigma = math.hypot(feather_px / 2, 0.5) if feather_px else 0.0
    radius = round(2 * sigma)
    if radius == 0:
        return np.array([256], np.uint16)
    exact = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    total = math.fsum(exact)
    half, rest = [], 0.0
    for value in exact[:radius]:  # what rounding leaves is carried on, so that they add up
        share = value / total * 256 + rest
        half.append(round(share))
        rest = share - half[-1]
    return np.array([*half, 256 - 2 * sum(half), *half[::-1]], np.uint16)


def _resize(pixels: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """(size,size,4) uint8: a square (side,side,4) at another size; a side of at least twice as much is reduced first."""
    side = pixels.shape[0]
    factor = reduction_factor(side, size_px)
    if factor > 1:
        pixels = np.asarray(cv2.resize(pixels, (side // factor, side // factor), interpolation=cv2.INTER_AREA), np.uint8)
    # to less than half of it: each pixel is still read
    return np.asarray(cv2.resize(pixels, (size_px, size_px), interpolation=cv2.INTER_LINEAR), np.uint8)


def _resized_box(box: Box, side: int, size_px: int) -> Box:
    """Where `_resize` can put what lies in a box of a square of `side`: what lies around it is left 0."""
    scale, reach = size_px / side, resize_reach(side, size_px)
    left, top = (max(math.floor((value - reach) * scale), 0) for value in box[:2])
    right, bottom = (min(math.ceil((value + reach) * scale), size_px) for value in box[2:])
    return left, top, right, bottom


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
