"""Where the hands of a scene go: greedy packing of squares in layers. Pure: numbers in, numbers out.

The next size is drawn from what the remaining room allows, from the lower right corner to the upper left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Square:
    """Pixels [x, x + side) x [y, y + side) of the canvas."""

    x: int
    y: int
    side: int


def pack_squares(
    canvas_px: int, sizes_px: tuple[int, int], rng: np.random.Generator, max_hands: int, overlap: float = 0.0
) -> list[Square]:
    """Up to `max_hands` squares of `sizes_px` = (smallest, largest) that lie in the canvas, in the order they are pasted in.

    Layers grow from the bottom, squares in a layer from the right; a layer is full when less than the smallest size is
    left beside it, the canvas when less is left above. Room left over is then dealt out at random between squares and
    layers, so that places are not tied to the corner. When more squares fit than are wanted, a random choice of them
    stays. So far no square overlaps another. With `overlap` each then grows about its centre by a random share of its
    side, up to that one, as far as the largest size and the canvas allow, and who lies on top is drawn too.
    ValueError for sizes that are not 1 <= smallest <= largest <= canvas, or an overlap that is not in 0..1.
    """
    smallest, largest = sizes_px
    if not 1 <= smallest <= largest <= canvas_px:
        raise ValueError(f"sizes_px: expected 1 <= smallest <= largest <= canvas ({canvas_px}), got {list(sizes_px)}")
    if not 0 <= overlap <= 1:
        raise ValueError(f"overlap: expected a share in 0..1, got {overlap}")
    squares = _spread(_pack_layers(canvas_px, smallest, largest, rng), canvas_px, rng)
    if len(squares) > max_hands:
        chosen = np.sort(rng.choice(len(squares), size=max(max_hands, 0), replace=False))
        squares = [squares[i] for i in chosen]
    if overlap:
        grown = [_grow(square, float(rng.uniform(0, overlap)), largest, canvas_px) for square in squares]
        squares = [grown[i] for i in rng.permutation(len(grown))]
    return squares


def _grow(square: Square, share: float, largest: int, canvas_px: int) -> Square:
    """The square larger by `share` of its side, moved as little as it takes to stay in the canvas."""
    side = min(int(square.side * (1 + share)), largest)
    x, y = (min(max(place - (side - square.side) // 2, 0), canvas_px - side) for place in (square.x, square.y))
    return Square(x, y, side)


def _pack_layers(canvas_px: int, smallest: int, largest: int, rng: np.random.Generator) -> list[list[int]]:
    """Sides of the squares, layer by layer from the bottom, each layer from the right."""
    layers: list[list[int]] = []
    room_above = canvas_px
    while room_above >= smallest:
        layer: list[int] = []
        room_beside = canvas_px
        while room_beside >= smallest:
            side = int(rng.integers(smallest, min(largest, room_beside, room_above) + 1))
            layer.append(side)
            room_beside -= side
        layers.append(layer)
        room_above -= max(layer)
    return layers


def _spread(layers: list[list[int]], canvas_px: int, rng: np.random.Generator) -> list[Square]:
    """Places for the packed sides, with the left-over room split at random into gaps."""
    squares = []
    bottom = canvas_px
    gaps_above = _split(canvas_px - sum(max(layer) for layer in layers), len(layers), rng)
    for layer, gap_above in zip(layers, gaps_above, strict=True):
        bottom -= gap_above
        right = canvas_px
        for side, gap in zip(layer, _split(canvas_px - sum(layer), len(layer), rng), strict=True):
            right -= gap + side
            squares.append(Square(right, bottom - side - int(rng.integers(max(layer) - side + 1)), side))
        bottom -= max(layer)
    return squares


def _split(total: int, num_parts: int, rng: np.random.Generator) -> list[int]:
    """`num_parts` gaps, none negative, that add up to at most `total`: one more part is what stays at the far end."""
    cuts = sorted(rng.integers(0, total + 1, num_parts).tolist())
    return [cut - before for before, cut in zip([0, *cuts], cuts, strict=False)]
