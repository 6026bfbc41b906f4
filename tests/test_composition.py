"""Composed scenes: labels lie where the pixels are, 2D and 3D agree, masks and visibility tell who covers whom."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_samples import make_label, project
from painted_hands import DOT_RADIUS_PX, DOTS, SIZE, SKIN, build_painted, painted_sample

from pipelines.composition.engine import SceneComposer
from pipelines.composition.layout import Square
from pipelines.composition.paste import Canvas
from pipelines.composition.patch import Layer, cut_hand, whole_image
from pipelines.config import SceneSetConfig, load_params
from pipelines.datasets.sample import MASK_IGNORE, DataError, HandSample

ROOT = Path(__file__).parents[1]
NO_GAIN = np.ones(3, np.float32)


def make_config(**changes) -> SceneSetConfig:
    values = load_params(ROOT / "params.yaml").compose.train.model_dump()
    return SceneSetConfig(**{**values, "color_match": 0.0, "canvas_px": 256, "hand_px": (56, 160), **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build_painted(tmp_path_factory.mktemp("painted"), "train")


@pytest.fixture(scope="module")
def scenes(source):
    composer = SceneComposer(make_config(), source)
    return [composer.sample(i) for i in range(40)]


def find_dot(image: np.ndarray, color: np.ndarray, near: np.ndarray, radius_px: float) -> np.ndarray:
    """Centroid of a dot on skin: every pixel around `near` weighs by how far its colour is from skin towards the dot's.

    Pixels of other dots, which are no mixture of the two, count as skin.
    """
    height, width = image.shape[:2]
    total, moment = 0.0, np.zeros(2)
    axis = color.astype(float) - SKIN
    for i in range(max(0, int(near[1] - radius_px)), min(height, int(near[1] + radius_px) + 2)):
        for j in range(max(0, int(near[0] - radius_px)), min(width, int(near[0] + radius_px) + 2)):
            place = np.array([j + 0.5, i + 0.5])
            if np.hypot(*(place - near)) <= radius_px:
                offset = image[i, j] - np.array(SKIN, float)
                share = float(np.clip(offset @ axis / (axis @ axis), 0, 1))
                share *= bool(np.linalg.norm(offset - share * axis) < 40)
                total += share
                moment += share * place
    return moment / max(total, 1e-9)


def dots_seen(sample: HandSample, hand: int, scale: float) -> list[int]:
    """Keypoints of a hand whose whole dot, with some skin around it, is on top and within the image."""
    seen = []
    reach = DOT_RADIUS_PX * scale + 2.5
    for k, (x, y) in enumerate(sample.hands[hand].keypoints_px):
        rows, columns = np.mgrid[int(y - reach) : int(y + reach) + 2, int(x - reach) : int(x + reach) + 2]
        if rows.min() < 0 or columns.min() < 0 or rows.max() >= sample.height_px or columns.max() >= sample.width_px:
            continue
        disc = np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= reach
        if (sample.mask[rows[disc], columns[disc]] == hand + 1).all():
            seen.append(k)
    return seen


def source_of(label) -> HandSample:
    return painted_sample(int(label.source_id.removeprefix("painted/")))


def test_painted_dots_lie_where_the_labels_say(scenes):
    errors = []
    for scene in scenes:
        for i, hand in enumerate(scene.hands):
            scale = float(np.sqrt(abs(np.linalg.det(hand.affine[:, :2]))))
            for k in dots_seen(scene, i, scale):
                assert hand.visible[k]
                found = find_dot(scene.image, DOTS[k], hand.keypoints_px[k], DOT_RADIUS_PX * scale + 2)
                errors.append(float(np.hypot(*(found - hand.keypoints_px[k]))))
    assert len(errors) > 1000
    assert max(errors) <= 0.5, f"mean {np.mean(errors):.3f}, max {max(errors):.3f}"
    assert np.mean(errors) <= 0.15


def test_flipped_and_scaled_labels_follow_the_kept_affine(scenes):
    sides = set()
    for hand in (hand for scene in scenes for hand in scene.hands):
        original = source_of(hand).hands[0]
        moved = original.keypoints_px @ hand.affine[:, :2].T + hand.affine[:, 2]
        np.testing.assert_allclose(moved, hand.keypoints_px, atol=1e-3)
        flipped = np.linalg.det(hand.affine[:, :2]) < 0
        assert hand.side == (0 if flipped else 1)
        np.testing.assert_allclose(hand.keypoints_m, original.keypoints_m * ([-1, 1, 1] if flipped else [1, 1, 1]), atol=1e-6)
        np.testing.assert_allclose(hand.vertices_m, original.vertices_m * ([-1, 1, 1] if flipped else [1, 1, 1]), atol=1e-6)
        np.testing.assert_allclose(hand.mano[:3], original.mano[:3] * ([1, -1, -1] if flipped else [1, 1, 1]), atol=1e-6)
        assert hand.identity == original.identity
        sides.add(hand.side)
    assert sides == {0, 1}


def test_3d_projects_onto_2d_under_each_hands_camera(scenes):
    for hand in (hand for scene in scenes for hand in scene.hands):
        np.testing.assert_allclose(project(hand.K, hand.keypoints_m), hand.keypoints_px, atol=1e-3)
        assert hand.K[0, 0] > 0  # the mirror is in the hand, not in the camera


def test_scenes_have_their_own_camera_and_plausible_contents(scenes):
    config = make_config()
    counts = [len(scene.hands) for scene in scenes]
    assert max(counts) >= 6
    assert max(counts) <= config.max_hands
    for scene in scenes:
        np.testing.assert_array_equal(scene.K, [[config.focal_px, 0, 128], [0, config.focal_px, 128], [0, 0, 1]])
        assert scene.image.shape == (256, 256, 3)
        present = set(np.unique(scene.mask)) - {0, MASK_IGNORE}
        assert present == set(range(1, len(scene.hands) + 1))
        for i, hand in enumerate(scene.hands):
            assert hand.visible.any()
            rows, columns = np.nonzero(scene.mask == i + 1)
            x0, y0, x1, y1 = hand.box_px
            # the painted hands' thick fingers reach beyond the box of their keypoints, but the crop keeps all of them
            slack = 0.12 * max(x1 - x0, y1 - y0) + 2
            assert columns.min() >= x0 - slack
            assert columns.max() <= x1 + slack
            assert rows.min() >= y0 - slack
            assert rows.max() <= y1 + slack


def test_visibility_is_what_lies_on_top(scenes):
    hidden = 0
    for scene in scenes:
        for i, hand in enumerate(scene.hands):
            for k, (x, y) in enumerate(hand.keypoints_px):
                on_canvas = 0 <= x < 256 and 0 <= y < 256
                top = int(scene.mask[int(y), int(x)]) if on_canvas else None
                assert hand.visible[k] == (top in (0, i + 1))
                hidden += not hand.visible[k]
    assert hidden > 20


def test_a_scene_is_a_function_of_configuration_and_index(source, scenes):
    again = SceneComposer(make_config(), source)
    for index in (7, 3, 30):
        scene = again.sample(index)
        np.testing.assert_array_equal(scene.image, scenes[index].image)
        np.testing.assert_array_equal(scene.mask, scenes[index].mask)
        for a, b in zip(scene.hands, scenes[index].hands, strict=True):
            np.testing.assert_array_equal(a.keypoints_px, b.keypoints_px)
    other = SceneComposer(make_config(seed=77), source).sample(7)
    assert not np.array_equal(other.image, scenes[7].image)


@pytest.mark.parametrize(("flip", "sides"), [(0.0, {1}), (1.0, {0})])
def test_flip_fraction_makes_left_hands(source, flip, sides):
    composer = SceneComposer(make_config(flip_fraction=flip), source)
    assert {hand.side for i in range(6) for hand in composer.sample(i).hands} == sides


def test_empty_scenes_and_whole_images(source):
    empty = SceneComposer(make_config(empty_fraction=1.0), source).sample(0)
    assert empty.hands == ()
    assert not empty.mask.any()
    one = SceneComposer(make_config(empty_fraction=0.0, max_hands=1, whole_first_fraction=1.0, flip_fraction=0.0), source)
    scene = one.sample(0)
    assert len(scene.hands) == 1  # the whole image counts as the one hand
    np.testing.assert_allclose(scene.hands[0].affine, [[256 / SIZE, 0, 0], [0, 256 / SIZE, 0]])
    patch = SceneComposer(make_config(empty_fraction=0.0, max_hands=1, whole_first_fraction=0.0), source).sample(0)
    assert len(patch.hands) == 1
    assert patch.hands[0].affine[0, 2] != 0


def test_no_labels_below_the_least_visible_share(source):
    strict = SceneComposer(make_config(min_visible=0.95, whole_first_fraction=1.0), source)
    loose = SceneComposer(make_config(min_visible=0.0, whole_first_fraction=1.0), source)
    dropped = 0
    for index in range(12):
        a, b = strict.sample(index), loose.sample(index)
        np.testing.assert_array_equal(a.image, b.image)  # dropped hands stay in the picture
        np.testing.assert_array_equal(a.mask != 0, b.mask != 0)
        kept = {hand.source_id + str(hand.affine) for hand in a.hands}
        for i, hand in enumerate(b.hands):
            if hand.source_id + str(hand.affine) not in kept:
                dropped += 1
                assert (a.mask[b.mask == i + 1] == MASK_IGNORE).all()
        counts = strict.counts(index)
        assert counts["hands_pasted"] == {str(len(b.hands)): 1}
        assert counts["hands_dropped"] == {str(len(b.hands) - len(a.hands)): 1}
    assert dropped > 3


# --- painting, against a loop over pixels ---------------------------------------------------------------------------


def test_pasting_equals_painting_pixel_by_pixel():
    rng = np.random.default_rng(5)
    background = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    canvas = Canvas(background)
    image, owner = background.astype(float), np.zeros((40, 50), int)
    areas = {}
    for number in range(1, 6):
        side = int(rng.integers(8, 25))
        x, y = int(rng.integers(50 - side + 1)), int(rng.integers(40 - side + 1))
        alpha = rng.random((side, side)).astype(np.float32)
        color = rng.uniform(0, 255, (side, side, 3)).astype(np.float32)
        label = make_label(number)
        label = label.warped([[0.2, 0, 0], [0, 0.2, 0]])
        canvas.paste(Layer(x=x, y=y, color=color, alpha=alpha, owner=(alpha >= 0.5).astype(np.uint8), labels=(label,)))
        areas[number] = 0
        for i in range(side):
            for j in range(side):
                image[y + i, x + j] = np.floor(image[y + i, x + j] * (1 - alpha[i, j]) + color[i, j] * alpha[i, j] + 0.5)
                if alpha[i, j] >= 0.5:
                    owner[y + i, x + j] = number
                    areas[number] += 1
    np.testing.assert_allclose(canvas.image, image, atol=1)
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


def test_layers_outside_the_canvas_are_refused():
    canvas = Canvas(np.zeros((40, 40, 3), np.uint8))
    layer = cut_hand(painted_sample(0), 0, Square(20, 0, 30), flip=False, feather_px=1.0, gain=NO_GAIN)
    with pytest.raises(ValueError, match="not within the canvas"):
        canvas.paste(layer)


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
    canvas = Canvas(np.broadcast_to(green.astype(np.uint8), (220, 220, 3)))
    canvas.paste(cut_hand(dirty, 0, Square(10, 10, side), flip=True, feather_px=feather_px, gain=NO_GAIN))
    axis = np.array(SKIN, float) - green
    offset = canvas.image.astype(float) - green
    share = np.clip(offset @ axis / (axis @ axis), 0, 1)[..., None]
    assert np.abs(offset - share * axis).max() <= 6
    assert (canvas.owner > 0).sum() == pytest.approx(share.sum(), rel=0.06)


def test_feathering_widens_the_edge():
    shares = []
    for feather_px in (0.0, 1.0, 4.0):
        layer = cut_hand(painted_sample(3), 0, Square(0, 0, 120), flip=False, feather_px=feather_px, gain=NO_GAIN)
        shares.append(float(((layer.alpha > 0.05) & (layer.alpha < 0.95)).mean()))
    assert shares[0] < shares[1] < shares[2]


def test_hands_at_the_rim_of_their_source_keep_their_labels():
    sample = painted_sample(2)
    x0, y0 = 70, 40  # cuts through the hand
    label = sample.hands[0].warped([[1, 0, -x0], [0, 1, -y0]])
    cropped = HandSample(key="a", image=sample.image[y0:, x0:], K=sample.K, hands=(label,), mask=sample.mask[y0:, x0:])
    for flip in (False, True):
        layer = cut_hand(cropped, 0, Square(4, 6, 150), flip=flip, feather_px=1.0, gain=NO_GAIN)
        canvas = Canvas(np.zeros((160, 160, 3), np.uint8))
        canvas.paste(layer)
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
    label = sample.hands[0].warped([[1, 0, offset[0]], [0, 1, offset[1]]])
    part = HandSample(key="a", image=sample.image[keep], K=sample.K, hands=(label,), mask=sample.mask[keep])
    canvas = Canvas(np.zeros((300, 300, 3), np.uint8))
    canvas.paste(whole_image(part, 300, 0.7, flip=flip))
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
    plain = cut_hand(sample, 0, Square(0, 0, 100), flip=False, feather_px=1.0, gain=NO_GAIN)
    warm = cut_hand(sample, 0, Square(0, 0, 100), flip=False, feather_px=1.0, gain=np.array([1.2, 1.0, 0.8], np.float32))
    inside = plain.alpha > 0.99
    np.testing.assert_allclose(warm.color[inside], np.minimum(plain.color[inside] * [1.2, 1.0, 0.8], 255), rtol=1e-4)
    np.testing.assert_array_equal(plain.alpha, warm.alpha)


def test_color_match_is_bounded_and_off_at_zero(source):
    sample = painted_sample(5)
    for strength in (0.0, 0.5, 1.0):
        composer = SceneComposer(make_config(color_match=strength), source)
        for light in (np.zeros(3), np.full(3, 255.0), np.array([10.0, 120.0, 250.0])):
            gain = composer._gain(sample, light)
            assert ((gain >= 1 / 1.4 - 1e-6) & (gain <= 1.4 + 1e-6)).all()
            if strength == 0:
                np.testing.assert_array_equal(gain, 1)


# --- sources that cannot be used ------------------------------------------------------------------------------------


def test_another_split_or_dataset_is_refused(source):
    with pytest.raises(DataError, match=r"expected dataset 'procedural', split 'eval', got 'procedural', 'train'"):
        SceneComposer(make_config(split="eval"), source)


def test_sources_without_masks_are_refused(source, monkeypatch):
    composer = SceneComposer(make_config(empty_fraction=0.0), source)
    real = composer.reader.read

    def without_mask(index, **options):
        sample = real(index, **options)
        return HandSample(key=sample.key, image=sample.image, K=sample.K, hands=sample.hands)

    monkeypatch.setattr(composer.reader, "read", without_mask)
    with pytest.raises(DataError, match=r"train: sample \d+ has no mask"):
        composer.sample(0)
