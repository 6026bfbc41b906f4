"""Views of a sample: labels follow pixels exactly, 3D follows 2D, and a batch is a pure function of (seed, step)."""

import ctypes
import mmap
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fake_hands import make_crops, make_scenes, mixture_of, project, write_shards
from painted_hands import DOT_RADIUS_PX, DOTS, build_painted, dots_seen, find_dot

from handnet.centers import hand_centers
from pipelines.augment import (
    NUM_DRAWS,
    PLAIN_TONE,
    View,
    Views,
    fixed_view,
    random_tones,
    random_views,
    warp_image,
    warp_into,
    warp_vectors,
    whole_zoom,
)
from pipelines.bilinear import warp_colors
from pipelines.composition.engine import SceneComposer
from pipelines.config import AugmentConfig, ParamsError, SceneSetConfig, load_params, parse_params
from pipelines.datasets.sample import MASK_IGNORE, HandSample, transform_points
from pipelines.evaluation.frames import crop_scale, frames_of
from pipelines.loading import Source, crop_sample, label_center, make_batch, show
from pipelines.shards import ShardReader
from pipelines.training.batches import TrainingBatches

ROOT = Path(__file__).parents[1]
STRONG = AugmentConfig(scale=(0.8, 1.3), translate=0.1, rotate_deg=40.0, flip=0.5, color=0.3)


def random_view(sample: HandSample, input_px: int, center_px: np.ndarray, rng: np.random.Generator) -> View:
    """One strongly augmented view."""
    size = np.array([sample.image.shape[:2]], np.float64)
    draws = rng.random((1, NUM_DRAWS))
    return random_views(sample.K[None], size, center_px[None], whole_zoom(size, input_px), input_px, STRONG, draws)[0]


@pytest.fixture(scope="module")
def crops() -> list[HandSample]:
    return make_crops(6, seed=5)


def test_points_in_3d_project_to_the_moved_keypoints(crops):
    """Flip, roll, scale and shift all at once: the camera of the view explains every 2D label from the 3D one."""
    flips = 0
    for i, sample in enumerate(crops):
        hand = sample.hands[0]
        view = random_view(sample, 128, label_center(hand), np.random.default_rng(i))
        flips += view.flip
        assert hand.keypoints_m is not None
        moved = transform_points(view.affine, hand.keypoints_px)
        (points,) = warp_vectors(hand.keypoints_m[None], np.array([view.flip]), np.array([view.roll_rad]))
        np.testing.assert_allclose(project(view.K, points), moved, atol=2e-3)
        assert view.K[0, 1] == view.K[1, 0] == 0  # still a camera matrix
    assert 0 < flips < len(crops)


def test_painted_marks_are_found_where_the_labels_say():
    sample = make_crops(1, seed=1, size_px=160)[0]
    for seed in range(8):
        point = sample.hands[0].keypoints_px[8].astype(int)  # index fingertip's pixel
        image = np.zeros_like(sample.image)
        image[point[1] - 2 : point[1] + 3, point[0] - 2 : point[0] + 3] = 255
        rng = np.random.default_rng(seed)
        view = random_view(replace(sample, image=image), 160, label_center(sample.hands[0]), rng)
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
        view = random_view(scene, 256, np.array([128.0, 128.0]), np.random.default_rng(index))
        batch = show([scene], [view], 256)
        image, keypoints_px = batch.image[0].permute(1, 2, 0).numpy(), batch.keypoints_px.numpy()
        zoom = float(np.sqrt(abs(np.linalg.det(view.affine[:, :2]))))
        moved = [transform_points(view.affine, hand.keypoints_px) for hand in scene.hands]
        kept = [hand for hand, points in zip(scene.hands, moved, strict=True) if any(np.allclose(points, own) for own in keypoints_px)]
        assert len(kept) == len(keypoints_px)
        labels = tuple(hand.moved(view.affine) for hand in kept)
        shown = HandSample(key="a", image=image, K=np.eye(3), hands=labels, mask=None if batch.mask is None else batch.mask[0].numpy())
        for i, hand in enumerate(kept):
            scale = zoom * float(np.sqrt(abs(np.linalg.det(hand.affine[:, :2]))))
            for k in dots_seen(shown, i, scale):
                found = find_dot(image, DOTS[k], keypoints_px[i][k], DOT_RADIUS_PX * scale + 2)
                errors.append(float(np.hypot(*(found - keypoints_px[i][k]))))
    assert len(errors) > 150
    assert max(errors) <= 0.5, f"mean {np.mean(errors):.3f}, max {max(errors):.3f}"


def test_fixed_view_centres_the_hand_and_keeps_the_scale(crops):
    sample = crops[0]
    image, K, affine = crop_sample(sample, sample.hands[0], 96)
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


@pytest.mark.parametrize("side", [40, 9])
def test_colours_change_by_their_channels_gain_and_offset(side):
    """A plain view of all colours: in the vector code, and beside it, where an image is too small for it."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 4), dtype=np.uint8)
    draws = np.random.default_rng(1).random((30, NUM_DRAWS))
    draws[:2, 5:10] = [[0.0] * 5, [1.0] * 5]  # darkest, brightest
    for tone in (PLAIN_TONE, *random_tones(1.0, draws), *random_tones(0.0, draws[:1])):
        out = np.zeros((side, side, 3), np.uint8)
        warp_into(pixels, np.eye(2, 3), tone, out)
        expected = (pixels[..., :3] * tone[:, 0] + tone[:, 1]).clip(0, 255)
        assert np.abs(out - expected).max() < 0.55
    np.testing.assert_array_equal(out, pixels[..., :3])  # no change
    tones = random_tones(0.3, np.random.default_rng(2).random((2000, NUM_DRAWS)))
    assert 0.15 < tones[..., 0].std() < 0.25
    assert 15 < np.abs(tones[..., 1]).max() < 0.3 * 64
    assert (tones[:, 0, 0] != tones[:, 1, 0]).all()


@pytest.mark.parametrize("size", [(64, 50), (33, 70)])
def test_a_warp_is_the_naive_one(size):
    """Each pixel of the result by itself: where it comes from, reflected at the border, between four pixels."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for trial in range(4):
        angle, zoom = rng.uniform(-3, 3), rng.uniform(0.7, 1.5)
        affine = zoom * np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
        if trial % 2:
            affine[0] *= -1
        affine[:, 2] = 20 - affine[:, :2] @ [size[1] / 2, size[0] / 2] + rng.uniform(-3, 3, 2)
        back = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))
        expected = np.empty((40, 40, 3))
        for i in range(40):
            for j in range(40):
                x, y = back[:2] @ [j + 0.5, i + 0.5, 1] - 0.5
                corners, weights = [], []
                for v in (int(np.floor(y)), int(np.floor(y)) + 1):
                    for u in (int(np.floor(x)), int(np.floor(x)) + 1):
                        row, column = (size[0] - 1 - abs(size[0] - 1 - abs(v))), (size[1] - 1 - abs(size[1] - 1 - abs(u)))
                        corners.append(image[row, column])
                        weights.append((1 - abs(x - u)) * (1 - abs(y - v)))
                expected[i, j] = np.array(weights) @ np.array(corners)
        # colours of neighbours differ by up to 255 here, and weights are rounded to 1/256 along each axis
        np.testing.assert_allclose(warp_image(image, affine, 40), expected, atol=3)


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
        assert difference.max() <= 2  # noise, and fractions of 1/256 along each axis


def test_a_warp_keeps_to_its_image():
    """Rows and columns outside of a warped array are another image's."""
    pixels = np.zeros((40, 40, 4), np.uint8)
    batch = np.full((3, 50, 50, 3), 77, np.uint8)
    warp_into(pixels, np.array([[1.1, 0.2, 3.0], [-0.2, 1.1, 9.0]]), PLAIN_TONE, batch[1])
    assert (batch[1] == 0).all()
    assert (batch[[0, 2]] == 77).all()


@pytest.mark.parametrize("at_end", [True, False])
def test_a_warp_reads_no_byte_beside_its_image(at_end):
    """Memory that may not be read begins right behind the last pixel, or ends right before the first: reading it would be fatal."""
    page, height, width = mmap.PAGESIZE, 40, 50
    memory = np.frombuffer(mmap.mmap(-1, 4 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    assert height * width * 4 <= 2 * page
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for first in (0, 3 * page):
        assert protect(ctypes.c_void_p(memory.ctypes.data + first), page, 0) == 0
    start = 3 * page - height * width * 4 if at_end else page
    pixels = memory[start : start + height * width * 4].reshape(height, width, 4)
    pixels[...] = np.random.default_rng(0).integers(0, 256, pixels.shape)
    for affine in (np.eye(2, 3), np.array([[-1.0, 0, 50], [0, -1, 40]]), np.array([[0.9, 0.3, -4], [-0.3, 0.9, 12]])):
        out, expected = np.empty((50, 50, 3), np.uint8), np.empty((50, 50, 3), np.uint8)
        assert warp_colors(pixels, affine, PLAIN_TONE, out)
        assert warp_colors(pixels.copy(), affine, PLAIN_TONE, expected)
        np.testing.assert_array_equal(out, expected)
        if affine[0, 0] == 1:
            np.testing.assert_array_equal(out[:40], pixels[..., :3])


@pytest.mark.parametrize("ids", [3, 4, MASK_IGNORE])
@pytest.mark.parametrize("shift_px", [0.0, 90.0])
def test_masks_of_a_batch_are_the_naive_ones(ids, shift_px):
    """Pixel by pixel: kept hands are counted on, what other hands cover is ignored. ids: the largest in a mask of three hands."""
    scene = next(scene for scene in make_scenes(8, seed=0) if len(scene.hands) == 3)
    size = scene.image.shape[:2]
    mask = np.random.default_rng(0).choice(np.array([0, 1, 2, 3, ids], np.uint8), size)
    view = fixed_view(scene, 192, np.array([size[1] / 2 + shift_px, size[0] / 2]))
    source = Source.of(scene)
    source.mask = mask
    batch = make_batch([source], Views.of([view]), 192)
    moved = np.stack([transform_points(view.affine, hand.keypoints_px) for hand in scene.hands])
    visible = ((moved >= 0) & (moved < 192)).all(-1)
    middles = [np.mean(points[seen] if seen.any() else points, 0) for points, seen in zip(moved, visible, strict=True)]
    kept = [bool((middle >= 0).all() and (middle < 192).all()) for middle in middles]
    assert sum(kept) == batch.counts[0]
    assert all(kept) == (shift_px == 0)
    names = {0: 0} | {i + 1: sum(kept[: i + 1]) for i in range(3) if kept[i]}
    expected = np.empty((192, 192), np.uint8)
    back = np.linalg.inv(np.vstack([view.affine, [0, 0, 1]]))
    for i in range(192):
        for j in range(192):
            x, y = np.floor(back[:2] @ [j + 0.5, i + 0.5, 1]).astype(int)
            inside = 0 <= x < size[1] and 0 <= y < size[0]
            expected[i, j] = names.get(int(mask[y, x]), MASK_IGNORE) if inside else MASK_IGNORE
    assert batch.mask is not None
    np.testing.assert_array_equal(batch.mask[0].numpy(), expected)


def test_a_hand_whose_centre_leaves_the_input_is_dropped():
    scene = make_scenes(4, seed=0)[3]
    view = fixed_view(scene, 192, np.array([scene.image.shape[1] + 60.0, 96.0]))
    assert show([scene], [view], 192).counts[0] < len(scene.hands)


def test_flat_hands_of_a_batch_with_an_empty_image():
    scenes = make_scenes(5, seed=0)
    views = [fixed_view(s, 192, np.array([96.0, 96.0])) for s in scenes]
    batch = show(scenes, views, 192)
    assert batch.image_index.tolist() == [i for i, s in enumerate(scenes) for _ in s.hands]
    assert batch.keypoints_px.shape == (sum(len(s.hands) for s in scenes), 21, 2)
    assert batch.mask is None
    empty = show([s for s in scenes if not s.hands], [views[i] for i, s in enumerate(scenes) if not s.hands], 192)
    assert empty.keypoints_px.shape == (0, 21, 2)
    with pytest.raises(ValueError, match=r"HandBatch.side: expected shape \(0,\), got \(3,\)"):
        replace(empty, side=batch.side[:3])


@pytest.fixture
def stage_config(tmp_path, crops):
    write_shards(tmp_path / "data" / "fake", crops)
    base = load_params().train.crop
    data = mixture_of(tmp_path / "data" / "fake")
    return base.model_copy(update={"data": data, "batch_size": 4, "steps": 5, "input_px": 64, "supervision": "2d"})


@pytest.fixture
def box_config(tmp_path):
    """Crops of 96 px that are twice as large as a hand's box, of scenes with two and three hands, otherwise as they are."""
    write_shards(tmp_path / "data" / "scenes", make_scenes(4, seed=0)[2:])
    base = load_params().train.crop
    plain = AugmentConfig(scale=(1.0, 1.0), translate=0.0, rotate_deg=0.0, flip=0.0, color=0.0)
    changes = {"data": mixture_of(tmp_path / "data" / "scenes"), "batch_size": 8, "steps": 8, "input_px": 96, "box_scale": 2.0}
    return base.model_copy(update=changes | {"augment": plain, "supervision": "3d"})


def test_box_crops_show_any_hand_of_an_image_in_the_middle(box_config):
    """Each crop has one hand in the middle whose box takes half of the side; 2D, 3D and K agree for that hand and its neighbours."""
    shown = set()
    for batch in (TrainingBatches(box_config, 3, whole_image=False)[step] for step in range(4)):
        middles = batch.keypoints_px.mean(1)
        sides = (batch.box_px[:, 2:] - batch.box_px[:, :2]).amax(1)
        for image, key in enumerate(batch.keys):
            of_image = batch.image_index == image
            off = (middles[of_image] - 48).norm(dim=1)
            assert off.min() < 1e-3
            assert sides[of_image][off.argmin()] == pytest.approx(48, abs=1e-2)
            shown.add((key, int(batch.side[of_image][off.argmin()]), round(float(batch.K[image, 0, 0]), 1)))
        for i, image in enumerate(batch.image_index.tolist()):
            assert batch.keypoints_m is not None
            projected = project(batch.K[image].double().numpy(), batch.keypoints_m[i].double().numpy())
            np.testing.assert_allclose(projected, batch.keypoints_px[i], atol=0.02)
    assert len(shown) == 5  # every hand of both scenes


def test_an_evaluation_sees_the_crops_of_training(box_config):
    """The same hand, cut out by its box: the same frame to the pixel, its place in the image known."""
    (part,) = box_config.data.values()
    reader = ShardReader(part.path)
    scenes = {reader.key(i): reader.read(i, labels_3d=True) for i in range(2)}
    batch = TrainingBatches(box_config, 3, whole_image=False)[0]
    for image, key in enumerate(batch.keys):
        scene = scenes[key]
        frames = frames_of(scene, scene.hands, 96, model="crop", centers="true", definition="keypoints", box_scale=2.0)
        assert len(frames) == len(scene.hands)
        number = int(np.argmin([np.abs(frame.K - batch.K[image].numpy()).max() for frame in frames]))
        frame, hand = frames[number], scene.hands[number]
        np.testing.assert_allclose(frame.K, batch.K[image], atol=1e-3)
        np.testing.assert_array_equal(frame.image, batch.image[image].permute(1, 2, 0).numpy())
        assert frame.side_in_image_px == pytest.approx(2 * (hand.box_px[2:] - hand.box_px[:2]).max(), rel=1e-6)
        np.testing.assert_allclose(transform_points(frame.affine, hand.keypoints_px).mean(0), [48, 48], atol=1e-3)


def test_a_model_says_how_its_crops_are_cut():
    assert crop_scale({"box_scale": 2}) == 2.0
    assert crop_scale({"box_scale": None}) is None
    assert crop_scale({}) is None
    with pytest.raises(ValueError, match=r"provenance.box_scale: expected a number above 0 or null, got 'wide'"):
        crop_scale({"box_scale": "wide"})


def test_whole_images_are_not_cut_out():
    tree = load_params().model_dump(mode="json")
    tree["train"]["multi"]["box_scale"] = 2.0
    with pytest.raises(ParamsError, match=r"train: multi.box_scale: expected null, since this stage is shown whole images, got 2.0"):
        parse_params(tree, "p.yaml")


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


def test_loader_processes_start_after_opencv_had_threads() -> None:
    """A forked process has OpenCV's pool without its threads: whatever resizes that pool there waits for ever."""
    program = """
import cv2, numpy as np
from pipelines.loading import training_loader
cv2.setNumThreads(4)
cv2.GaussianBlur(np.random.rand(2000, 2000, 3).astype(np.float32), (31, 31), 5)
print(list(training_loader(list(range(9)), 0, 9, 2)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(list(range(9))), done.stderr
