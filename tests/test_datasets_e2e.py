"""From an owner's archive to composed scenes by `dvc repro`: RHD's training images and a COCO-style evaluation set."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from official_layouts import tarred, zipped
from official_layouts_coco import write_coco
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
