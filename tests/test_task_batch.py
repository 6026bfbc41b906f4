"""Batches: what becomes of images that are not labelled alike, masks after a view, and what HandBatch refuses."""

import copy
import pickle
from dataclasses import fields, replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from fake_batches import batch_of
from fake_hands import make_crops, make_scenes, mixture_of, write_shards

from handnet.batch import MASK_IGNORE, HandBatch
from pipelines.augment import fixed_view
from pipelines.config import load_params
from pipelines.loading import show
from pipelines.training.batches import TrainingBatches
from pipelines.training.stage import require_3d_labels


@pytest.fixture(scope="module")
def batch() -> HandBatch:
    return batch_of(make_scenes(4, seed=0)[1:], 128, whole_image=True)


def shown(samples, input_px=192, center=(96.0, 96.0)):
    return show(samples, [fixed_view(s, input_px, np.array(center)) for s in samples], input_px)


def test_labels_of_some_hands_are_passed_on_and_the_others_marked():
    scenes = make_scenes(4, seed=0)
    two = [replace(scenes[2].hands[0], keypoints_m=None, vertices_m=None), replace(scenes[2].hands[1], vertices_m=None)]
    batch = shown([scenes[1], replace(scenes[2], hands=tuple(two))])
    assert batch.counts == (1, 2)
    assert batch.has_keypoints_m.tolist() == [True, False, True]
    assert batch.has_vertices_m.tolist() == [True, False, False]
    np.testing.assert_array_equal(batch.keypoints_m[2], scenes[2].hands[1].keypoints_m)
    np.testing.assert_array_equal(batch.vertices_m[0], scenes[1].hands[0].vertices_m)
    assert (batch.vertices_m[1:] == 0).all()
    assert batch.mask is None
    assert not batch.has_mask.any()


def test_a_batch_without_any_hand_has_the_right_shapes():
    batch = shown(make_scenes(1, seed=0))
    assert batch.counts == (0,)
    assert batch.box_px.shape == (0, 4)
    assert batch.keypoints_m is None
    assert batch.has_keypoints_m.shape == batch.has_vertices_m.shape == (0,)


def test_pixels_of_a_hand_that_left_the_input_are_neither_hand_nor_background():
    """Three hands side by side; the view moves everything 52 px to the left, the first hand's keypoints out of the input."""
    scene = make_scenes(4, seed=0)[3]
    boxes = np.array([hand.box_px for hand in scene.hands]) + [-10, -10, 10, 10]  # a hand's pixels reach beyond its keypoints
    assert boxes[0, 2] - 10 < 52 < boxes[0, 2] - 5
    mask = np.zeros((192, 192), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes.astype(int)):
        mask[y0:y1, x0:x1] = i + 1
    batch = shown([replace(scene, mask=mask)], center=(96.0 + 52, 96.0))
    assert batch.counts == (2,)
    middles = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int)
    assert [batch.mask[0, y, x - 52].item() for x, y in middles[1:]] == [1, 2]
    assert batch.mask[0, middles[0, 1], 2].item() == MASK_IGNORE
    assert batch.mask[0, 5, 5].item() == 0
    assert (batch.mask[0, :, -51:] == MASK_IGNORE).all()  # beyond the image nothing is labelled
    np.testing.assert_allclose(batch.box_px[1].numpy(), (scene.hands[2].box_px - [52, 0, 52, 0]).clip(0, 192), atol=1e-3)


def test_weak_supervision_delivers_no_3d_label(tmp_path):
    write_shards(tmp_path / "data" / "fake", make_crops(4, seed=0))
    data = mixture_of(tmp_path / "data/fake")
    config = load_params().train.crop.model_copy(update={"data": data, "batch_size": 4, "input_px": 64, "supervision": "2d"})
    weak = TrainingBatches(config, 0, whole_image=False)[0]
    assert weak.keypoints_m is None
    assert weak.vertices_m is None
    assert not weak.has_keypoints_m.any()
    assert not weak.has_vertices_m.any()
    full = TrainingBatches(config.model_copy(update={"supervision": "3d"}), 0, whole_image=False)[0]
    assert full.has_keypoints_m.all()
    assert full.has_vertices_m.all()


def test_data_without_any_3d_label_is_refused_for_3d_supervision(tmp_path):
    samples = make_crops(3, seed=0)
    no_vertices = [replace(s, hands=(replace(s.hands[0], vertices_m=None),)) for s in samples]
    for name, written in (("none", [replace(s, hands=(s.hands[0].without_3d(),)) for s in samples]), ("joints", no_vertices)):
        write_shards(tmp_path / "data" / name, written)
    stage = load_params().train.crop

    def check(data, **weights):
        loss = stage.loss.model_copy(update=weights)
        config = stage.model_copy(update={"data": mixture_of(tmp_path / "data" / data), "supervision": "3d", "loss": loss})
        require_3d_labels(TrainingBatches(config, 0, whole_image=False).sequence, config)

    with pytest.raises(ValueError, match="none: supervision '3d' with loss joints_3d expects hands with keypoints_m, got none in 3"):
        check("none", joints_3d=1.0)
    with pytest.raises(ValueError, match=r"joints: .* with loss vertices_3d expects hands with keypoints_m and vertices_m, got none"):
        check("joints", joints_3d=1.0, vertices_3d=1.0)
    check("joints", joints_3d=1.0)
    check("none")  # no 3D term, no label needed


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("image", lambda v: v[:, :2], r"image: expected shape \(3, 3, 128, 128\), got \(3, 2, 128, 128\)"),
        ("image", lambda v: (v * 255).to(torch.int32), r"image: expected floating point numbers, got torch.int32"),
        ("image", lambda v: v[0], r"image: expected shape \(3, 3, H, W\), got \(3, 128, 128\)"),
        ("K", lambda v: v[:, :2], r"K: expected shape \(3, 3, 3\), got \(3, 2, 3\)"),
        ("mask", lambda v: v[:, :64], r"mask: expected shape \(3, 128, 128\), got \(3, 64, 128\)"),
        ("mask", lambda v: v.long(), r"mask: expected torch.uint8, got torch.int64"),
        ("has_mask", lambda v: v.float(), r"has_mask: expected torch.bool, got torch.float32"),
        ("has_mask", lambda v: None, r"has_mask: expected a tensor, got NoneType"),
        ("counts", lambda v: (1, 2, 2), r"image_index: expected shape \(5,\), got \(6,\)"),
        ("counts", lambda v: (1, 3, 2), r"image_index: expected the hands image by image, \[1, 3, 2\] of them, got \[0, 1, 1, 2, 2, 2\]"),
        ("image_index", lambda v: v.int(), r"image_index: expected torch.int64, got torch.int32"),
        ("image_index", lambda v: v.flip(0), r"image_index: expected the hands image by image"),
        ("side", lambda v: v[:4], r"side: expected shape \(6,\), got \(4,\)"),
        ("side", lambda v: v + 1, r"side: expected 0 \(left\) or 1 \(right\), got"),
        ("keypoints_px", lambda v: v[:, :16], r"keypoints_px: expected shape \(6, 21, 2\), got \(6, 16, 2\)"),
        ("keypoints_px", lambda v: torch.full_like(v, torch.nan), r"keypoints_px: expected finite numbers, got 252 NaN or infinite"),
        ("visible", lambda v: v * 2, r"visible: expected values in \[0, 1\], got \d.0 to 2.0"),
        ("box_px", lambda v: v[:, :2], r"box_px: expected shape \(6, 4\), got \(6, 2\)"),
        ("window_jitter", lambda v: v / 0, r"window_jitter: expected finite numbers, got 6 NaN or infinite"),
        ("keypoints_m", lambda v: v[..., :2], r"keypoints_m: expected shape \(6, 21, 3\), got \(6, 21, 2\)"),
        ("vertices_m", lambda v: v[:, :777], r"vertices_m: expected shape \(6, 778, 3\), got \(6, 777, 3\)"),
        ("has_vertices_m", lambda v: v[:5], r"has_vertices_m: expected shape \(6,\), got \(5,\)"),
    ],
)
def test_wrong_batches_are_refused(batch, field, change, message):
    with pytest.raises(ValueError, match=rf"HandBatch\.{message}"):
        replace(batch, **{field: change(getattr(batch, field))})


def test_8_bit_images_become_floats_on_the_device():
    loaded = shown(make_scenes(4, seed=0)[1:])
    ready = loaded.to("cpu")
    assert loaded.image.dtype == torch.uint8
    assert ready.image.dtype == torch.float32
    assert ready.image.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(ready.image.numpy(), loaded.image.numpy().astype(np.float32) / np.float32(255))
    assert ready.to("cpu").image is ready.image


def test_a_batch_reaches_another_process_as_it_is():
    scenes = make_scenes(4, seed=0)[1:]
    loaded = shown([replace(scene, mask=np.ones(scene.image.shape[:2], np.uint8)) for scene in scenes])
    there: HandBatch = pickle.loads(bytes(ForkingPickler.dumps(loaded)))
    for field in fields(HandBatch):
        one, other = getattr(loaded, field.name), getattr(there, field.name)
        if isinstance(one, torch.Tensor):
            assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride()), field.name
            assert torch.equal(one, other), field.name
        else:
            assert one == other, field.name


def test_an_image_with_one_nan_is_found(batch):
    image = batch.image.clone()
    image[1, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="image: expected finite numbers, got 1 NaN or infinite"):
        replace(batch, image=image)
    replace(batch, keypoints_m=torch.full_like(batch.keypoints_m, 1e38))  # large, but numbers


def test_moving_keeps_everything(batch):
    moved = batch.to("cpu")
    assert moved is not batch
    for name, value in vars(batch).items():
        assert (getattr(moved, name) == value).all() if isinstance(value, torch.Tensor) else getattr(moved, name) == value
    meta = batch.to("meta")  # values are out of reach there, as on another device
    assert meta.image.device.type == "meta"
    assert meta.counts == batch.counts
    assert replace(meta, keys=()).image.shape == batch.image.shape
    assert copy.deepcopy(batch).counts == batch.counts
