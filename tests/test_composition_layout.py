"""Packing of squares: within the canvas, apart from each other, within the size range, full when it stops."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.composition.layout import pack_squares


@st.composite
def requests(draw):
    canvas = draw(st.integers(16, 600))
    smallest = draw(st.integers(max(1, canvas // 12), canvas))
    return canvas, (smallest, draw(st.integers(smallest, canvas))), draw(st.integers(0, 2**32)), draw(st.integers(0, 40))


@given(requests())
@settings(max_examples=200, deadline=None)
def test_squares_lie_in_the_canvas_and_apart(request):
    canvas, sizes, seed, max_hands = request
    squares = pack_squares(canvas, sizes, np.random.default_rng(seed), max_hands)
    assert len(squares) <= max_hands
    covered = np.zeros((canvas, canvas), int)
    for square in squares:
        assert sizes[0] <= square.side <= sizes[1]
        assert square.x >= 0
        assert square.y >= 0
        assert square.x + square.side <= canvas
        assert square.y + square.side <= canvas
        covered[square.y : square.y + square.side, square.x : square.x + square.side] += 1
    assert covered.max(initial=0) <= 1


@given(requests())
@settings(max_examples=100, deadline=None)
def test_a_packing_is_a_function_of_its_arguments_and_never_empty(request):
    canvas, sizes, seed, _ = request
    first = pack_squares(canvas, sizes, np.random.default_rng(seed), 1000)
    assert first
    assert first == pack_squares(canvas, sizes, np.random.default_rng(seed), 1000)


@given(st.integers(0, 2**32), st.integers(20, 120))
@settings(max_examples=100, deadline=None)
def test_packing_goes_on_while_the_smallest_size_fits(seed, smallest):
    """Layer by layer from below: no room for another smallest square is left beside a layer or above the last."""
    canvas = 256
    squares = pack_squares(canvas, (smallest, 130), np.random.default_rng(seed), 1000)
    layers, layer = [], []
    for square in squares:  # in a layer, squares come from the right to the left
        if layer and square.x > layer[-1].x:
            layers.append(layer)
            layer = []
        layer.append(square)
    layers.append(layer)
    for layer in layers:
        assert canvas - sum(square.side for square in layer) < smallest
    assert canvas - sum(max(square.side for square in layer) for layer in layers) < smallest
    for below, above in pairwise(layers):
        assert min(s.y for s in below) >= max(s.y + s.side for s in above)


def test_places_cover_the_canvas_evenly_however_few_hands():
    rng = np.random.default_rng(0)
    centers = []
    for _ in range(2000):
        (square,) = pack_squares(256, (56, 160), rng, 1)
        centers.append((square.x + square.side / 2, square.y + square.side / 2))
    np.testing.assert_allclose(np.mean(centers, axis=0), [128, 128], atol=10)
    assert np.std(centers, axis=0).min() > 40


def test_full_canvases_hold_many_and_different_numbers_of_hands():
    rng = np.random.default_rng(1)
    counts = [len(pack_squares(512, (96, 320), rng, 10)) for _ in range(400)]
    assert len(set(counts)) >= 5
    assert max(counts) >= 9


@pytest.mark.parametrize("sizes", [(0, 10), (20, 10), (10, 101)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes_px: expected 1 <= smallest <= largest <= canvas"):
        pack_squares(100, sizes, np.random.default_rng(0), 3)


@given(requests(), st.floats(0.01, 1))
@settings(max_examples=100, deadline=None)
def test_with_overlap_squares_grow_within_bounds_and_stay_in_the_canvas(request, overlap):
    canvas, sizes, seed, max_hands = request
    apart = pack_squares(canvas, sizes, np.random.default_rng(seed), max_hands)
    grown = pack_squares(canvas, sizes, np.random.default_rng(seed), max_hands, overlap)
    assert len(grown) == len(apart)
    for square in grown:
        assert 0 <= square.x <= canvas - square.side
        assert 0 <= square.y <= canvas - square.side
        assert sizes[0] <= square.side <= sizes[1]
        # each covers the place of one that was packed, and is larger by no more than the share
        inside = [a for a in apart if square.x <= a.x and square.y <= a.y and a.x + a.side <= square.x + square.side]
        assert any(a.side <= square.side <= a.side * (1 + overlap) for a in inside)


def test_overlap_makes_squares_collide_and_draws_who_is_on_top():
    collisions, leftmost_last = 0, 0
    for seed in range(60):
        squares = pack_squares(512, (96, 320), np.random.default_rng(seed), 10, 0.8)
        for a, b in combinations(squares, 2):
            collisions += (
                abs(a.x + a.side / 2 - b.x - b.side / 2) < (a.side + b.side) / 2
                and abs(a.y + a.side / 2 - b.y - b.side / 2) < (a.side + b.side) / 2
            )
        leftmost_last += squares[-1].x == min(square.x for square in squares)
    assert collisions > 60
    assert 5 < leftmost_last < 50
    with pytest.raises(ValueError, match=r"overlap: expected a share in 0\.\.1"):
        pack_squares(512, (96, 320), np.random.default_rng(0), 10, 1.5)
