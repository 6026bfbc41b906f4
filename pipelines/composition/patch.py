"""One layer of a scene: a hand cut out of its source, or a whole source image, with pixels and label moved alike.

Crops are whole pixels and scaling is a resize, so that labels follow exactly: x -> s (x - x0) + x1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.composition.layout import Square
from pipelines.datasets.sample import MASK_IGNORE, DoubleArray, HandLabel, HandSample

BOX_MARGIN = 0.05  # of the box's longer side, on each side of it


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Pixels to lay over the canvas at `x`, `y`, and the labels of the hands in them, in canvas pixels.

    color (h,w,3) RGB 0..255, alpha (h,w) float32 0..1 or None for an opaque layer, owner (h,w) uint8: 0 none,
    i + 1 = labels[i], 255 a hand without a label.
    """

    x: int
    y: int
    color: NDArray[np.float32] | NDArray[np.uint8]
    alpha: NDArray[np.float32] | None
    owner: NDArray[np.uint8]
    labels: tuple[HandLabel, ...]


def scale_affine(scale_x: float, scale_y: float, x: float, y: float) -> DoubleArray:
    """(2,3) affine x -> scale_x x + x, y -> scale_y y + y."""
    return np.array([[scale_x, 0.0, x], [0.0, scale_y, y]])


def crop_square(label: HandLabel, hand_mask: NDArray[np.uint8]) -> tuple[int, int, int]:
    """x0, y0, side of the square of whole source pixels around a hand's box, keypoints and mask, with a margin."""
    left, top, width, height = cv2.boundingRect(hand_mask)
    low = np.minimum(label.box_px[:2], label.keypoints_px.min(0))
    high = np.maximum(label.box_px[2:], label.keypoints_px.max(0))
    if width:
        low, high = np.minimum(low, (left, top)), np.maximum(high, (left + width, top + height))
    side = int(np.ceil(float((high - low).max()) * (1 + 2 * BOX_MARGIN)))
    x0, y0 = (int(v) for v in np.floor((low + high) / 2 - side / 2))
    return x0, y0, max(side, 2)


def cut_hand(sample: HandSample, hand: int, square: Square, *, flip: bool, feather_px: float, gain: NDArray[np.float32]) -> Layer:
    """Hand number `hand` of `sample`, without its background, scaled into `square` of the canvas.

    feather_px: half the width of the edge's ramp, in canvas pixels. gain (3,): factor on the colours. The sample must
    have a mask. Where the square reaches beyond the source image nothing is drawn.
    """
    assert sample.mask is not None
    label = sample.hands[hand]
    hand_mask = (sample.mask == hand + 1).astype(np.uint8)
    x0, y0, side = crop_square(label, hand_mask)
    mask = _crop(hand_mask, x0, y0, side)
    pixels = _crop(sample.image, x0, y0, side)
    if flip:
        mask, pixels = mask[:, ::-1], pixels[:, ::-1]
        label = label.mirrored(sample.width_px)
        x0 = sample.width_px - x0 - side
    scale = square.side / side
    color, coverage = _resample(pixels, mask, square.side, feather_px)
    alpha = cv2.GaussianBlur(coverage, (0, 0), feather_px / 2) if feather_px > 0 else coverage
    return Layer(
        x=square.x,
        y=square.y,
        color=np.minimum(color * gain, 255),
        alpha=np.asarray(alpha, np.float32),
        owner=(alpha >= 0.5).astype(np.uint8),
        labels=(label.warped(scale_affine(scale, scale, square.x - scale * x0, square.y - scale * y0)),),
    )


def _crop(image: NDArray[np.uint8], x0: int, y0: int, side: int) -> NDArray[np.uint8]:
    """The square of an image, zero where it reaches outside."""
    height, width = image.shape[:2]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + side, width), min(y0 + side, height)
    if (left, top, right, bottom) == (x0, y0, x0 + side, y0 + side):
        return image[top:bottom, left:right]
    out = np.zeros((side, side, *image.shape[2:]), np.uint8)
    if right > left and bottom > top:
        out[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return out


def _resample(
    pixels: NDArray[np.uint8], mask: NDArray[np.uint8], side_px: int, feather_px: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colours (side,side,3) 0..255 and coverage (side,side) 0..1 of a crop masked by `mask` (0 or 1) at the new size.

    A mask's outermost pixels already hold some background. Colours therefore come from the mask without its rim and are
    carried outward over the edge, so that no halo of the old background is pasted.
    """
    scale = side_px / mask.shape[0]
    mask = np.ascontiguousarray(mask) * np.uint8(255)
    pixels = np.ascontiguousarray(pixels)
    core = np.asarray(cv2.erode(mask, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0), np.uint8)
    weighted = _premultiplied(pixels, core, side_px)
    coverage = _resize(mask, side_px).astype(np.float32) / np.float32(255)
    reach = 2 * int(np.ceil(scale + 1 + 2 * feather_px)) + 1
    carried = cv2.blur(weighted, (reach, reach), borderType=cv2.BORDER_CONSTANT)
    # where the core covers less than half of a pixel, its rounded colour says less than its neighbours' do
    best = np.where(weighted[..., 3:] > 127, weighted, carried)
    bare = (best[..., 3] < 0.5) & (coverage > 0)
    if bare.any():  # too thin for a core, such as a finger two pixels wide
        best[bare] = _premultiplied(pixels, mask, side_px)[bare]
    return np.asarray(best[..., :3] * (255 / np.maximum(best[..., 3:], np.float32(0.5))), np.float32), np.asarray(coverage, np.float32)


def _premultiplied(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], side_px: int) -> NDArray[np.float32]:
    """(side,side,4) float32: masked colours and the mask itself (0 or 255), resized together."""
    masked = cv2.merge([cv2.copyTo(pixels, mask), mask])
    return _resize(np.asarray(masked, np.uint8), side_px).astype(np.float32)


def _resize(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    interpolation = cv2.INTER_AREA if side_px < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side_px, side_px), interpolation=interpolation), np.uint8)


def whole_image(sample: HandSample, canvas_px: int, offset: float, *, flip: bool) -> Layer:
    """The whole source image with all its hands, scaled to fit the canvas and padded to fill it.

    offset (0..1): where the image lies along the padded direction. Padding mirrors the image's rim, or repeats it where
    the mirror image would show a hand (what is drawn out of a hand at the rim is owned by 255). The sample must have a mask.
    """
    assert sample.mask is not None
    source = sample.mirrored() if flip else sample
    assert source.mask is not None
    width = max(1, round(sample.width_px * canvas_px / max(sample.width_px, sample.height_px)))
    height = max(1, round(sample.height_px * canvas_px / max(sample.width_px, sample.height_px)))
    interpolation = cv2.INTER_AREA if width < sample.width_px else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(source.image, (width, height), interpolation=interpolation), np.uint8)
    owner = np.asarray(cv2.resize(source.mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
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
    return Layer(
        x=0,
        y=0,
        color=image,
        alpha=None,
        owner=owner,
        labels=tuple(hand.warped(affine) for hand in source.hands),
    )


def keypoint_owner(owner: NDArray[np.uint8], label: HandLabel) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """(21,) whether a keypoint lies on the canvas, and (21,) the owner of the pixel it lies in (0 where it does not)."""
    height, width = owner.shape
    columns, rows = np.floor(label.keypoints_px).astype(np.int64).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = np.zeros(len(inside), np.uint8)
    found[inside] = owner[rows[inside], columns[inside]]
    return inside, found
