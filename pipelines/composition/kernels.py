"""Loops over the pixels of a hand, compiled: cutting it out of its source with a clean edge, and laying it over a canvas.

Plain arithmetic in a fixed order, so that every machine makes the same bytes.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def clean_edge(pixels: NDArray[np.uint32], mask: NDArray[np.uint8], reach: int) -> None:
    """Carry a hand's colours outward over its edge, in place, so that no halo of the old background is pasted.

    pixels (h,w) uint32: four bytes each, moved as one. mask (h,w) uint8: 255 on the hand, else 0. A mask's outermost pixels
    already hold some background: they, and what surrounds them within `reach` steps, take the colour of what lies within.
    The outermost rows and columns are neither read nor changed.
    """
    known = np.zeros(mask.shape, np.uint8)
    find_known(mask, known)
    carry_outward(pixels, known, reach)


@numba.njit(cache=True, nogil=True)
def find_known(mask: NDArray[np.uint8], known: NDArray[np.uint8]) -> None:
    """Set known (h,w), all 0, to 255 where a hand's colours can be trusted: in its mask, but not on the rim of it.

    What is too thin to have an inside, such as a finger two pixels wide, is trusted as it is.
    """
    height, width = mask.shape
    core = np.zeros((height, width), np.uint8)
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            above = mask[i - 1, j - 1] & mask[i - 1, j] & mask[i - 1, j + 1]
            beside = mask[i, j - 1] & mask[i, j] & mask[i, j + 1]
            core[i, j] = above & beside & mask[i + 1, j - 1] & mask[i + 1, j] & mask[i + 1, j + 1]
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            above = core[i - 1, j - 1] | core[i - 1, j] | core[i - 1, j + 1]
            near = above | core[i, j - 1] | core[i, j] | core[i, j + 1] | core[i + 1, j - 1] | core[i + 1, j] | core[i + 1, j + 1]
            known[i, j] = core[i, j] | (mask[i, j] & (255 - near))


@numba.njit(cache=True, nogil=True)
def carry_outward(pixels: NDArray[np.uint32], known: NDArray[np.uint8], reach: int) -> None:
    """Give every pixel within `reach` steps of the known ones the colour of a nearest known one, in place.

    pixels (h,w) uint32. known (h,w) uint8: not 0 where the colour is known; it is used up.
    """
    height, width = known.shape
    rows = np.empty(known.size, np.int32)
    columns = np.empty(known.size, np.int32)
    edge = np.zeros(width, np.uint8)
    end = 0
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            edge[j] = known[i, j] & ~(known[i - 1, j] & known[i + 1, j] & known[i, j - 1] & known[i, j + 1])
        for j in range(1, width - 1):
            if edge[j] != 0:
                rows[end], columns[end] = i, j
                end += 1
    for i in range(height):  # a fence: nothing is carried beyond it
        known[i, 0] = known[i, width - 1] = 255
    for j in range(width):
        known[0, j] = known[height - 1, j] = 255
    start = 0
    for _ in range(reach):
        stop = end
        for place in range(start, stop):
            i, j = rows[place], columns[place]
            for y in range(i - 1, i + 2):
                for x in range(j - 1, j + 2):
                    if known[y, x] == 0:
                        known[y, x] = 255
                        pixels[y, x] = pixels[i, j]
                        rows[end], columns[end] = y, x
                        end += 1
        start = stop


@numba.njit(cache=True, nogil=True)
def lay_over(
    image: NDArray[np.uint8],
    owner: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    x: int,
    y: int,
    gain: NDArray[np.float64],
    number: int,
    shown: NDArray[np.int64],
) -> None:
    """Blend a patch over a canvas with its corner at (x, y), and make `number` the owner of what it covers by half or more.

    image (H,W,3) uint8 and owner (H,W) uint8 change in place. pixels (h,w,4) uint8: colours and, last, opacity. gain (3,):
    factor on the patch's colours. shown (256,) int64: pixels of each owner that nothing lies over, kept up to date.
    """
    tone = np.empty((3, 256), np.uint8)
    for c in range(3):
        for value in range(256):
            tone[c, value] = np.uint8(min(value * gain[c] + 0.5, 255.0))
    height, width = pixels.shape[:2]
    for i in range(height):
        for j in range(width):
            opacity = np.int32(pixels[i, j, 3])
            if opacity == 0:
                continue
            row, column = y + i, x + j
            if opacity == 255:
                for c in range(3):
                    image[row, column, c] = tone[c, pixels[i, j, c]]
            else:
                for c in range(3):
                    mixed = np.int32(image[row, column, c]) * (255 - opacity) + np.int32(tone[c, pixels[i, j, c]]) * opacity + 128
                    image[row, column, c] = (mixed + (mixed >> 8)) >> 8  # a division by 255, rounded to the nearest
            if opacity >= 128:
                shown[owner[row, column]] -= 1
                shown[number] += 1
                owner[row, column] = number


@numba.njit(cache=True, nogil=True)
def look_up(owner: NDArray[np.uint8], points_px: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Of points (N,2): (N,) whether one lies on the canvas owner (H,W), and (N,) the owner of its pixel, 0 where it does not."""
    inside = np.zeros(len(points_px), np.bool_)
    found = np.zeros(len(points_px), np.uint8)
    for k in range(len(points_px)):
        x, y = points_px[k, 0], points_px[k, 1]
        if 0 <= x < owner.shape[1] and 0 <= y < owner.shape[0]:
            inside[k] = True
            found[k] = owner[int(y), int(x)]
    return inside, found


@numba.njit(cache=True, nogil=True)
def mean_color(image: NDArray[np.uint8], step: int) -> tuple[float, float, float]:
    """Mean red, green and blue of every `step`-th pixel of an image (h,w,3) along both axes."""
    red, green, blue, count = 0, 0, 0, 0
    for i in range(0, image.shape[0], step):
        for j in range(0, image.shape[1], step):
            red += image[i, j, 0]
            green += image[i, j, 1]
            blue += image[i, j, 2]
            count += 1
    return red / count, green / count, blue / count


@numba.njit(cache=True, nogil=True)
def spread(mask: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Fill out (H,W) with a mask (h,w) at its size: each pixel with the value of the source pixel that its centre lies in."""
    height, width = out.shape
    columns = np.empty(width, np.uint32)
    for j in range(width):
        columns[j] = (2 * j + 1) * mask.shape[1] // (2 * width)
    last = -1
    for i in range(height):
        row = (2 * i + 1) * mask.shape[0] // (2 * height)
        if row == last:
            out[i] = out[i - 1]
        else:
            for j in range(width):
                out[i, j] = mask[row, columns[j]]
        last = row
