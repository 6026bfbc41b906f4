"""The RHD adapter on a tiny dataset in the official layout: sides, order, units, masks, and damage named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from fake_samples import project
from official_layouts_rhd import annotation_file, read_annotations, rhd_scene, write_annotations, write_rhd
from official_layouts_scene import assert_dots_at, assert_on_skin_of

from handnet.skeleton import SIDES
from pipelines.config_datasets import RhdConfig
from pipelines.datasets.rhd import Rhd
from pipelines.datasets.sample import MASK_IGNORE, DataError


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return write_rhd(tmp_path_factory.mktemp("rhd") / "RHD_published_v2")


@pytest.fixture
def own(tmp_path):
    return write_rhd(tmp_path / "RHD_published_v2", num_train=2, num_eval=1)


def open_rhd(path: Path, split: str = "train", cache: Path | None = None, **changes) -> Rhd:
    values = {"val_fraction": 0.0, "min_keypoints": 6, "max_quarantined": 0.0, "seed": 0, "samples_per_shard": 4, **changes}
    return Rhd(RhdConfig(path=str(path), **values), split, cache or path.parent / "cache")


@pytest.mark.parametrize("split", ["train", "eval"])
def test_both_hands_come_out_as_they_were_painted(shared, split):
    dataset = open_rhd(shared, split)
    assert len(dataset) == (6 if split == "train" else 2)
    for index in range(len(dataset)):
        scene, sample = rhd_scene(index + (0 if split == "train" else 100)), dataset.sample(index)
        assert (sample.key, sample.mask_source, sample.K_known, sample.encoded) == (f"{index:05d}", "published", True, None)
        np.testing.assert_allclose(sample.K, scene.K, rtol=1e-6)
        assert {SIDES[hand.side] for hand in sample.hands} == set(scene.points_m)
        areas = []
        for number, hand in enumerate(sample.hands):
            side = SIDES[hand.side]
            assert_dots_at(sample.image, hand.keypoints_px, hand.visible)
            assert hand.visible.all()
            np.testing.assert_allclose(hand.keypoints_m, scene.points_m[side], atol=1e-5)
            np.testing.assert_allclose(project(hand.K, hand.keypoints_m), hand.keypoints_px, atol=0.05)
            np.testing.assert_array_equal(sample.mask == number + 1, scene.masks[side])
            assert_on_skin_of(sample.image, sample.mask == number + 1, side)
            assert (hand.box_px[:2] <= hand.keypoints_px.min(0)).all()
            assert (hand.box_px[2:] >= hand.keypoints_px.max(0)).all()
            assert hand.source_id == f"rhd/{dataset.part}/{index:05d}"
            areas.append((sample.mask == number + 1).sum())
        assert areas == sorted(areas, reverse=True)
        assert sample.mask[:40, :40].max() == 0  # the person is no hand


def test_a_hand_that_is_hardly_seen_is_no_label_but_no_background_either(own):
    annotations = read_annotations(own)
    annotations[0]["uv_vis"][5:21, 2] = 0  # five keypoints of the left hand are left
    annotations[0]["uv_vis"][25, :2] = (-3, 10)  # one of the right hand is visible, but outside the image
    write_annotations(own, "training", annotations)
    sample = open_rhd(own).sample(0)
    (hand,) = sample.hands
    assert hand.side == 1
    assert hand.visible.tolist() == [k != 1 for k in range(21)]  # 25 is the fifth of the right hand, tip first: the thumb's base
    scene = rhd_scene(0)
    assert set(np.unique(sample.mask)) == {0, 1, MASK_IGNORE}
    assert (sample.mask[scene.masks["left"]] == MASK_IGNORE).all()
    assert len(open_rhd(own, min_keypoints=5).sample(0).hands) == 2


def test_a_share_of_the_training_images_is_held_out(shared):
    train, val = (open_rhd(shared, split, val_fraction=0.34) for split in ("train", "val"))
    keys = [[dataset.where(i)[0] for i in range(len(dataset))] for dataset in (train, val)]
    assert [len(k) for k in keys] == [4, 2]
    assert sorted(keys[0] + keys[1]) == [f"{i:05d}" for i in range(6)]
    assert val.sample(0).key == keys[1][0]
    assert len(open_rhd(shared, "eval", val_fraction=0.34)) == 2


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, 1: None}, r"anno_training\.pickle: entry 1: K: expected finite numbers of shape \(3, 3\), got 9 missing"),
        (lambda a: {**a, 1: {**a[1], "xyz": a[1]["xyz"][:21]}}, r"entry 1: xyz: expected .* of shape \(42, 3\), got 126 missing"),
        (lambda a: {**a, 1: {**a[1], "uv_vis": a[1]["uv_vis"] * np.nan}}, r"entry 1: uv_vis: expected finite numbers .* got 126 missing"),
        (lambda a: {**a, 1: {**a[1], "K": a[1]["K"] * 0}}, r"entry 1: K: expected a camera matrix with focal lengths > 0 and last row"),
        (lambda a: {**a, 1: {k: -v if k == "xyz" else v for k, v in a[1].items()}}, r"rhd/training/00001: xyz: expected depths > 0 m"),
    ],
)
def test_a_bad_entry_is_named_and_the_others_are_read(own, change, message):
    write_annotations(own, "training", change(read_annotations(own)))
    dataset = open_rhd(own)
    assert len(dataset.sample(0).hands) == 2
    with pytest.raises(DataError, match=message):
        dataset.sample(1)


def test_bad_files_are_named(own, capsys):
    data = annotation_file(own).read_bytes()
    for bad in (data[: len(data) // 2], b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({0: Evil()})):
        annotation_file(own).write_bytes(bad)
        with pytest.raises(DataError, match=r"anno_training\.pickle: expected"):
            open_rhd(own)
    assert "this must never run" not in capsys.readouterr().out
    annotation_file(own).write_bytes(data)
    color, mask = own / "training/color/00001.png", own / "training/mask/00001.png"
    color.write_bytes(color.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"color/00001\.png: not a whole"):
        open_rhd(own).sample(1)
    color.write_bytes((own / "training/color/00000.png").read_bytes())
    mask.write_bytes((own / "training/color/00000.png").read_bytes())
    with pytest.raises(DataError, match=r"mask/00001\.png: expected part ids 0\.\.33"):
        open_rhd(own).sample(1)
    color.unlink()
    with pytest.raises(DataError, match=r"color/00001\.png: not found"):
        open_rhd(own).sample(1)
