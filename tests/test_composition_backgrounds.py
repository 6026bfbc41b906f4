"""Backgrounds: varied, reproducible, without hands, and bad folders or files are named."""

from __future__ import annotations

import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
from painted_hands import SKIN, painted_sample

from pipelines.composition import backgrounds
from pipelines.datasets.sample import DataError


def test_generated_backgrounds_are_reproducible_and_varied():
    first = [backgrounds.generate(64, np.random.default_rng(i)) for i in range(30)]
    again = [backgrounds.generate(64, np.random.default_rng(i)) for i in range(30)]
    for a, b in zip(first, again, strict=True):
        assert a.shape == (64, 64, 3)
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)
    means = np.array([image.mean((0, 1)) for image in first])
    assert means.std(0).min() > 20
    assert min(image.std() for image in first) > 2


def test_files_become_squares_of_rgb(tmp_path):
    (tmp_path / "deep").mkdir()
    picture = np.zeros((90, 150, 3), np.uint8)
    picture[..., 2] = 220  # red, in cv2's BGR
    cv2.imwrite(str(tmp_path / "deep" / "b.PNG"), picture)
    cv2.imwrite(str(tmp_path / "a.jpg"), picture)
    (tmp_path / "notes.txt").write_text("no image")
    files = backgrounds.list_images(tmp_path)
    assert [path.name for path in files] == ["a.jpg", "b.PNG"]
    for path in files:
        image = backgrounds.from_file(path, 40, np.random.default_rng(0))
        assert image.shape == (40, 40, 3)
        np.testing.assert_allclose(image.reshape(-1, 3).mean(0), [220, 0, 0], atol=3)


def test_bad_folders_and_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"backgrounds_dir: .*nowhere: not a folder"):
        backgrounds.list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no image below it"):
        backgrounds.list_images(tmp_path)
    huge = bytearray(cv2.imencode(".bmp", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    huge[18:26] = struct.pack("<II", 60_000, 50_000)
    for name, data in (("a.jpg", b""), ("b.jpg", b"not a jpeg"), ("d.bmp", bytes(huge))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}: not an image that can be decoded"):
            backgrounds.from_file(tmp_path / name, 40, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"c\.jpg: cannot be read"):
        backgrounds.from_file(tmp_path / "c.jpg", 40, np.random.default_rng(0))


def test_strips_of_sources_show_no_hand():
    found = 0
    for index in range(12):
        strip = backgrounds.from_source(painted_sample(index), 96, np.random.default_rng(index))
        if strip is not None:
            found += 1
            assert strip.shape == (96, 96, 3)
            assert np.abs(strip.astype(int) - SKIN).sum(-1).min() > 12
    assert found > 0


def test_a_source_full_of_hand_gives_no_strip():
    sample = painted_sample(0)
    assert backgrounds.from_source(replace(sample, mask=np.ones_like(sample.mask)), 96, np.random.default_rng(0)) is None
