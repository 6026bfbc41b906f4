"""Masks from what annotators draw: polygons, and COCO's run lengths.

A pixel belongs to a polygon when its centre lies inside it (even-odd rule), without the half pixel that drawing routines add around.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def polygon_mask(polygons: Sequence[NDArray], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(H,W) 1 inside any of the polygons (N,2), x and y in continuous pixels. Fewer than three corners enclose nothing."""
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        _fill(mask, np.asarray(polygon, np.float64).reshape(-1, 2))
    return mask


def _fill(mask: NDArray[np.uint8], corners: NDArray[np.float64]) -> None:
    if len(corners) < 3:
        return
    x0, y0, x1, y1 = (a[:, None] for a in (*corners.T, *np.roll(corners, -1, axis=0).T))
    size = np.array(mask.shape[::-1])
    (left, top), (right, bottom) = (np.clip(v, 0, size).astype(np.int64) for v in (np.floor(corners.min(0)), np.ceil(corners.max(0))))
    rows = np.arange(top, bottom) + 0.5
    crossed = (y0 <= rows) != (y1 <= rows)  # (edges, rows)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        crossing = x0 + (rows - y0) / (y1 - y0) * (x1 - x0)
    edge, row = np.nonzero(crossed)
    # from the first pixel whose centre lies right of the crossing, inside becomes outside and the other way round
    column = np.clip(np.ceil(crossing[edge, row] - 0.5), left, right).astype(np.int64) - left
    turns = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.add.at(turns, (row, column), 1)
    mask[top:bottom, left:right] |= np.cumsum(turns, axis=1, dtype=np.uint32)[:, :-1].astype(np.uint8) & 1


def run_length_mask(counts: Sequence[int] | str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(H,W) mask from COCO's run lengths, of zeros and ones in turns, column by column: a list, or the text that packs it.

    ValueError if the runs do not fill the shape.
    """
    runs = _unpacked(counts) if isinstance(counts, str) else list(counts)
    size = shape[0] * shape[1]
    if not all(isinstance(run, int) and 0 <= run <= size for run in runs) or sum(runs) != size:
        raise ValueError(f"expected run lengths of {size} pixels together, got {runs[:8]}{' and more' if len(runs) > 8 else ''}")
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(shape[1], shape[0]).T)


def _unpacked(text: str) -> list[int]:
    """Run lengths from COCO's text: five bits a character from '0' on, the sixth says that more follow; differences to two runs before."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"expected characters from '0' to 'o', got {character!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift  # negative
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the text ends within a number")
    return runs
