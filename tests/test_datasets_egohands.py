"""The EgoHands adapter on a tiny dataset in the official layout; MATLAB files within bounds; outlines as masks."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import example, given, settings
from hypothesis import strategies as st
from official_layouts_egohands import (
    COLORS,
    FRAME_NUMBERS,
    FRAME_TYPE,
    HANDS,
    HEIGHT,
    VIDEOS,
    WIDTH,
    outline,
    save_metadata,
    write_egohands,
)

from pipelines.config_datasets import EgohandsConfig
from pipelines.datasets import matlab
from pipelines.datasets.egohands import Egohands
from pipelines.datasets.matlab import read_mat
from pipelines.datasets.outlines import polygon_mask
from pipelines.datasets.sample import DataError

SIDE = {"myleft": 0, "myright": 1, "yourleft": 0, "yourright": 1}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return write_egohands(tmp_path_factory.mktemp("egohands") / "egohands_data")


def open_egohands(path: Path, split: str = "eval") -> Egohands:
    return Egohands(EgohandsConfig(path=str(path), max_quarantined=0.0, samples_per_shard=4), split, path.parent / "cache")


def test_hands_have_sides_masks_and_boxes(shared):
    dataset = open_egohands(shared)
    assert len(dataset) == len(VIDEOS) * len(FRAME_NUMBERS)
    for index in range(len(dataset)):
        video, frame = divmod(index, len(FRAME_NUMBERS))
        key, name = dataset.where(index)
        assert name == f"_LABELLED_SAMPLES/{VIDEOS[video]}/frame_{FRAME_NUMBERS[frame]:04d}.jpg"
        sample = dataset.sample(index)
        assert (sample.key, sample.K_known, sample.mask_source) == (key, False, "published")
        assert sample.encoded == (shared / name).read_bytes()
        present = [hand for hand in HANDS if len(outline(video, frame, hand))]
        assert [hand.side for hand in sample.hands] == [SIDE[hand] for hand in present]
        for number, (hand, label) in enumerate(zip(present, sample.hands, strict=True), 1):
            mask = sample.mask == number
            colors = np.abs(sample.image[mask].astype(int) - COLORS[hand]).max(1)
            assert (colors < 40).mean() > 0.98  # its own paint, where another hand lies over it too
            rows, columns = np.nonzero(mask)
            np.testing.assert_allclose(label.keypoints_px, np.tile([columns.mean() + 0.5, rows.mean() + 0.5], (21, 1)), atol=1e-2)
            assert not label.visible.any()
            assert label.box_px.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert label.keypoints_m is None
            viewer, partner = VIDEOS[video].split("_")[2:]
            assert label.identity == (viewer if hand.startswith("my") else partner)
            assert label.source_id == f"egohands/{VIDEOS[video]}/frame_{FRAME_NUMBERS[frame]:04d}"
        painted = np.abs(sample.image.astype(int) - 120).max(-1) > 50
        assert (painted != (sample.mask > 0)).sum() < 0.03 * painted.sum()
    with pytest.raises(ValueError, match="split: expected 'eval', got 'train'"):
        open_egohands(shared, "train")


def videos(**changes) -> np.ndarray:
    frame = np.zeros((1, 1), FRAME_TYPE)
    frame[0, 0] = (11, *(np.zeros((0, 0)) for _ in HANDS))
    for name, value in changes.items():
        frame[0, 0][name] = value
    entry = np.zeros((1, 1), [("video_id", "O"), ("labelled_frames", "O")])
    entry[0, 0] = (VIDEOS[0], frame)
    return entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"myleft": np.ones((4, 3))}, r"metadata\.mat: CARDS_COURTYARD_B_T: frame \[11\]\.myleft: expected corners of shape \(N, 2\)"),
        ({"yourright": np.full((4, 2), np.nan)}, r"frame \[11\]\.yourright: expected finite numbers"),
        ({"yourright": "no corners"}, r"frame \[11\]\.yourright: expected corners of shape \(N, 2\), or none, got str"),
        ({"frame_num": 12}, r"frame_0012\.jpg: not found"),
        ({"frame_num": float("nan")}, r"frame_-001\.jpg: not found"),
        ({"frame_num": "eleven"}, r"frame_-001\.jpg: not found"),
    ],
)
def test_damage_is_named(shared, tmp_path, change, message):
    (tmp_path / "_LABELLED_SAMPLES").symlink_to(shared / "_LABELLED_SAMPLES")
    save_metadata(tmp_path, videos(**change))
    with pytest.raises(DataError, match=message):
        open_egohands(tmp_path).sample(0)


def test_bad_metadata_is_named(shared, tmp_path):
    data = (shared / "metadata.mat").read_bytes()
    save_metadata(tmp_path, np.arange(5))
    no_videos = (tmp_path / "metadata.mat").read_bytes()
    for bad in (data[: len(data) // 2], data[:100], b"", b"x" * 400, no_videos, b"\x89HDF\r\n\x1a\n" + bytes(300)):
        (tmp_path / "metadata.mat").write_bytes(bad)
        with pytest.raises(DataError, match=r"metadata\.mat: "):
            open_egohands(tmp_path)
    with pytest.raises(DataError, match="expected a folder or archive with one of"):
        open_egohands(shared / "_LABELLED_SAMPLES")


# --- MATLAB files ---------------------------------------------------------------------------------------------------


def saved(variables: dict, **options) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, **options)
    return stream.getvalue()


VARIABLES = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "bytes": np.array([[1, 2], [3, 250]], np.uint8),
    "none": np.zeros((0, 0)),
    "text": "any text",
    "cells": np.array([[1.5, "abc"]], dtype=object),
    "structs": np.array([[(1, "a"), (np.ones((2, 2)), "b")]], [("x", "O"), ("a_longer_name", "O")]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_values_are_those_that_scipy_reads(compressed):
    data = saved(VARIABLES, do_compression=compressed)
    ours, theirs = read_mat(data, "x"), scipy.io.loadmat(io.BytesIO(data))
    for name in ("numbers", "bytes", "none"):
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert ours[name].dtype == theirs[name].dtype
    assert ours["text"] == "any text"
    assert [np.asarray(c).reshape(-1).tolist() if not isinstance(c, str) else c for c in ours["cells"]] == [[1.5], "abc"]
    assert [(s["x"].tolist(), s["a_longer_name"]) for s in ours["structs"]] == [([[1]], "a"), ([[1, 1], [1, 1]], "b")]


def test_files_cannot_ask_for_more_than_they_hold(monkeypatch):
    data = saved(VARIABLES)
    shapes = [place for place in range(128, len(data) - 16, 4) if data[place : place + 8] == struct.pack("<II", 5, 8)]
    assert len(shapes) >= 10
    for place in shapes:
        for rows, columns in ((1 << 29, 1), (2**31 - 1, 2**31 - 1), (-1, 5)):
            changed = data[: place + 8] + struct.pack("<ii", rows, columns) + data[place + 16 :]
            with pytest.raises(DataError, match=r"got an array of shape|got cannot reshape|in place of"):
                read_mat(changed, "x")
    monkeypatch.setattr(matlab, "MAX_BYTES", 1 << 20)
    bomb = zlib.compress(struct.pack("<II", 14, 1 << 27) + bytes(1 << 27), 9)
    with pytest.raises(DataError, match=r"x: expected a MATLAB 5 file"):
        read_mat(data[:128] + struct.pack("<II", 15, len(bomb)) + bomb, "x")
    with pytest.raises(DataError, match="more than 1,048,576 bytes"):
        read_mat(saved({"a": np.zeros((1 << 18, 1))}, do_compression=True), "x")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), st.floats(0.1, 1), st.booleans())
def test_damaged_files_are_errors_never_crashes(changes, kept, compressed):
    data = bytearray(saved(VARIABLES, do_compression=compressed))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    with contextlib.suppress(DataError):
        read_mat(bytes(data[: int(kept * len(data))]), "x")


# --- outlines -------------------------------------------------------------------------------------------------------


def inside(corners: np.ndarray, x: float, y: float) -> bool | None:
    """Even-odd rule, edge by edge; None where rounding decides, since the point lies on an edge."""
    odd = False
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y):
            crossing = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
            if abs(crossing - x) < 1e-9:
                return None
            if crossing < x:
                odd = not odd
    return odd


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-6, 20), st.floats(-6, 18)), min_size=3, max_size=9))
@example([(0.0, 0.0), (0.0, 0.0), (5.0, 5.0)])
def test_a_pixel_is_in_an_outline_when_its_centre_is(corners):
    polygon = np.round(np.array(corners), 3) + 0.0001  # no corner on a pixel's centre
    mask = polygon_mask([polygon], (12, 14))
    for row, column in np.ndindex(12, 14):
        expected = inside(polygon, column + 0.5, row + 0.5)
        assert expected is None or mask[row, column] == expected


def test_outlines_are_united():
    first, second = np.array([[1, 1], [5, 1], [5, 5], [1, 5]]), np.array([[3, 3], [8, 3], [8, 7], [3, 7]])
    both = polygon_mask([first, second, np.zeros((0, 2)), np.ones((2, 2))], (HEIGHT, WIDTH))
    assert both.sum() == 16 + 20 - 4
    assert both[:8, :8].sum() == both.sum()
