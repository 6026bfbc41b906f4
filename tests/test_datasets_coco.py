"""The COCO-style adapter: sides, order and places of keypoints, masks, splits, and damage named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official_layouts_coco import HEIGHT, WIDTH, coco_scene, write_coco, write_whole_body
from official_layouts_scene import assert_dots_at, assert_on_skin_of

from handnet.skeleton import SIDES
from pipelines.config_datasets import CocoConfig
from pipelines.datasets.coco import Coco
from pipelines.datasets.outlines import run_length_mask
from pipelines.datasets.sample import MASK_IGNORE, DataError


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "hands")


@pytest.fixture
def own(tmp_path):
    return write_coco(tmp_path / "hands", count=2, num_eval=1)


def open_coco(path: Path, split: str = "train", cache: Path | None = None, **changes) -> Coco:
    values = {"annotations": "annotations/train.json", "images": "train"}
    values |= {"eval_annotations": "annotations/eval.json", "eval_images": "eval"}
    values |= {"keypoint_order": None, "pixel_centers": "integer", "seed": 0, "val_fraction": 0.0, **changes}
    config = CocoConfig(path=str(path), max_quarantined=0.0, samples_per_shard=4, **values)
    return Coco(config, split, cache or path.parent / "cache")


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "annotations/train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def assert_as_painted(sample, scene) -> None:
    assert sorted(SIDES[hand.side] for hand in sample.hands) == sorted(scene.points_m)
    for hand in sample.hands:
        np.testing.assert_allclose(hand.keypoints_px, scene.keypoints_px[SIDES[hand.side]], atol=0.01)
        assert hand.visible.all()
        assert hand.keypoints_m is None
        assert_dots_at(sample.image, hand.keypoints_px, hand.visible)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_hands_come_out_as_they_were_painted(shared, split):
    dataset = open_coco(shared, split)
    assert len(dataset) == (6 if split == "train" else 2)
    for index in range(len(dataset)):
        number = index + (0 if split == "train" else 100)
        sample, scene = dataset.sample(index), coco_scene(number)
        assert_as_painted(sample, scene)
        assert (sample.encoded is None) == (number % 2 == 1)  # every second one is a PNG
        assert not sample.K_known
        np.testing.assert_array_equal(sample.K, [[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1]])
        assert sample.mask_source == "published"
        for i, hand in enumerate(sample.hands, 1):
            wanted = scene.masks[SIDES[hand.side]]
            assert ((sample.mask == i) & wanted).sum() > 0.85 * wanted.sum()  # without its rim
            assert ((sample.mask == i) & ~wanted).sum() < 0.01 * wanted.sum()  # outlines fill holes
            assert_on_skin_of(sample.image, sample.mask == i, SIDES[hand.side])
        assert sample.hands[0].source_id == f"coco/{split}/{number:06d}.{'png' if number % 2 else 'jpg'}"


def test_other_orders_and_conventions_of_pixels(tmp_path):
    """Their keypoint i is std21's order[i], so that std21 is theirs at the inverse."""
    order = np.random.default_rng(0).permutation(21)
    folder = write_coco(tmp_path / "hands", count=1, num_eval=1, order=order)
    inverse = np.argsort(order).tolist()
    sample = open_coco(folder, keypoint_order=inverse).sample(0)
    assert_as_painted(sample, coco_scene(0))
    shifted = open_coco(folder, keypoint_order=inverse, pixel_centers="half").sample(0)
    np.testing.assert_allclose(shifted.hands[0].keypoints_px, sample.hands[0].keypoints_px - 0.5, atol=1e-4)
    with pytest.raises(ValueError, match="keypoint_order: expected different numbers"):
        open_coco(folder, keypoint_order=[0] * 21)


def test_persons_of_whole_body_give_their_hands(tmp_path):
    folder = write_whole_body(tmp_path / "persons")
    dataset = open_coco(folder, eval_annotations=None, eval_images=None)
    assert len(dataset) == 3
    for index in range(3):
        sample = dataset.sample(index)
        assert_as_painted(sample, coco_scene(index))
        assert sample.mask is None


def test_what_is_not_labelled_is_not_visible(own):
    def change(content):
        first, second, third = content["annotations"]
        first["keypoints"][:9] = [0, 0, 2, -1, -1, 2, 50.0, 60.0, 0]  # none, none, v says no
        first["keypoints"][9:12] = [-4.0, 10.0, 2]  # labelled, outside of the image
        second["keypoints"] = [0] * 63
        third.update(iscrowd=1)

    edit(own, change)
    dataset = open_coco(own)
    assert len(dataset) == 1  # of the second image no hand is left
    sample = dataset.sample(0)
    (hand,) = sample.hands
    assert hand.visible.tolist() == [False] * 4 + [True] * 17
    labelled = hand.keypoints_px[3:]
    np.testing.assert_allclose(hand.keypoints_px[:3], np.tile(labelled.mean(0), (3, 1)), atol=1e-3)
    assert hand.keypoints_px[3].tolist() == [-3.5, 10.5]
    assert set(np.unique(sample.mask)) == {0, 1, MASK_IGNORE}  # the hand without keypoints is there, but no label
    scene = coco_scene(0)
    assert scene.masks["right"][sample.mask == MASK_IGNORE].mean() > 0.99


def test_masks_need_every_hand(own):
    edit(own, lambda content: content["annotations"][1].update(segmentation=[]))
    dataset = open_coco(own)
    assert dataset.sample(0).mask is None
    assert dataset.sample(1).mask is not None


@pytest.mark.parametrize("field", ["K", "cam_param"])
def test_cameras_of_images_are_taken(own, field):
    value = {"K": [[300, 0, 100], [0, 310, 90], [0, 0, 1]], "cam_param": {"focal": [300, 310], "princpt": [100, 90]}}[field]
    edit(own, lambda content: content["images"][0].update({field: value}))
    sample = open_coco(own).sample(0)
    assert sample.K_known
    assert sample.K.tolist() == [[300, 0, 100], [0, 310, 90], [0, 0, 1]]
    assert sample.hands[0].K.tolist() == sample.K.tolist()


def test_sides_by_field_come_before_the_categories(own):
    edit(own, lambda content: [a.update(hand_side="RIGHT", category_id=9) for a in content["annotations"]])
    assert {hand.side for i in range(2) for hand in open_coco(own).sample(i).hands} == {1}


def test_a_share_of_the_images_is_held_out(shared):
    train, val = (open_coco(shared, split, val_fraction=0.5) for split in ("train", "val"))
    keys = [[dataset.where(i)[0] for i in range(len(dataset))] for dataset in (train, val)]
    assert [len(k) for k in keys] == [3, 3]
    assert len(set(keys[0] + keys[1])) == 6
    assert val.sample(0).key == keys[1][0]
    assert len(open_coco(shared, "eval", val_fraction=0.5)) == 2


def first(content):
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: first(c).update(keypoints=[1, 2, 2] * 20), r"train\.json: annotation 1: keypoints: expected 21 keypoints, got 20"),
        (lambda c: first(c).update(keypoints=[1, 2] * 20), r"annotation 1: keypoints: expected numbers x, y, v for each keypoint"),
        (lambda c: first(c).update(keypoints=None), r"annotation 1: keypoints: expected (numbers|21)"),
        (lambda c: first(c)["keypoints"].__setitem__(0, float("nan")), r"annotation 1: keypoints: expected finite numbers for labelled"),
        (lambda c: first(c)["keypoints"].__setitem__(2, None), r"annotation 1: keypoints: expected a finite v for every keypoint"),
        (lambda c: c["images"][0].update(K=[[9, 0, 1], [0, 9, 1], [0, 0, 0]]), r"image 1000: K: .*last row 0, 0, 1, got"),
        (lambda c: first(c).update(hand_type="both"), r"annotation 1: hand_type: expected 'left' or 'right', got 'both'"),
        (lambda c: first(c).update(category_id=5), r"annotation 1: expected a side in hand_side or hand_type, or in"),
        (lambda c: first(c).update(image_id=77), r"annotation 1: image_id: no image has id 77"),
        (lambda c: first(c).pop("image_id"), r"annotation 1: image_id: expected the id of an image, got none"),
        (lambda c: first(c).update(segmentation={"size": [2, 2], "counts": [4]}), r"annotation 1: segmentation: .*size \[240, 360\]"),
        (lambda c: first(c).update(segmentation=[[1, 2, 3]]), r"annotation 1: segmentation: neither polygons nor run lengths"),
        (lambda c: c["images"][0].update(width=100), r"train/000000\.jpg: expected height, width \(240, 100\), got \(240, 360\)"),
        (lambda c: c["images"][0].pop("height"), r"image 1000: height, width: expected whole numbers"),
        (lambda c: c["images"][0].update(file_name="../../secret.jpg"), r"expected a name within the dataset"),
        (lambda c: c["images"][0].pop("file_name"), r"image 1000: file_name: expected the name of an image file, got None"),
        (lambda c: c["images"][0].update(file_name="lost.jpg"), r"train/lost\.jpg: not found"),
        (lambda c: c["images"][0].update(K=[[1, 2], [3, 4]]), r"image 1000: K: expected a \(3, 3\) camera matrix"),
    ],
)
def test_damage_is_named_and_the_others_are_read(own, change, message):
    edit(own, change)
    dataset = open_coco(own)
    failures = []
    for index in range(len(dataset)):
        try:
            dataset.sample(index)
        except DataError as error:
            failures.append(str(error))
    assert len(failures) == 1
    assert len(dataset) >= 2
    with pytest.raises(DataError, match=message):
        raise DataError(failures[0])


def test_bad_files_are_named(own):
    path = own / "annotations/train.json"
    text = path.read_text()
    for bad in (text[: len(text) // 2], "", "[1, 2]", '{"images": [3]}', '{"images": [], "annotations": []}'):
        path.write_text(bad)
        with pytest.raises(DataError, match=r"train\.json: "):
            open_coco(own)
    path.write_text(text)
    image = own / "train/000000.jpg"
    image.write_bytes(image.read_bytes()[:500])
    with pytest.raises(DataError, match=r"000000\.jpg: not a whole"):
        open_coco(own).sample(0)
    with pytest.raises(DataError, match=r"expected a folder or archive with one of \['annotations/other\.json'\]"):
        open_coco(own, annotations="annotations/other.json")


# --- run lengths ----------------------------------------------------------------------------------------------------


def packed(counts: list[int]) -> str:
    """COCO's text of run lengths, written from its description: differences to two runs before, five bits a character."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr(48 + (bits | (0x20 if more else 0)))
            if not more:
                break
    return text


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_give_the_mask_back(height, width, seed, share):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    column = mask.T.reshape(-1)
    ends = np.append(np.flatnonzero(np.diff(column)) + 1, column.size)
    counts = np.diff(ends, prepend=0).tolist()
    counts = [0, *counts] if column[0] else counts  # the first run is of zeros
    np.testing.assert_array_equal(run_length_mask(counts, mask.shape), mask)
    np.testing.assert_array_equal(run_length_mask(packed(counts), mask.shape), mask)


@pytest.mark.parametrize("counts", [[5, 3], [12, -3, 3], "no runs", "5", [1.5, 10.5], "\x00", [2**70]])
def test_wrong_run_lengths_are_refused(counts):
    with pytest.raises(ValueError, match=r"expected|ends"):
        run_length_mask(counts, (3, 4))
