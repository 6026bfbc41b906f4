"""Overlays: drawn where the labels say, sides and hidden points told apart, inputs left alone."""

from __future__ import annotations

import numpy as np
import pytest
from fake_samples import make_label

from handnet.skeleton import BONES
from pipelines import drawing


def canvas(value: int = 40, size: int = 240) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_skeleton_is_drawn_at_the_keypoints_and_leaves_the_input_alone():
    image = canvas()
    keypoints = np.stack([20 + 10.0 * np.arange(21), 120 + 90 * np.sin(np.arange(21))], 1)
    out = drawing.draw_skeleton(image, keypoints, side=1)
    assert (image == 40).all()
    for x, y in keypoints:
        assert out[int(y), int(x)].min() > 150  # white dots
    for parent, child in BONES:
        x, y = (keypoints[parent] + keypoints[child]) / 2
        assert (out[int(y), int(x)] != 40).any()
    assert (drawing.draw_skeleton(image, keypoints + 1000) == 40).all()


def test_a_dot_is_centred_on_its_keypoint():
    """The centroid of what changed around a lone keypoint is the keypoint, in continuous coordinates."""
    keypoints = np.full((21, 2), 60.25)
    out = drawing.draw_skeleton(canvas(), keypoints, thickness_px=4).astype(float)
    weight = np.abs(out - 40).sum(-1)
    rows, columns = np.mgrid[:240, :240] + 0.5
    assert (columns * weight).sum() / weight.sum() == pytest.approx(60.25, abs=0.3)
    assert (rows * weight).sum() / weight.sum() == pytest.approx(60.25, abs=0.3)


def test_sides_and_hidden_points_are_told_apart():
    label = make_label(1)
    keypoints = (label.keypoints_px - label.keypoints_px.min(0)) / np.ptp(label.keypoints_px, axis=0).max() * 200 + 20
    left, right = (drawing.draw_skeleton(canvas(), keypoints, side=side) for side in (0, 1))
    assert (left != right).any(-1).sum() > 50
    hidden = np.ones(21, bool)
    hidden[7] = False
    x, y = keypoints[7].astype(int)
    assert drawing.draw_skeleton(canvas(), keypoints, hidden)[y, x].max() < 110
    assert drawing.draw_skeleton(canvas(), keypoints)[y, x].min() > 110


def test_boxes_centres_and_text():
    out = drawing.draw_boxes(canvas(), np.array([[20, 30, 100, 90]]), sides=[0], labels=["left 0.9"])
    assert (out[30, 60] != 40).any()
    assert (out[60, 20] != 40).any()
    assert (out[60, 60] == 40).all()
    assert (out[18:27, 20:70] != 40).any()
    cross = drawing.draw_centers(canvas(), np.array([[50.5, 70.5]]), sides=[1])
    np.testing.assert_allclose(cross[70, 50], drawing.SIDE_COLORS[1], atol=4)
    assert (drawing.draw_boxes(canvas(), np.empty((0, 4))) == 40).all()
    assert (drawing.draw_text(canvas(), "far out", (500, -500)) != 40).any()  # moved inside


def test_masks_are_blended_by_instance():
    mask = np.zeros((240, 240), np.uint8)
    mask[:50], mask[50:100], mask[100:150] = 1, 2, 255
    out = drawing.blend_mask(canvas(), mask, alpha=0.5)
    for value, color in ((1, drawing.INSTANCE_COLORS[0]), (2, drawing.INSTANCE_COLORS[1]), (255, drawing.IGNORE_COLOR)):
        np.testing.assert_allclose(out[mask == value][0], 0.5 * 40 + 0.5 * np.array(color), atol=1)
    assert (out[150:] == 40).all()
    with pytest.raises(ValueError, match="mask: expected shape"):
        drawing.blend_mask(canvas(), mask[:10])


def test_grid_places_every_image():
    images = [np.full((20 + i, 30, 3), 10 * i, np.uint8) for i in range(5)]
    out = drawing.grid(images, columns=2, pad_px=3)
    assert out.shape == (3 * 27 + 3, 2 * 33 + 3, 3)
    for i, image in enumerate(images):
        y = 3 + (i // 2) * 27 + (24 - image.shape[0]) // 2
        x = 3 + (i % 2) * 33
        np.testing.assert_array_equal(out[y : y + image.shape[0], x : x + 30], image)
    assert (out[0] == 255).all()
    with pytest.raises(ValueError, match="at least one image"):
        drawing.grid([], 2)


def test_small_images_are_enlarged_by_whole_numbers():
    image, factor = drawing.upscale(canvas(size=100), 256)
    assert (image.shape, factor) == ((300, 300, 3), 3.0)
    same, factor = drawing.upscale(canvas(size=300), 256)
    assert (same.shape, factor) == ((300, 300, 3), 1.0)
