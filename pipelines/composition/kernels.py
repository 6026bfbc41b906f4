"""Loops over the pixels of a canvas, compiled: laying a hand over it, and looking at it.

Plain arithmetic in a fixed order, so that every machine makes the same bytes.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def lay_over(
    image: NDArray[np.uint8],
    owner: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    x: int,
    y: int,
    part: tuple[int, int, int, int],
    gain: NDArray[np.float64],
    number: int,
    shown: NDArray[np.int64],
) -> None:
    """Blend a patch over a canvas with its corner at (x, y), and make `number` the owner of what it covers by half or more.

    image (H,W,3) uint8 and owner (H,W) uint8 change in place. pixels (h,w,4) uint8: colours and, last, opacity, which is 0
    outside of part: x0, y0, x1, y1. gain (3,): factor on the patch's colours. shown (256,) int64: pixels of each owner that
    nothing lies over, kept up to date.
    """
    tone = np.empty((3, 256), np.uint8)
    for c in range(3):
        for value in range(256):
            tone[c, value] = np.uint8(min(value * gain[c] + 0.5, 255.0))
    left, top, right, bottom = part
    width = pixels.shape[1]
    before, run, covered = np.uint8(0), 0, 0  # owners come in runs, and counting in memory for each pixel takes longer than painting it
    for i in range(top, bottom):
        line, owners, colors = pixels[i].reshape(-1), owner[y + i, x : x + width], image[y + i, x : x + width].reshape(-1)
        for j in range(left, right):
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
                if owners[j] != before:
                    shown[before] -= run
                    before, run = owners[j], 0
                run += 1
                covered += 1
                owners[j] = number
    shown[before] -= run
    shown[number] += covered


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
