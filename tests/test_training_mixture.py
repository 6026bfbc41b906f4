"""Which sample stands at which place: weights, epochs, streams, label shares, and the files of a mixture that DVC sees."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_hands import make_crops, make_scenes, mixture_of, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import change_params, copy_project, curve, describe_mixtures, make_project

from handnet.batch import HandBatch
from pipelines import mixture
from pipelines.config import load_params
from pipelines.config_mixture import BLOCK, RemoteConfig, check_mixture, shares
from pipelines.mixtures.description import MIXTURES, read_mixture
from pipelines.shards import ShardError
from pipelines.training.batches import TrainingBatches
from pipelines.training.sequence import EpochOrder, ImageSequence, StreamOrder
from pipelines.training.stage import train_stage

ONE_STREAM = RemoteConfig(streams=1, shuffle_shards=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Three folders of single hands: with every 3D label, with those of some hands, and with none."""
    root = tmp_path_factory.mktemp("mixture")
    crops = make_crops(9, seed=0)
    none = [replace(sample, hands=(sample.hands[0].without_3d(),)) for sample in crops]
    some = [sample if i % 2 else bare for i, (sample, bare) in enumerate(zip(crops, none, strict=True))]

    return [write_shards(root / name, samples) for name, samples in (("all", crops), ("some", some), ("none", none[:5]))]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_shares_are_the_nearest_whole_numbers(weights):
    found = shares({f"p{i}": weight for i, weight in enumerate(weights)})
    assert sum(found.values()) == BLOCK
    for i, weight in enumerate(weights):
        assert abs(found[f"p{i}"] - weight / sum(weights) * BLOCK) < 1


def test_a_weight_of_nothing_is_refused():
    parts = mixture_of("data/a", "data/b")
    parts["part1"] = parts["part1"].model_copy(update={"weight": 1e-9})
    with pytest.raises(ValueError, match=r"data\.part1\.weight: expected at least 1/10000 of the sum of all weights, got 1e-09"):
        check_mixture(parts)


def test_every_block_has_each_part_s_share(folders):
    """And each part goes through its samples epoch by epoch, whatever lies between."""
    parts = mixture_of(*folders[:2], folders[2])
    for name, weight in (("part0", 6.0), ("part1", 3.0), ("part2", 1.0)):
        parts[name] = parts[name].model_copy(update={"weight": weight})
    sequence = ImageSequence(parts, ONE_STREAM, seed=3)
    draws = [sequence.draw(position) for position in range(BLOCK + 2000)]
    for name, share in (("part0", 0.6), ("part1", 0.3), ("part2", 0.1)):
        own = [draw for draw in draws if draw.part == name]
        assert sum(draw.part == name for draw in draws[:BLOCK]) == share * BLOCK
        assert abs(sum(draw.part == name for draw in draws[:200]) - 200 * share) < 40
        num = len(own[0].reader)
        for epoch in range(len(own) // num):
            assert sorted(draw.index for draw in own[epoch * num : (epoch + 1) * num]) == list(range(num))
    again = ImageSequence(dict(reversed(parts.items())), ONE_STREAM, seed=3)
    for position in (BLOCK + 5, 3, 11_111, 0):  # a function of the place, not of what was asked for before, nor of the file's order
        assert (again.draw(position).part, again.draw(position).index) == (draws[position].part, draws[position].index)
    assert [sequence.draw(p).index for p in range(50)] != [ImageSequence(parts, ONE_STREAM, seed=4).draw(p).index for p in range(50)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_streams_share_the_shards_of_an_epoch(sizes, num_streams, window, seed):
    """Each sample at most once in an epoch, from shards that no other stream has, `window` of them at a time."""
    if len(sizes) < num_streams:
        return
    order = StreamOrder(sizes, num_streams, window, seed, 0)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    owners = {}
    for stream in range(num_streams):
        for epoch in (0, 1):
            turns = range(epoch * order.length, (epoch + 1) * order.length)
            indices = [order.index(stream, turn) for turn in turns]
            assert len(set(indices)) == order.length
            for turn, index in zip(turns, indices, strict=True):
                shard = int(np.searchsorted(starts, index, side="right")) - 1
                assert owners.setdefault((epoch, shard), stream) == stream
                assert shard in order.window_at(stream, turn)[1][: min(window, order.per_stream)]
    if num_streams == 1:
        assert sorted(order.index(0, turn) for turn in range(order.length)) == list(range(sum(sizes)))


def test_all_samples_are_seen_with_streams_over_the_epochs():
    """What an epoch leaves over is drawn anew: nothing is left out for good."""
    order = StreamOrder([5, 5, 5, 5, 2], 2, 2, 0, 0)
    assert order.length == 7
    seen = np.bincount([order.index(s, t) for s in (0, 1) for t in range(400 * order.length)], minlength=22)
    assert seen.min() > 0.5 * seen.mean()


def test_streams_take_turns_in_what_is_here():
    order = EpochOrder(7, 3, 0, 0)
    assert sorted(order.index(stream, turn) for turn in range(7) for stream in range(3)) == sorted(list(range(7)) * 3)


def config_of(parts, **changes):
    stage = load_params().train.crop
    return stage.model_copy(update={"data": parts, "batch_size": 8, "steps": 6, "input_px": 32, **changes})


def test_ranks_share_a_mixed_batch_exactly(folders):
    config = config_of(mixture_of(*folders))
    whole = TrainingBatches(config, 5, whole_image=False)
    for step in (0, 4):
        batch = whole[step]
        parts = [TrainingBatches(config, 5, whole_image=False, rank=rank, world_size=4)[step] for rank in range(4)]
        images = {key: image for part in parts for key, image in zip(part.keys, part.image, strict=True)}
        assert sorted(images) == sorted(set(batch.keys))
        assert all((images[key] == image).all() for key, image in zip(batch.keys, batch.image, strict=True) if batch.keys.count(key) == 1)
        assert {key.split("/")[0] for key in batch.keys} <= {"part0", "part1", "part2"}


def test_3d_labels_of_some_hands_train(folders):
    """Which hands have 3D labels is a property of each sample; a part's share says how many of them are used."""
    config = config_of(mixture_of(*folders), supervision="3d")
    batches: list[HandBatch] = [TrainingBatches(config, 1, whole_image=False)[step] for step in range(6)]
    with_3d = {"part0": set(), "part1": set(), "part2": set()}
    for batch in batches:
        for key, there in zip(batch.keys, batch.has_keypoints_m.tolist(), strict=True):
            with_3d[key.split("/")[0]].add((int(key.split("/")[1]), there))
    assert {there for _, there in with_3d["part0"]} == {True}
    assert all(there == bool(index % 2) for index, there in with_3d["part1"])
    assert {there for _, there in with_3d["part2"]} == {False}


def test_the_share_of_labels_that_are_used_is_the_same_samples_always(folders):
    parts = mixture_of(folders[0], labels_3d=0.5, masks=0.0)
    sequence = ImageSequence(parts, ONE_STREAM, 0)
    used = {}
    for position in range(90):
        draw = sequence.draw(position)
        assert used.setdefault(draw.index, draw.labels_3d) == draw.labels_3d
        assert not draw.mask
    assert 0 < sum(used.values()) < 9
    config = config_of(parts, supervision="3d")
    batch = TrainingBatches(config, 0, whole_image=False)[0]
    assert 0 < int(batch.has_keypoints_m.sum()) < 8


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Both stages learn from two folders; supervision is 3d, and half of the first folder's labels are used."""
    folder = make_project(tmp_path_factory.mktemp("mixed") / "project", steps=3, batch_size=4, input_px=32, supervision="3d")
    write_shards(folder / "data/ingest/procedural/val", make_crops(3, 7))
    parts = {
        "procedural": {"path": "data/ingest/procedural/train", "weight": 3.0, "labels_3d": 0.5, "masks": 1.0},
        "more": {"path": "data/ingest/procedural/val", "weight": 1.0, "labels_3d": 0.0, "masks": 0.5},
    }
    change_params(folder, loss={"joints_3d": 1.0, "vertices_3d": 1.0})
    set_data(folder, "crop", parts)
    describe_mixtures(folder)
    return folder


def set_data(folder: Path, stage: str, parts: dict) -> None:
    from ruamel.yaml import YAML
    from training_runs import write_params

    tree = YAML(typ="safe", pure=True).load((folder / "params.yaml").read_text())
    tree["train"][stage]["data"] = parts
    write_params(folder, tree)


@pytest.fixture
def here(project, tmp_path, monkeypatch) -> Path:
    folder = copy_project(project, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return folder


def test_a_stage_trains_on_a_mixture_and_says_so(here):
    train_stage("crop", load_params().train)
    assert np.isfinite(curve(here, "crop")).all()
    provenance = json.loads(Path("models/crop/model.json").read_text())["provenance"]
    assert provenance["data"] == "ingest/procedural/train"
    facts = read_mixture("crop", load_params().train.crop.data)
    assert {name: part["manifest_sha256"] for name, part in provenance["mixture"].items()} == {
        name: fact.manifest_sha256 for name, fact in facts.items()
    }
    assert provenance["mixture"]["more"]["weight"] == 1.0


def test_what_the_mixture_s_file_says(here, capsys):
    assert mixture.main(["crop", "more"]) == 0
    assert mixture.main(["crop"]) == 0
    tree = json.loads((MIXTURES / "crop.json").read_text())
    assert tree["procedural"]["facts"]["num_samples"] == 8
    assert tree["procedural"]["facts"]["labels"] == {"mask.png": 8, "keypoints3d.npy": 8, "mano.npy": 0, "vertices.npy": 8}
    assert tree["more"]["labels_3d"] == 0.0
    before = (MIXTURES / "crop.json").read_bytes()
    (MIXTURES / "crop" / "former.json").write_text("{}")  # of a part that is no longer in params.yaml
    assert mixture.main(["crop"]) == 0
    assert (MIXTURES / "crop.json").read_bytes() == before
    for arguments, code, text in (
        (["crop", "nosuch"], 2, "train.crop.data: expected a part of it, one of ['more', 'procedural'], got 'nosuch'"),
        (["both"], 2, "usage: python -m pipelines.mixture crop|multi [PART]"),
    ):
        capsys.readouterr()
        assert mixture.main(arguments) == code
        assert text in capsys.readouterr().err


def test_a_mixture_that_is_not_params_yaml_s_is_refused(here):
    parts = load_params().train.crop.data
    other = {**parts, "more": parts["more"].model_copy(update={"weight": 2.0})}
    with pytest.raises(ShardError, match=r"data/mixtures/crop\.json: more: expected .*'weight': 2\.0.* run `dvc repro mixture@crop`"):
        read_mixture("crop", other)
    with pytest.raises(ShardError, match=r"more: expected None as in params\.yaml, got"):
        read_mixture("crop", {"procedural": parts["procedural"]})
    shutil.rmtree("data/ingest/procedural/val")
    write_shards(Path("data/ingest/procedural/val"), make_crops(3, 8))
    with pytest.raises(ShardError, match=r"val: manifest\.json: expected digest \w{16} as data/mixtures/crop\.json says of more"):
        train_stage("crop", load_params().train)
    os.remove("data/mixtures/crop.json")
    with pytest.raises(ShardError, match=r"data/mixtures/crop\.json: not found; run `dvc repro mixture@crop`"):
        train_stage("crop", load_params().train)


def test_scenes_and_single_hands_mix(here):
    """The multi stage on whole images of both kinds."""
    write_shards(Path("data/scenes/val"), make_scenes(4, 3))
    config = config_of(mixture_of("data/ingest/procedural/train", "data/scenes/val"), input_px=64)
    counts = [count for step in range(6) for count in TrainingBatches(config, 0, whole_image=True)[step].counts]
    assert max(counts) > 1
