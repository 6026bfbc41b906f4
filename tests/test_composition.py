"""Composed scenes: labels lie where the pixels are, 2D and 3D agree, masks and visibility tell who covers whom."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_samples import project
from painted_hands import DOT_RADIUS_PX, DOTS, SIZE, build_painted, dots_seen, find_dot, painted_sample

from pipelines.composition.engine import SceneComposer
from pipelines.config import SceneSetConfig, load_params
from pipelines.datasets.sample import MASK_IGNORE, DataError, HandSample

ROOT = Path(__file__).parents[1]


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


def test_overlapping_hands_hide_each_other_and_labels_still_lie_where_the_pixels_are(source):
    composer = SceneComposer(make_config(overlap=0.9, whole_first_fraction=0.0, empty_fraction=0.0, min_hands=6, min_visible=0.0), source)
    hidden, found = 0, []
    for index in range(12):
        scene = composer.sample(index)
        for i, hand in enumerate(scene.hands):
            scale = float(np.sqrt(abs(np.linalg.det(hand.affine[:, :2]))))
            for k, (x, y) in enumerate(hand.keypoints_px):
                top = int(scene.mask[int(y), int(x)]) if 0 <= x < 256 and 0 <= y < 256 else None
                assert hand.visible[k] == (top in (0, i + 1))
                hidden += top not in (None, 0, i + 1)
            for k in dots_seen(scene, i, scale):
                place = find_dot(scene.image, DOTS[k], hand.keypoints_px[k], DOT_RADIUS_PX * scale + 2)
                found.append(float(np.hypot(*(place - hand.keypoints_px[k]))))
    assert hidden > 50  # by other pasted hands: there is no whole image here
    assert len(found) > 300
    assert max(found) <= 0.5


def test_scenes_hold_at_least_so_many_hands_where_they_fit(source):
    composer = SceneComposer(make_config(min_hands=4, max_hands=4, empty_fraction=0.0, hand_px=(40, 60)), source)
    assert {composer.counts(index)["hands_pasted"].popitem()[0] for index in range(10)} == {"4"}


@pytest.mark.parametrize(
    ("mix", "kind"),
    [((1.0, 0.0, 0.0), "generated pictures"), ((0.0, 1.0, 0.0), "strips of sources"), ((0.0, 0.0, 1.0), "images of the folder")],
)
def test_backgrounds_are_mixed_as_asked(source, tmp_path, mix, kind):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 90, np.uint8))
    weights = dict(zip(("generated", "sources", "folder"), mix, strict=True))
    folder = str(tmp_path) if mix[2] else None
    composer = SceneComposer(make_config(backgrounds=weights, backgrounds_dir=folder, empty_fraction=1.0), source)
    kinds = [next(iter(composer.counts(index)["background"])) for index in range(8)]
    # a source all of whose strips are too narrow gives way to a generated picture
    assert kinds.count(kind) >= 4
    assert set(kinds) <= {kind, "generated pictures"}


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
