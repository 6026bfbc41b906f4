"""Views of a sample: labels follow pixels exactly, 3D follows 2D, and a batch is a pure function of (seed, step)."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from fake_hands import make_crops, make_scenes, project, write_shards
from painted_hands import DOT_RADIUS_PX, DOTS, build_painted, dots_seen, find_dot

import pipelines.loading as loading
from handnet.centers import hand_centers
from pipelines.augment import apply_tone, fixed_view, random_tone, random_view, warp_image, warp_vectors
from pipelines.composition.engine import SceneComposer
from pipelines.config import AugmentConfig, SceneSetConfig, load_params
from pipelines.datasets.sample import HandSample, transform_points
from pipelines.loading import TrainingBatches, collate, crop_sample, label_center, make_example

STRONG = AugmentConfig(scale=(0.8, 1.3), translate=0.1, rotate_deg=40.0, flip=0.5, color=0.3)


@pytest.fixture(scope="module")
def crops() -> list[HandSample]:
    return make_crops(6, seed=5)


def test_points_in_3d_project_to_the_moved_keypoints(crops):
    """Flip, roll, scale and shift all at once: the camera of the view explains every 2D label from the 3D one."""
    flips = 0
    for i, sample in enumerate(crops):
        hand = sample.hands[0]
        view = random_view(sample, 128, label_center(hand), STRONG, np.random.default_rng(i))
        flips += view.flip
        assert hand.keypoints_m is not None
        moved = transform_points(view.affine, hand.keypoints_px)
        np.testing.assert_allclose(project(view.K, warp_vectors(hand.keypoints_m, view)), moved, atol=2e-3)
        assert view.K[0, 1] == view.K[1, 0] == 0  # still a camera matrix
    assert 0 < flips < len(crops)


def test_painted_marks_are_found_where_the_labels_say():
    sample = make_crops(1, seed=1, size_px=160)[0]
    for seed in range(8):
        point = sample.hands[0].keypoints_px[8].astype(int)  # index fingertip's pixel
        image = np.zeros_like(sample.image)
        image[point[1] - 2 : point[1] + 3, point[0] - 2 : point[0] + 3] = 255
        rng = np.random.default_rng(seed)
        view = random_view(replace(sample, image=image), 160, label_center(sample.hands[0]), STRONG, rng)
        got = warp_image(image, view.affine, 160)[..., 0].astype(float)
        want = transform_points(view.affine, point + 0.5)
        near = np.hypot(*(np.indices(got.shape)[::-1] + 0.5 - want[:, None, None])) < 15  # the border shows reflections of the mark
        rows, columns = np.nonzero((got > 0) & near)
        assert len(rows) >= 9
        weight = got[rows, columns]
        found = np.array([(columns + 0.5) @ weight, (rows + 0.5) @ weight]) / weight.sum()
        assert np.linalg.norm(found - want) < 0.5


def test_dots_of_composed_scenes_are_found_after_every_augmentation(tmp_path):
    """Cut, scaled, flipped and pasted, then flipped, rolled, scaled and shifted: pixels and labels have gone the same way."""
    source = build_painted(tmp_path, "train")
    values = load_params().compose.train.model_dump()
    composer = SceneComposer(SceneSetConfig(**{**values, "color_match": 0.0, "canvas_px": 256, "hand_px": (90, 160)}), source)
    errors = []
    for index in range(10):
        scene = composer.sample(index)
        view = random_view(scene, 256, np.array([128.0, 128.0]), STRONG, np.random.default_rng(index))
        example = make_example(scene, view, 256)
        zoom = float(np.sqrt(abs(np.linalg.det(view.affine[:, :2]))))
        there = [keypoints.tobytes() for keypoints in example.keypoints_px]
        kept = [hand for hand in scene.hands if transform_points(view.affine, hand.keypoints_px).tobytes() in there]
        labels = tuple(hand.moved(view.affine) for hand in kept)
        moved = HandSample(key="a", image=example.image, K=np.eye(3), hands=labels, mask=example.mask)
        for i, hand in enumerate(kept):
            scale = zoom * float(np.sqrt(abs(np.linalg.det(hand.affine[:, :2]))))
            for k in dots_seen(moved, i, scale):
                found = find_dot(example.image, DOTS[k], example.keypoints_px[i][k], DOT_RADIUS_PX * scale + 2)
                errors.append(float(np.hypot(*(found - example.keypoints_px[i][k]))))
    assert len(errors) > 150
    assert max(errors) <= 0.5, f"mean {np.mean(errors):.3f}, max {max(errors):.3f}"


def test_fixed_view_centres_the_hand_and_keeps_the_scale(crops):
    sample = crops[0]
    image, K, affine = crop_sample(sample, 96)
    assert image.shape == (96, 96, 3)
    np.testing.assert_allclose(affine[:, :2], np.eye(2), atol=1e-12)
    moved = transform_points(affine, sample.hands[0].keypoints_px)
    np.testing.assert_allclose(moved.mean(0), [48, 48], atol=1e-3)
    np.testing.assert_allclose(project(K, sample.hands[0].keypoints_m), moved, atol=2e-3)


@pytest.mark.parametrize("definition", ["keypoints", "box", "root"])
@pytest.mark.parametrize("visible", [np.ones(21, bool), np.arange(21) % 3 > 0, np.zeros(21, bool)])
def test_the_centre_of_one_hand_is_that_of_many(crops, definition, visible):
    hand = crops[0].hands[0].seen(visible)
    many = hand_centers(torch.from_numpy(hand.keypoints_px)[None], torch.from_numpy(visible.astype(np.float32))[None], definition)
    np.testing.assert_allclose(label_center(hand, definition), many[0].numpy(), rtol=1e-5)


def test_colours_change_by_their_channels_curves():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    for tone in (random_tone(0.5, np.random.default_rng(0)), random_tone(0.0, np.random.default_rng(0))):
        out = np.empty((5, 6, 3), np.float32)
        apply_tone(image, tone, out)
        for i in range(5):
            for j in range(6):
                np.testing.assert_array_equal(out[i, j], [tone[c, image[i, j, c]] for c in range(3)])
    np.testing.assert_array_equal(out, image.astype(np.float32) / 255)  # no jitter
    tones = np.stack([random_tone(0.3, np.random.default_rng(i)) for i in range(200)])
    assert tones.min() == 0
    assert tones.max() == 1
    assert (np.diff(tones, axis=-1) >= 0).all()
    assert 0.1 < tones[:, :, 128].std() < 0.3
    assert (tones[:, 0] != tones[:, 1]).any()


@pytest.mark.parametrize("size", [(40, 60), (9, 7)])
def test_a_warp_is_opencvs_with_a_reflected_border(size):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for scale in (0.05, 0.3, 1.0, 4.0):
        angle = rng.uniform(-3, 3)
        affine = scale * np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
        affine[:, 2] = rng.uniform(-10, 40, 2)
        centers = affine.copy()
        centers[:, 2] += affine[:, :2] @ [0.5, 0.5] - 0.5
        expected = cv2.warpAffine(image, centers, (50, 50), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        difference = np.abs(warp_image(image, affine, 50).astype(int) - expected)
        assert difference.max() <= 1


def test_a_hand_whose_centre_leaves_the_input_is_dropped():
    scene = make_scenes(4, seed=0)[3]
    view = fixed_view(scene, 192, np.array([scene.image.shape[1] + 60.0, 96.0]))
    assert len(make_example(scene, view, 192).side) < len(scene.hands)


def test_flat_hands_of_a_batch_with_an_empty_image():
    scenes = make_scenes(5, seed=0)
    examples = [make_example(s, fixed_view(s, 192, np.array([96.0, 96.0])), 192) for s in scenes]
    batch = collate(examples)
    assert batch.image_index.tolist() == [i for i, s in enumerate(scenes) for _ in s.hands]
    assert batch.keypoints_px.shape == (sum(len(s.hands) for s in scenes), 21, 2)
    assert batch.mask is None
    empty = collate([e for e in examples if not e.side])
    assert empty.keypoints_px.shape == (0, 21, 2)
    with pytest.raises(ValueError, match=r"HandBatch.side: expected shape \(0,\), got \(3,\)"):
        replace(empty, side=batch.side[:3])


@pytest.fixture
def stage_config(tmp_path, crops, monkeypatch):
    write_shards(tmp_path / "data" / "fake", crops)
    monkeypatch.setattr(loading, "DATA_ROOT", tmp_path / "data")
    base = load_params().train.crop
    return base.model_copy(update={"data": "fake", "batch_size": 4, "steps": 5, "input_px": 64, "supervision": "2d"})


def test_a_batch_is_a_function_of_seed_and_step(stage_config):
    first, again = TrainingBatches(stage_config, 7, whole_image=False), TrainingBatches(stage_config, 7, whole_image=False)
    again[0], again[4]  # the order in which steps are asked for does not matter
    for step in (0, 3):
        a, b = first[step], again[step]
        assert a.keys == b.keys
        assert (a.image == b.image).all()
        assert (a.window_jitter == b.window_jitter).all()
    assert not (first[0].image == first[1].image).all()
    assert not (first[0].image == TrainingBatches(stage_config, 8, whole_image=False)[0].image).all()


def test_an_epoch_sees_every_sample_once(stage_config):
    batches = TrainingBatches(stage_config, 0, whole_image=False)
    keys = [key for step in range(3) for key in batches[step].keys]
    assert sorted(keys[:6]) == sorted({*keys})  # 6 samples, batches of 4: the second epoch starts inside a batch


def test_ranks_share_a_batch(stage_config):
    whole = TrainingBatches(stage_config, 0, whole_image=False)[2]
    parts = [TrainingBatches(stage_config, 0, whole_image=False, rank=r, world_size=2)[2] for r in (0, 1)]
    assert {*parts[0].keys, *parts[1].keys} == {*whole.keys}
    assert (parts[1].image[0] == whole.image[1]).all()
    with pytest.raises(ValueError, match="expected a multiple of 3 processes, got 4"):
        TrainingBatches(stage_config, 0, whole_image=False, world_size=3)


def test_weak_supervision_delivers_no_3d_label(stage_config):
    weak = TrainingBatches(stage_config, 0, whole_image=False)[0]
    assert weak.keypoints_m is None
    assert weak.vertices_m is None
    full = TrainingBatches(stage_config.model_copy(update={"supervision": "3d"}), 0, whole_image=False)[0]
    assert full.keypoints_m is not None
    assert full.vertices_m is not None
    assert (full.image == weak.image).all()
