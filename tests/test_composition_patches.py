"""Hands cut out of their sources and laid over a canvas: pixels against plain loops, no halo, labels where the pixels are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fake_samples import make_label
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_hands import DOT_RADIUS_PX, DOTS, SKIN, dots_seen, find_dot, painted_sample

from pipelines.composition.layout import Square
from pipelines.composition.paste import Canvas
from pipelines.composition.patch import Patch, cut_hand, resize_mask, whole_image
from pipelines.datasets.sample import MASK_IGNORE, HandSample

NO_GAIN = np.ones(3)


# --- painting, against a loop over pixels ---------------------------------------------------------------------------


def test_pasting_equals_painting_pixel_by_pixel():
    rng = np.random.default_rng(5)
    background = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image, owner = background.astype(float), np.zeros((40, 50), int)
    canvas = Canvas(background.copy())
    areas = {}
    for number in range(1, 6):
        height, width = (int(v) for v in rng.integers(8, 25, 2))
        x, y = int(rng.integers(50 - width + 1)), int(rng.integers(40 - height + 1))
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        pixels[..., 3] *= rng.integers(0, 2, (height, width), dtype=np.uint8)
        pixels[..., 3] |= rng.integers(0, 2, (height, width), dtype=np.uint8) * np.uint8(255)
        gain = rng.uniform(0.7, 1.4, 3)
        label = make_label(number).moved([[0.2, 0, 0], [0, 0.2, 0]])
        canvas.paste(Patch(x=x, y=y, pixels=pixels, part=(0, 0, *pixels.shape[1::-1]), gain=gain, label=label))
        areas[number] = 0
        for i in range(height):
            for j in range(width):
                alpha = pixels[i, j, 3] / 255
                color = np.floor(np.minimum(pixels[i, j, :3] * gain + 0.5, 255))
                image[y + i, x + j] = np.floor(image[y + i, x + j] * (1 - alpha) + color * alpha + 0.5)
                if alpha >= 0.5:
                    owner[y + i, x + j] = number
                    areas[number] += 1
    np.testing.assert_array_equal(canvas.image, image)
    np.testing.assert_array_equal(canvas.owner, owner)
    for number, share in enumerate(canvas.visible_shares(), 1):
        assert share == pytest.approx(sum(owner.reshape(-1) == number) / areas[number])
    threshold = sorted(canvas.visible_shares())[2]
    labels, mask = canvas.finish(threshold)
    kept = [n for n, share in enumerate(canvas.visible_shares(), 1) if share >= threshold]
    assert len(labels) == len(kept) == 3
    for i in range(40):
        for j in range(50):
            number = owner[i, j]
            assert mask[i, j] == (0 if number == 0 else kept.index(number) + 1 if number in kept else MASK_IGNORE)


@given(st.integers(0, 40), st.integers(12, 200), st.booleans(), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_patch_shows_nothing_outside_of_its_part(index, size, flip, feather):
    patch = cut_hand(painted_sample(index), 0, Square(0, 0, size), flip=flip, feather_px=feather, gain=NO_GAIN)
    left, top, right, bottom = patch.part
    shown = patch.pixels[..., 3] > 0
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    spare = 8 + size / 16  # little more than what it shows is looked through
    for first, begin in ((rows[0], top), (columns[0], left)):
        assert 0 <= first - begin <= spare
    for last, end in ((rows[-1], bottom), (columns[-1], right)):
        assert 0 < end - last <= spare


def test_keypoints_are_visible_where_their_own_hand_or_none_is_on_top():
    canvas = Canvas(np.zeros((60, 60, 3), np.uint8))
    label = make_label(3).moved([[0.2, 0, 8], [0, 0.2, 8]])
    rng = np.random.default_rng(1)
    for number in (1, 2):
        pixels = rng.integers(0, 256, (60, 60, 4), dtype=np.uint8)
        pixels[..., 3] = 255 * (cv2.resize(rng.random((4, 4)), (60, 60)) > 0.5 if number == 2 else 1)
        canvas.paste(Patch(x=0, y=0, pixels=pixels, part=(0, 0, *pixels.shape[1::-1]), gain=NO_GAIN, label=label))
    labels, _ = canvas.finish(0.0)
    assert len(labels) == 2
    hidden = [0, 0]
    for k, (x, y) in enumerate(label.keypoints_px):
        on_canvas = 0 <= x < 60 and 0 <= y < 60
        top = canvas.owner[int(y), int(x)] if on_canvas else None
        for number in (1, 2):
            assert labels[number - 1].visible[k] == (label.visible[k] and top in (0, number))
            hidden[number - 1] += label.visible[k] and not labels[number - 1].visible[k]
    assert min(hidden) > 0


def test_patches_outside_the_canvas_are_refused():
    canvas = Canvas(np.zeros((40, 40, 3), np.uint8))
    patch = cut_hand(painted_sample(0), 0, Square(20, 0, 30), flip=False, feather_px=1.0, gain=NO_GAIN)
    with pytest.raises(ValueError, match="not within the canvas"):
        canvas.paste(patch)


# --- patches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [40, 96, 200])
@pytest.mark.parametrize("feather_px", [0.0, 1.0, 3.0])
def test_no_halo_of_the_old_background(side, feather_px):
    """A skin-coloured hand cut from magenta and laid on green: every pixel is a mixture of skin and green."""
    sample = painted_sample(3, markers=False)
    magenta, green = np.array([255, 0, 255]), np.array([0, 160, 0])
    soft = cv2.GaussianBlur(sample.mask.astype(np.float32), (3, 3), 0)[..., None]  # the mask's rim is half background
    image = (np.array(SKIN) * soft + magenta * (1 - soft)).astype(np.uint8)
    dirty = HandSample(key="a", image=image, K=sample.K, hands=sample.hands, mask=sample.mask)
    canvas = Canvas(np.full((220, 220, 3), green, np.uint8))
    canvas.paste(cut_hand(dirty, 0, Square(10, 10, side), flip=True, feather_px=feather_px, gain=NO_GAIN))
    axis = np.array(SKIN, float) - green
    offset = canvas.image.astype(float) - green
    share = np.clip(offset @ axis / (axis @ axis), 0, 1)[..., None]
    assert np.abs(offset - share * axis).max() <= 6
    assert (canvas.owner > 0).sum() == pytest.approx(share.sum(), rel=0.06)


def test_feathering_widens_the_edge():
    shares = []
    for feather_px in (0.0, 1.0, 4.0):
        opacity = cut_hand(painted_sample(3), 0, Square(0, 0, 120), flip=False, feather_px=feather_px, gain=NO_GAIN).pixels[..., 3]
        shares.append(float(((opacity > 12) & (opacity < 243)).mean()))
    assert shares[0] < shares[1] < shares[2]


def test_hands_at_the_rim_of_their_source_keep_their_labels():
    sample = painted_sample(2)
    x0, y0 = 70, 40  # cuts through the hand
    label = sample.hands[0].moved([[1, 0, -x0], [0, 1, -y0]])
    cropped = HandSample(key="a", image=sample.image[y0:, x0:], K=sample.K, hands=(label,), mask=sample.mask[y0:, x0:])
    for flip in (False, True):
        patch = cut_hand(cropped, 0, Square(4, 6, 150), flip=flip, feather_px=1.0, gain=NO_GAIN)
        canvas = Canvas(np.zeros((160, 160, 3), np.uint8))
        canvas.paste(patch)
        hands, mask = canvas.finish(0.0)
        scene = HandSample(key="a", image=canvas.image, K=np.eye(3), hands=hands, mask=mask)
        scale = float(abs(hands[0].affine[1, 1]))
        seen = dots_seen(scene, 0, scale)
        assert 3 < len(seen) < 21
        for k in seen:
            found = find_dot(scene.image, DOTS[k], hands[0].keypoints_px[k], DOT_RADIUS_PX * scale + 2)
            assert np.hypot(*(found - hands[0].keypoints_px[k])) < 0.5


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("tall", [False, True])
def test_whole_images_that_are_not_square_are_padded(flip, tall):
    sample = painted_sample(4)
    keep = (slice(None), slice(30, 200)) if tall else (slice(20, 200), slice(None))
    offset = (-30, 0) if tall else (0, -20)
    label = sample.hands[0].moved([[1, 0, offset[0]], [0, 1, offset[1]]])
    part = HandSample(key="a", image=sample.image[keep], K=sample.K, hands=(label,), mask=sample.mask[keep])
    canvas = Canvas.of_image(whole_image(part, 300, 0.7, flip=flip))
    hands, mask = canvas.finish(0.5)
    scene = HandSample(key="a", image=canvas.image, K=np.eye(3), hands=hands, mask=mask)
    assert hands[0].side == (0 if flip else 1)
    seen = dots_seen(scene, 0, 300 / 224)
    assert len(seen) > 8
    for k in seen:
        found = find_dot(scene.image, DOTS[k], hands[0].keypoints_px[k], DOT_RADIUS_PX * 300 / 224 + 2)
        assert np.hypot(*(found - hands[0].keypoints_px[k])) < 0.5
    # no hand outside the labelled one: wherever the mask shows none, the picture is far from skin
    outside = cv2.dilate((mask > 0).astype(np.uint8), np.ones((5, 5))) == 0
    assert np.abs(canvas.image[outside].astype(int) - SKIN).sum(1).min() > 20


def test_color_matching_moves_hands_lightly_towards_the_scene():
    sample = painted_sample(5, markers=False)
    gain = np.array([1.2, 1.0, 0.8])
    plain, warm = (Canvas(np.full((100, 100, 3), 50, np.uint8)) for _ in range(2))
    for canvas, factor in ((plain, NO_GAIN), (warm, gain)):
        canvas.paste(cut_hand(sample, 0, Square(0, 0, 100), flip=False, feather_px=1.0, gain=factor))
    inside = cv2.erode(plain.owner, np.ones((7, 7), np.uint8)) > 0
    np.testing.assert_allclose(warm.image[inside], np.minimum(plain.image[inside] * gain, 255), atol=0.51)
    np.testing.assert_array_equal(plain.owner, warm.owner)
    far = cv2.dilate(plain.owner, np.ones((9, 9), np.uint8)) == 0
    assert (warm.image[far] == 50).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_a_resized_mask_holds_what_its_pixels_centres_lie_in(height, width, new_height, new_width):
    mask = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    resized = resize_mask(mask, new_width, new_height)
    for i in range(0, new_height, 7):
        for j in range(0, new_width, 5):
            row, column = int((i + 0.5) * height / new_height + 1e-9), int((j + 0.5) * width / new_width + 1e-9)
            assert resized[i, j] == mask[row, column]


@pytest.mark.parametrize("side", [40, 70, 110, 200, 300])
@pytest.mark.parametrize("flip", [False, True])
def test_dots_are_found_whatever_the_size(side, flip):
    sample = painted_sample(7)
    canvas = Canvas(np.full((320, 320, 3), 30, np.uint8))
    canvas.paste(cut_hand(sample, 0, Square(11, 5, side), flip=flip, feather_px=1.0, gain=NO_GAIN))
    hands, mask = canvas.finish(0.0)
    scene = HandSample(key="a", image=canvas.image, K=np.eye(3), hands=hands, mask=mask)
    scale = float(hands[0].affine[1, 1])
    for k in range(21):
        found = find_dot(scene.image, DOTS[k], hands[0].keypoints_px[k], DOT_RADIUS_PX * scale + 2)
        assert np.hypot(*(found - hands[0].keypoints_px[k])) < 0.5, (k, scale)
