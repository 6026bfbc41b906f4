"""From an owner's archive to composed scenes by `dvc repro`: RHD, a COCO-style set, InterHand2.6M; EgoHands' frames to evaluate on."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from official_layouts import in_pieces, tarred, zipped
from official_layouts_coco import write_coco
from official_layouts_egohands import FRAME_NUMBERS, VIDEOS, write_egohands
from official_layouts_interhand import write_interhand
from official_layouts_rhd import write_rhd
from painted_hands import DOTS
from repositories import Repository, clone, stages_run
from ruamel.yaml import YAML

from pipelines.datasets.sample import HandSample
from pipelines.shards import ShardReader


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository on the tiny preset whose scenes come from the two datasets, after `dvc repro` of its scenes."""
    base = tmp_path_factory.mktemp("datasets")
    rhd = zipped(write_rhd(base / "RHD_published_v2", num_train=7, num_eval=2), base / "RHD_v1-1.zip", "RHD_published_v2/")
    damaged = base / "hands" / "train" / "000001.png"
    write_coco(base / "hands", count=3, num_eval=5)
    damaged.write_bytes(damaged.read_bytes()[:900])
    coco = tarred(base / "hands", base / "hands.tar.gz", "hands/")
    repository = clone(base / "clone")
    repository.run(sys.executable, "-m", "pipelines.preset", "tiny", "--force")
    yaml = YAML()
    params = yaml.load(repository.folder / "params.yaml")
    shared = {"samples_per_shard": 4, "seed": 0, "val_fraction": 0.0}
    params["ingest"]["rhd"] = {"path": str(rhd), "min_keypoints": 6, "max_quarantined": 0.0, **shared}
    params["ingest"]["coco"] = {
        "path": str(coco),
        "annotations": "annotations/train.json",
        "images": "train",
        "eval_annotations": "annotations/eval.json",
        "eval_images": "eval",
        "keypoint_order": None,
        "pixel_centers": "integer",
        "max_quarantined": 0.34,
        **shared,
    }
    for key, source in (("train", "rhd"), ("eval", "coco")):
        params["compose"][key].update(
            source=source, canvas_px=320, focal_px=320.0, hand_px=[120, 200], num_scenes=6, empty_fraction=0.0, color_match=0.0
        )
    yaml.dump(params, repository.folder / "params.yaml")
    result = repository.dvc("repro", "compose@train", "compose@eval")
    assert sorted(stages_run(result.stdout)) == ["compose@eval", "compose@train", "ingest@coco", "ingest@rhd"]
    return repository


def share_on_their_dots(sample: HandSample) -> list[bool]:
    found = []
    for hand in sample.hands:
        for k in np.flatnonzero(hand.visible):
            x, y = np.floor(hand.keypoints_px[k]).astype(int)
            around = sample.image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].reshape(-1, 3).astype(int)
            nearest = np.abs(DOTS.astype(int) - np.median(around, axis=0)).sum(1).argmin()
            found.append(int(nearest) == k)
    return found


SHARDS = [("ingest/rhd/train", 7), ("ingest/rhd/eval", 2), ("ingest/coco/train", 2), ("ingest/coco/eval", 5)]


@pytest.mark.parametrize(("place", "num_samples"), SHARDS)
def test_shards_hold_the_published_hands(composed, place, num_samples):
    reader = ShardReader(composed.folder / "data" / place)
    assert len(reader) == num_samples
    assert reader.manifest.num_quarantined == (place == "ingest/coco/train")
    for index in range(len(reader)):
        sample = reader.read(index, labels_3d=True)
        assert np.mean(share_on_their_dots(sample)) > 0.97
        assert all((hand.keypoints_m is not None) == ("rhd" in place) for hand in sample.hands)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_scenes_hold_hands_of_both_sides(composed, split):
    reader = ShardReader(composed.folder / "data" / "scenes" / split)
    samples = [reader.read(index, labels_3d=True) for index in range(len(reader))]
    assert len(samples) == 6
    assert {hand.side for sample in samples for hand in sample.hands} == {0, 1}
    found = [on_dot for sample in samples for on_dot in share_on_their_dots(sample)]
    assert len(found) > 100
    assert np.mean(found) > 0.95
    prefix = "rhd/training/" if split == "train" else "coco/eval/"
    assert all(hand.source_id.startswith(prefix) for sample in samples for hand in sample.hands)


def test_the_same_again_is_up_to_date(composed):
    assert "up to date" in composed.dvc("status", "compose@train", "compose@eval").stdout


@pytest.fixture(scope="module")
def composed_again(composed: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A copy of that repository whose scenes are now made of InterHand2.6M, in pieces of a tar, with EgoHands as a zip beside it."""
    base = tmp_path_factory.mktemp("more")
    interhand = write_interhand(write_interhand(base / "InterHand2.6M"), "test", first_id=100)
    pieces = in_pieces(tarred(interhand, base / "InterHand2.6M.tar", "InterHand2.6M/"), base / "pieces")
    egohands = zipped(write_egohands(base / "egohands_data"), base / "egohands_data.zip", "egohands_data/")
    shutil.copytree(composed.folder, base / "clone", symlinks=True)
    repository = Repository(base / "clone")
    yaml = YAML()
    params = yaml.load(repository.folder / "params.yaml")
    shared = {"max_quarantined": 0.0, "samples_per_shard": 4}
    rates = {"fps": 5, "release_fps": 5, "seed": 0, "train_subset": 6}
    params["ingest"]["interhand"] = {"path": str(pieces), "splits": ["train", "eval"], "mano_model": None, **rates, **shared}
    params["ingest"]["egohands"] = {"path": str(egohands), **shared}
    for key in ("train", "eval"):
        # a canvas of the images' size: reduced, the dots would mix
        params["compose"][key].update(source="interhand", canvas_px=512, focal_px=512.0, hand_px=[200, 320])
    yaml.dump(params, repository.folder / "params.yaml")
    result = repository.dvc("repro", "compose@train", "compose@eval", "ingest@egohands")
    assert sorted(stages_run(result.stdout)) == ["compose@eval", "compose@train", "ingest@egohands", "ingest@interhand"]
    return repository


@pytest.mark.parametrize(("split", "published"), [("train", "train"), ("eval", "test")])
def test_scenes_of_images_with_two_hands(composed_again: Repository, split: str, published: str) -> None:
    data = composed_again.folder / "data"
    assert len(ShardReader(data / "ingest/interhand" / split)) == (6 if split == "train" else 8)
    reader = ShardReader(data / "scenes" / split)
    samples = [reader.read(index, labels_3d=True) for index in range(len(reader))]
    hands = [hand for sample in samples for hand in sample.hands]
    assert {hand.side for hand in hands} == {0, 1}
    assert all(hand.source_id.startswith(f"interhand/{published}/") for hand in hands)
    # masks are capsules around the bones, which keep the dots of most joints
    found = [on_dot for sample in samples for on_dot in share_on_their_dots(sample)]
    assert len(found) > 100
    assert np.mean(found) > 0.9


def test_frames_that_have_masks_alone_come_out_of_a_zip(composed_again: Repository) -> None:
    reader = ShardReader(composed_again.folder / "data/ingest/egohands/eval")
    assert len(reader) == len(VIDEOS) * len(FRAME_NUMBERS)
    for index in range(len(reader)):
        sample = reader.read(index, labels_3d=False)
        assert sample.mask is not None
        assert not any(hand.visible.any() for hand in sample.hands)
        assert set(np.unique(sample.mask)) == set(range(len(sample.hands) + 1))
