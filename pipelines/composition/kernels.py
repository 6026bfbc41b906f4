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
    inner = width - 2
    core = np.zeros((height, width), np.uint8)
    column = np.empty(width, np.uint8)
    # rows as a whole, then what lies beside: loops without a branch or an index that could be negative, for the compiler's vectors
    for i in range(1, height - 1):
        above, row, below = mask[i - 1], mask[i], mask[i + 1]
        for j in range(width):
            column[j] = above[j] & row[j] & below[j]
        left, middle, right, out = column[:inner], column[1 : inner + 1], column[2:], core[i, 1 : inner + 1]
        for j in range(inner):
            out[j] = left[j] & middle[j] & right[j]
    for i in range(1, height - 1):
        above, row, below = core[i - 1], core[i], core[i + 1]
        for j in range(width):
            column[j] = above[j] | row[j] | below[j]
        left, middle, right, out = column[:inner], column[1 : inner + 1], column[2:], known[i, 1 : inner + 1]
        trusted, own = core[i, 1 : inner + 1], mask[i, 1 : inner + 1]
        for j in range(inner):
            out[j] = trusted[j] | (own[j] & ~(left[j] | middle[j] | right[j]))


@numba.njit(cache=True, nogil=True)
def carry_outward(pixels: NDArray[np.uint32], known: NDArray[np.uint8], reach: int) -> None:
    """Give every pixel within `reach` steps of the known ones the colour of a nearest known one, in place.

    pixels (h,w) uint32. known (h,w) uint8: not 0 where the colour is known; it is used up.
    """
    height, width = known.shape
    flat, colors = known.reshape(-1), pixels.reshape(-1)
    queue = np.empty(known.size, np.uint32)  # unsigned: no index is looked at for being negative
    inner = width - 2
    edge = np.zeros(inner, np.uint8)
    end = 0
    for i in range(1, height - 1):
        above, below = known[i - 1, 1 : inner + 1], known[i + 1, 1 : inner + 1]
        left, middle, right = known[i, :inner], known[i, 1 : inner + 1], known[i, 2:]
        for j in range(inner):
            edge[j] = middle[j] & ~(above[j] & below[j] & left[j] & right[j])
        for j in range(inner):
            if edge[j] != 0:
                queue[end] = i * width + j + 1
                end += 1
    for i in range(height):  # a fence: nothing is carried beyond it
        known[i, 0] = known[i, width - 1] = 255
    for j in range(width):
        known[0, j] = known[height - 1, j] = 255
    start = 0
    for _ in range(reach):
        stop = end
        for place in range(start, stop):
            at = queue[place]
            for near in (at - width - 1, at - width, at - width + 1, at - 1, at + 1, at + width - 1, at + width, at + width + 1):
                k = np.uint32(near)
                if flat[k] == 0:
                    flat[k] = 255
                    colors[k] = colors[at]
                    queue[end] = k
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
        line, owners, colors = pixels[i].reshape(-1), owner[y + i, x : x + width], image[y + i, x : x + width].reshape(-1)
        for j in range(width):
            alpha = np.uint32(line[4 * j + 3])
            if alpha == 0:
                continue
            if alpha == 255:
                for c in range(3):
                    colors[3 * j + c] = tone[c, line[4 * j + c]]
            else:
                for c in range(3):
                    mixed = colors[3 * j + c] * (255 - alpha) + tone[c, line[4 * j + c]] * alpha + 128
                    colors[3 * j + c] = (mixed + (mixed >> 8)) >> 8  # a division by 255, rounded to the nearest
            if alpha >= 128:
                shown[owners[j]] -= 1
                shown[number] += 1
                owners[j] = number


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
