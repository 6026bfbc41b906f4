"""Loops over the pixels of a source, compiled: where a hand lies, and cutting it out with a clean and soft edge.

Plain arithmetic in a fixed order, so that every machine makes the same bytes.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def find_box(mask: NDArray[np.uint8], number: int) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 around the pixels of mask (H,W) that hold `number`; all 0 where there are none."""
    height, width = mask.shape
    own = np.uint8(number)
    seen = np.zeros(width, np.bool_)
    top, bottom = 0, 0
    for i in range(height):
        row = mask[i]
        found = False
        for j in range(width):
            found |= row[j] == own
        if not found:
            continue
        if bottom == 0:
            top = i
        bottom = i + 1
        for j in range(width):
            seen[j] |= row[j] == own
    if bottom == 0:
        return 0, 0, 0, 0
    left, right = 0, width
    while not seen[left]:
        left += 1
    while not seen[right - 1]:
        right -= 1
    return left, top, right, bottom


@numba.njit(cache=True, nogil=True)
def draw_hand(
    square: NDArray[np.uint32],
    corner: tuple[int, int],
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    number: int,
    part: tuple[int, int, int, int],
    reach: int,
    weights: NDArray[np.uint16],
    flip: bool,
) -> None:
    """Draw the hand `number` of an image, as far as it lies in `part`, into a square that begins at `corner`.

    square (side,side) uint32: red, green, blue and opacity, from the lowest byte on; mirrored with `flip`. image (H,W,3), mask
    (H,W) uint8. corner: x, y, and part: x0, y0, x1, y1, within the square, in the image's pixels; they may reach beyond the
    image, where all is 0. A mask's outermost pixels already hold some background: they, and what surrounds them within `reach`
    steps, take the colour of what lies within, so that no halo of it is pasted. weights (2 r + 1,), whose sum is 256: the
    opacity is blurred by them along both axes.
    """
    left, top, right, bottom = part
    height, width = bottom - top, right - left
    opacity = np.zeros((height, width), np.uint8)
    pixels = np.zeros((height, width), np.uint32)
    first, last = max(left, 0), min(right, image.shape[1])
    own = np.uint8(number)
    for i in range(max(-top, 0), min(height, image.shape[0] - top)):
        colors, row = image[top + i, first:last], mask[top + i, first:last]
        words, shares = pixels[i, first - left : last - left], opacity[i, first - left : last - left]
        for j in range(last - first):
            words[j] = np.uint32(colors[j, 0]) | np.uint32(colors[j, 1]) << np.uint32(8) | np.uint32(colors[j, 2]) << np.uint32(16)
        for j in range(last - first):
            shares[j] = np.uint8(255) if row[j] == own else np.uint8(0)
    known = np.zeros((height, width), np.uint8)
    find_known(opacity, known)
    carry_outward(pixels, known, reach)
    blur(opacity, weights)
    start = square.shape[0] - (right - corner[0]) if flip else left - corner[0]
    for i in range(height):
        words, shares, out = pixels[i], opacity[i], square[top - corner[1] + i, start : start + width]
        if flip:
            for j in range(width):
                out[width - 1 - j] = words[j] | np.uint32(shares[j]) << np.uint32(24)
        else:
            for j in range(width):
                out[j] = words[j] | np.uint32(shares[j]) << np.uint32(24)


@numba.njit(cache=True, nogil=True)
def blur(values: NDArray[np.uint8], weights: NDArray[np.uint16]) -> None:
    """Blur values (h,w) in place along both axes by weights (2 r + 1,), whose sum is 256, with rows and columns at the rim repeated."""
    if len(weights) == 1:
        return
    height, width = values.shape
    radius = len(weights) // 2
    padded = np.empty(width + 2 * radius, np.uint8)
    rows = np.zeros((height, width), np.uint16)
    for i in range(height):
        padded[:radius] = values[i, 0]
        padded[radius : radius + width] = values[i]
        padded[radius + width :] = values[i, width - 1]
        row = rows[i]
        for k in range(len(weights)):
            weight, shifted = weights[k], padded[k : k + width]
            for j in range(width):
                row[j] += np.uint16(weight * shifted[j])
    total = np.empty(width, np.uint32)
    for i in range(height):
        total[:] = 1 << 15  # half a level, which rounds
        for k in range(len(weights)):
            weight, row = np.uint32(weights[k]), rows[min(max(i + k - radius, 0), height - 1)]
            for j in range(width):
                total[j] += weight * np.uint32(row[j])
        out = values[i]
        for j in range(width):
            out[j] = np.uint8(total[j] >> np.uint32(16))


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
    edge = np.zeros((inner + 7) // 8 * 8, np.uint8)
    eights = edge.view(np.uint64)  # few pixels lie at the edge: the others are passed by eight at a time
    end = 0
    for i in range(1, height - 1):
        above, below = known[i - 1, 1 : inner + 1], known[i + 1, 1 : inner + 1]
        left, middle, right = known[i, :inner], known[i, 1 : inner + 1], known[i, 2:]
        for j in range(inner):
            edge[j] = middle[j] & ~(above[j] & below[j] & left[j] & right[j])
        for group in range(len(eights)):
            if eights[group] == 0:
                continue
            for j in range(8 * group, 8 * group + 8):
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
