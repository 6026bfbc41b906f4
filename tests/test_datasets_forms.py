"""RHD, InterHand2.6M, EgoHands and COCO-style sets in every form that is accepted, and what `handnet data check` says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_layouts import FORMS, in_form
from official_layouts_coco import write_coco
from official_layouts_egohands import write_egohands
from official_layouts_interhand import json_file, write_interhand, write_json
from official_layouts_rhd import write_rhd

from pipelines import ingest as stage
from pipelines.config import IngestConfig
from pipelines.datasets.registry import ADAPTERS
from pipelines.datasets.sample import DataError
from pipelines.inspection.sheet import write_sheet
from pipelines.inspection.survey import Survey, find_check, survey
from pipelines.inspection.text import describe
from pipelines.shards import ShardReader

WRITERS = {"rhd": write_rhd, "interhand": write_interhand, "egohands": write_egohands, "coco": write_coco}
TOPS = {"rhd": "RHD_published_v2", "interhand": "InterHand2.6M", "egohands": "egohands_data", "coco": "my hands"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("layouts")
    return {name: write(base / name / TOPS[name]) for name, write in WRITERS.items()}


def look(name: str, path: Path, cache: Path) -> Survey:
    return survey(name, str(path), cache, num_samples=4, num_cells=4)


def contents(name: str, path: Path, cache: Path) -> tuple[list[tuple[str, str]], Any]:
    """Keys and names of the first split that the dataset's own check would read, and its second sample."""
    adapter, check = find_check(name)
    config = check.config(str(path))
    dataset = adapter.open(config, adapter.splits(config)[0], cache)
    return [dataset.where(i) for i in range(len(dataset))], dataset.sample(1)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("form", FORMS[1:])
def test_every_form_gives_the_same_samples(folders, tmp_path, name, form):
    (tmp_path / TOPS[name]).symlink_to(folders[name])
    names, sample = contents(name, folders[name], tmp_path / "a")
    others, other = contents(name, in_form(tmp_path / TOPS[name], form), tmp_path / "b")
    assert names == others
    np.testing.assert_array_equal(sample.image, other.image)
    np.testing.assert_array_equal(sample.mask, other.mask)
    assert sample.encoded == other.encoded
    for hand, same in zip(sample.hands, other.hands, strict=True):
        np.testing.assert_array_equal(hand.keypoints_px, same.keypoints_px)
        assert hand.source_id == same.source_id


@pytest.mark.parametrize("name", WRITERS)
def test_ingest_writes_every_split(folders, tmp_path, name):
    adapter, check = find_check(name)
    config = check.config(str(folders[name])).model_copy(update={"samples_per_shard": 3})
    made = stage.ingest(name, IngestConfig(**{name: config}), data=tmp_path, num_workers=1)
    assert [folder.name for folder in made] == list(adapter.splits(config))
    for folder in made:
        reader, dataset = ShardReader(folder), adapter.open(config, folder.name, tmp_path / "cache")
        assert len(reader) == len(dataset)
        assert reader.manifest.num_quarantined == 0
        stored, sample = reader.read(1, labels_3d=True), dataset.sample(1)
        assert stored.key == sample.key
        assert stored.K_known == sample.K_known
        np.testing.assert_array_equal(stored.mask, sample.mask)
        for hand, same in zip(stored.hands, sample.hands, strict=True):
            np.testing.assert_array_equal(hand.keypoints_px, same.keypoints_px)
            np.testing.assert_array_equal(hand.visible, same.visible)
            assert hand.side == same.side
        if sample.encoded is not None:
            np.testing.assert_array_equal(stored.image, sample.image)


@pytest.mark.parametrize("name", WRITERS)
def test_the_check_accepts_a_partial_copy_and_draws_it(folders, tmp_path, name):
    found = look(name, folders[name], tmp_path)
    assert found.problems == []
    assert found.partial == (name != "coco")
    text = "\n".join(describe(found))
    assert "can be used" in text or name == "coco"
    assert len(found.cells) >= 4
    write_sheet(tmp_path / "sheet.jpg", found.cells)
    assert (tmp_path / "sheet.jpg").stat().st_size > 5000
    for split in found.splits:
        evidence = split.evidence
        assert split.damaged == []
        if name in ("rhd", "interhand"):
            assert evidence.projection.count > 0
            assert evidence.projection.max_px < 0.05
        if name == "rhd":
            assert evidence.published.max_px < 0.05
        if name in ("rhd", "coco"):
            assert evidence.on_mask.fraction == 1.0
        if name == "interhand":
            assert evidence.in_box.fraction == 1.0


def parts(found: Survey) -> dict[str, tuple[int, int | None]]:
    return {part.name: (part.found, part.published) for part in found.parts}


def test_counts_stand_beside_the_published_ones(folders, tmp_path):
    rhd = parts(look("rhd", folders["rhd"], tmp_path))
    assert rhd["training images"] == (6, 41_258)
    assert rhd["evaluation masks"] == (2, 2_728)
    interhand = parts(look("interhand", folders["interhand"], tmp_path))
    assert interhand["train images"] == (8, 1_361_062)
    assert interhand["test images"] == (0, 849_160)
    assert parts(look("egohands", folders["egohands"], tmp_path)) == {
        "videos": (2, 48),
        "labelled frames": (4, 4_800),
        "metadata.mat": (1, 1),
    }
    coco = parts(look("coco", folders["coco"], tmp_path))
    assert coco["annotations/train.json: annotations"] == (10, None)
    assert coco["images in eval"] == (2, 2)


def test_labels_of_another_picture_are_found_out(tmp_path):
    """Cameras exchanged between captures, as a mixed-up copy has them: the boxes tell."""
    folder = write_interhand(tmp_path / "InterHand2.6M")
    content = json.loads(json_file(folder, "camera").read_text())
    for field in content["12"].values():
        field["400262"], field["410209"] = field["410209"], field["400262"]
    write_json(folder, "train", "camera", content)
    found = look("interhand", folder, tmp_path / "cache")
    assert any("in their published box" in problem or "damaged" in problem for problem in found.problems)


def test_a_set_that_does_not_say_which_json_it_is(folders, tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_bytes((folders["coco"] / "annotations/train.json").read_bytes())
    (found,) = look("coco", tmp_path, tmp_path / "cache").problems
    assert "expected one JSON with images and annotations" in found
    with pytest.raises(DataError, match=r"found none"):
        ADAPTERS["rhd"].open(find_check("rhd")[1].config(str(tmp_path)), "train", tmp_path / "cache")
