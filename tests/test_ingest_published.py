"""Ingesting published datasets: JPEGs passed on, damage set aside and counted, splits that must not share a frame."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from fake_samples import folder_bytes, make_sample
from hypothesis import given
from hypothesis import strategies as st
from official_layouts import FORMS, in_form, write_freihand, write_ho3d

from pipelines import compose as compose_stage
from pipelines import ingest as stage
from pipelines.config import IngestConfig, load_params
from pipelines.config_datasets import FreihandConfig, Ho3dConfig
from pipelines.datasets import registry
from pipelines.datasets.sample import DataError
from pipelines.shards import ShardReader
from pipelines.shards.leaks import check_disjoint
from pipelines.shards.manifest import SOURCE_IDS
from pipelines.shards.schema import ShardError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def freihand(tmp_path):
    return write_freihand(tmp_path / "FreiHAND_pub_v2")


@pytest.fixture
def ho3d(tmp_path):
    return write_ho3d(tmp_path / "HO3D_v3", "v3")


def freihand_section(path: Path, max_quarantined: float = 1.0, **changes: object) -> IngestConfig:
    values: dict = {"seed": 0, "val_fraction": 0.0, "samples_per_shard": 5, "mano_model": None, **changes}
    return IngestConfig(freihand=FreihandConfig(path=str(path), max_quarantined=max_quarantined, **values))


def ho3d_section(path: Path, max_quarantined: float = 1.0) -> IngestConfig:
    values: dict = {"version": "v3", "samples_per_shard": 3, "val_sequences": [], "mano_model": None}
    return IngestConfig(ho3d=Ho3dConfig(path=str(path), max_quarantined=max_quarantined, **values))


def key_of(number: int) -> str:
    """The sample that shows training image `number` of three frames."""
    return f"{number % 3:08d}-{number // 3}"


def quarantine_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


# --- pass-through ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_published_jpegs_reach_the_shards_untouched(freihand, tmp_path, form):
    originals = {key_of(int(path.stem)): path.read_bytes() for path in (freihand / "training/rgb").iterdir()}
    section = freihand_section(in_form(freihand, form))
    train, evaluation = stage.ingest("freihand", section, data=tmp_path / "data", num_workers=1)
    reader = ShardReader(train)
    assert len(reader) == len(originals) == 12
    for index in range(len(reader)):
        assert reader.read_members(index, ["jpg"])["jpg"] == originals[reader.key(index)]
        sample = reader.read(index, labels_3d=False)
        assert (sample.mask_source, sample.K_known) == ("published", True)
    assert reader.manifest.mask_sources == {"published": 12}
    assert reader.manifest.num_quarantined == 0
    assert ShardReader(evaluation).read(0, labels_3d=False).mask_source is None
    assert not (train / "quarantine.jsonl").exists()


@pytest.mark.parametrize(("version", "form"), [("v2", "folder"), ("v2", "zip with top"), *(("v3", form) for form in FORMS)])
def test_ho3d_in_every_form(tmp_path, version, form):
    source = write_ho3d(tmp_path / "HO3D", version)
    published = {path.relative_to(source / "train").as_posix(): path.read_bytes() for path in (source / "train").rglob("rgb/*")}
    values: dict = {"samples_per_shard": 3, "val_sequences": ["SM2"], "mano_model": None, "max_quarantined": 0.0}
    config = Ho3dConfig(path=str(in_form(source, form)), version=version, **values)
    folders = stage.ingest("ho3d", IngestConfig(ho3d=config), data=tmp_path / "data", num_workers=1)
    assert [len(ShardReader(folder)) for folder in folders] == [2, 2, 2]
    reader = ShardReader(folders[0])
    assert reader.manifest.mask_sources == {"skeleton": 2}
    same = reader.read_members(0, ["jpg"])["jpg"] == published.get("ABF10/rgb/0000.jpg")
    assert same == (version == "v3")  # PNGs cannot be passed on
    assert ShardReader(folders[2]).manifest.mask_sources == {}


# --- quarantine -----------------------------------------------------------------------------------------------------


def damage_freihand(folder: Path) -> dict[str, str]:
    """Five samples spoilt in five ways: key -> what the reason must say."""
    image = folder / "training/rgb/00000001.jpg"
    image.write_bytes(image.read_bytes()[:-400])
    (folder / "training/rgb/00000003.jpg").unlink()
    (folder / "training/mask/00000002.jpg").write_bytes(b"")  # four images share it
    for kind, change in (("xyz", lambda rows: rows.__setitem__(0, None)), ("verts", lambda rows: rows[0][5].__setitem__(1, float("nan")))):
        path = folder / f"evaluation_{kind}.json"
        rows = json.loads(path.read_text())
        change(rows)
        path.write_text(json.dumps(rows))
    return {
        key_of(1): "training/rgb/00000001.jpg: not a whole image",
        key_of(3): "training/rgb/00000003.jpg: not found",
        **{key_of(2 + 3 * k): "training/mask/00000002.jpg: not a whole JPEG or PNG" for k in range(4)},
    }


def test_damage_is_set_aside_and_the_run_goes_on(freihand, tmp_path, capfd):
    expected = damage_freihand(freihand)
    results = []
    for workers in (1, 2):
        section = freihand_section(freihand, samples_per_shard=2)
        train, evaluation = stage.ingest("freihand", section, data=tmp_path / str(workers), num_workers=workers)
        results.append([folder_bytes(train), folder_bytes(evaluation)])
    assert results[0] == results[1]
    records = quarantine_of(train)
    assert [record["key"] for record in records] == sorted(expected)
    for record in records:
        assert set(record) == {"key", "source", "reason"}
        frame, copy = record["key"].split("-")
        assert record["source"] == f"training/rgb/{int(frame) + 3 * int(copy):08d}.jpg"
        assert expected[record["key"]] in record["reason"]
    assert "evaluation_xyz.json: entry 0: expected finite numbers" in quarantine_of(evaluation)[0]["reason"]
    reader = ShardReader(train)
    reader.verify()
    assert (len(reader), reader.manifest.num_quarantined) == (12 - 6, 6)
    assert {reader.key(i) for i in range(len(reader))} == {key_of(number) for number in range(12)} - set(expected)
    assert "6 samples, 6 set aside in quarantine.jsonl" in capfd.readouterr().err
    stage.ingest("freihand", section, data=tmp_path / "2", num_workers=1)
    assert "unchanged" in capfd.readouterr().err


def test_too_much_damage_fails_and_repair_remakes_its_shards_only(freihand, tmp_path):
    image = freihand / "training/rgb/00000007.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:-300])
    section = freihand_section(freihand, max_quarantined=0.05)
    with pytest.raises(DataError) as caught:
        stage.ingest("freihand", section, data=tmp_path / "data", num_workers=1)
    message = str(caught.value)
    path = tmp_path / "data/ingest/freihand.partial/train/quarantine.jsonl"
    assert "\n" not in message
    assert message.startswith("freihand/train: 1 of 12 samples are damaged or incomplete, more than max_quarantined (0.05) allows")
    assert f"listed in {path}" in message
    assert "00000007.jpg: not a whole image" in message
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [key_of(7)]
    assert not (tmp_path / "data/ingest/freihand").exists()
    shards = path.parent / "shards"
    before = {file.name: file.stat().st_mtime_ns for file in shards.iterdir()}
    image.write_bytes(whole)
    train, _ = stage.ingest("freihand", section, data=tmp_path / "data", num_workers=1)
    after = {file.name: file.stat().st_mtime_ns for file in train.glob("*.tar")}
    assert [name for name in before if after[name] != before[name]] == ["shard-000001.tar"]
    assert len(ShardReader(train)) == 12
    # one in twelve is allowed
    image.write_bytes(whole[:-300])
    (train, _) = stage.ingest("freihand", freihand_section(freihand, max_quarantined=0.1), data=tmp_path / "data", num_workers=1)
    assert ShardReader(train).manifest.num_quarantined == 1


class Evil:
    def __reduce__(self):
        return (os.system, ("touch was-run",))


def test_broken_and_malicious_pickles_are_set_aside_by_name(ho3d, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metas = ho3d / "train/ABF10/meta", ho3d / "train/SM2/meta"
    half = (metas[0] / "0000.pkl").read_bytes()
    (metas[0] / "0000.pkl").write_bytes(half[: len(half) // 2])
    (metas[0] / "0001.pkl").write_bytes(pickle.dumps({"camMat": Evil()}, protocol=2))
    content = pickle.loads((metas[1] / "0001.pkl").read_bytes(), encoding="latin1")
    (metas[1] / "0001.pkl").write_bytes(pickle.dumps({**content, "handJoints3D": None, "handPose": None}, protocol=2))
    train, evaluation = stage.ingest("ho3d", ho3d_section(ho3d), data=tmp_path / "data", num_workers=1)
    records = {record["source"]: record["reason"] for record in quarantine_of(train)}
    assert set(records) == {f"train/{name}.jpg" for name in ("ABF10/rgb/0000", "ABF10/rgb/0001", "SM2/rgb/0001")}
    cut = "ABF10/meta/0000.pkl: expected a pickle of plain containers and numpy arrays, got one that is cut short"
    assert cut in records["train/ABF10/rgb/0000.jpg"]
    assert "ABF10/meta/0001.pkl: expected a pickle of plain containers" in records["train/ABF10/rgb/0001.jpg"]
    assert "posix.system, which is refused" in records["train/ABF10/rgb/0001.jpg"]
    assert "handJoints3D: expected (21, 3) numbers, got None" in records["train/SM2/rgb/0001.jpg"]
    assert not (tmp_path / "was-run").exists()
    assert len(ShardReader(train)) == 1
    # keypoints of evaluation frames are not published: that is no damage
    assert not (evaluation / "quarantine.jsonl").exists()
    assert len(ShardReader(evaluation)) == 2
    with pytest.raises(DataError, match=r"ho3d/train: 3 of 4 samples are damaged"):
        stage.ingest("ho3d", ho3d_section(ho3d, 0.001), data=tmp_path / "other", num_workers=1)


def test_every_sample_damaged_leaves_an_empty_split(ho3d, tmp_path):
    for path in (ho3d / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    train, _ = stage.ingest("ho3d", ho3d_section(ho3d), data=tmp_path / "data", num_workers=1)
    assert len(ShardReader(train)) == 0
    assert ShardReader(train).manifest.num_quarantined == 4


# --- partial copies -------------------------------------------------------------------------------------------------


def test_a_copy_without_evaluation_labels_gives_the_other_splits(freihand, tmp_path, capfd):
    stage.ingest("freihand", freihand_section(freihand), data=tmp_path / "data", num_workers=1)
    (freihand / "evaluation_xyz.json").unlink()
    folders = stage.ingest("freihand", freihand_section(freihand), data=tmp_path / "data", num_workers=1)
    assert [folder.name for folder in folders] == ["train"]
    assert "freihand/eval: not made, since this copy does not have it: " in capfd.readouterr().err
    assert not (tmp_path / "data/ingest/freihand/eval").exists()
    (freihand / "training_verts.json").unlink()  # a split that is there in part only
    with pytest.raises(DataError, match=r"training_verts\.json: not found$"):
        stage.ingest("freihand", freihand_section(freihand), data=tmp_path / "other", num_workers=1)


def test_a_copy_without_its_training_part_gives_evaluation(ho3d, tmp_path):
    (ho3d / "train.txt").unlink()
    folders = stage.ingest("ho3d", ho3d_section(ho3d), data=tmp_path / "data", num_workers=1)
    assert [folder.name for folder in folders] == ["eval"]


def test_a_split_that_is_not_made_any_more_does_not_stay(freihand, tmp_path):
    """Its frames are those of another split now."""
    folders = stage.ingest("freihand", freihand_section(freihand, val_fraction=0.4), data=tmp_path / "data", num_workers=1)
    assert [folder.name for folder in folders] == ["train", "val", "eval"]
    stage.ingest("freihand", freihand_section(freihand), data=tmp_path / "data", num_workers=1)
    assert sorted(path.name for path in (tmp_path / "data/ingest/freihand").iterdir()) == ["eval", "train"]


# --- leaks ----------------------------------------------------------------------------------------------------------


def write_ids(folder: Path, ids: set[str]) -> Path:
    folder.mkdir(parents=True)
    (folder / SOURCE_IDS).write_text("".join(f"{source_id}\n" for source_id in sorted(ids)))
    return folder


IDS = st.sets(st.text("abé/0 ", min_size=1, max_size=3), max_size=12)


@given(IDS, IDS, IDS)
def test_shared_frames_are_found(tmp_path_factory, a, b, c):
    """Against sets: whichever two of three share one."""
    root = tmp_path_factory.mktemp("ids")
    folders = [write_ids(root / name, ids) for name, ids in (("a", a), ("b", b), ("c", c))]
    shared = [(x, y, one & other) for (x, one), (y, other) in ((("a", a), ("b", b)), (("a", a), ("c", c)), (("b", b), ("c", c)))]
    leaks = [(x, y, both) for x, y, both in shared if both]
    if not leaks:
        check_disjoint(folders)
        return
    x, y, both = leaks[0]
    with pytest.raises(ShardError) as caught:
        check_disjoint(folders)
    plural = "s" if len(both) > 1 else ""
    assert f"{root / x} and {root / y} share {len(both)} source frame{plural}, the first {min(both)!r}" in str(caught.value)


def test_lists_that_cannot_be_compared_are_named(tmp_path):
    a = write_ids(tmp_path / "a", {"1", "2"})
    (tmp_path / "b").mkdir()
    with pytest.raises(ShardError, match=r"b/source_ids\.txt: not found"):
        check_disjoint([a, tmp_path / "b"])
    (tmp_path / "b" / SOURCE_IDS).write_text("2\n1\n")
    with pytest.raises(ShardError, match=r"b/source_ids\.txt: expected sorted lines, got '1' after '2'"):
        check_disjoint([write_ids(tmp_path / "c", {"9"}), tmp_path / "b"])


def test_the_four_versions_of_a_frame_stay_on_one_side(tmp_path):
    folder = write_freihand(tmp_path / "data", frames=10)
    section = freihand_section(folder, val_fraction=0.1)
    train, val, _ = stage.ingest("freihand", section, data=tmp_path / "out", num_workers=1)
    ids = [(folder / SOURCE_IDS).read_text().splitlines() for folder in (train, val)]
    assert [len(i) for i in ids] == [9, 1]
    assert [len(ShardReader(folder)) for folder in (train, val)] == [36, 4]


class LeakyDataset:
    """Both splits show frame 2."""

    def __init__(self, config, split):
        self.frames = (0, 1, 2) if split == "train" else (2, 3)

    def __len__(self):
        return len(self.frames)

    def where(self, index):
        return f"{index:08d}", "x"

    def sample(self, index):
        return replace(make_sample(self.frames[index]), key=f"{index:08d}")


def test_splits_that_share_a_frame_fail_the_stage(tmp_path, monkeypatch, capfd):
    adapter = registry.Adapter(factory=f"{__name__}:LeakyDataset", splits=lambda config: ("train", "eval"))
    monkeypatch.setitem(registry.ADAPTERS, "procedural", adapter)
    monkeypatch.setattr(registry.Adapter, "code_paths", lambda self: [])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # also when the shards are there already
        assert stage.main(["procedural"]) == 1
        error = capfd.readouterr().err.splitlines()[-1]
        assert error.startswith("error: data/ingest/procedural/train and data/ingest/procedural/eval share 1 source frame")
        assert "the first 'fake/2-0'" in error


def test_scene_sets_of_the_same_frames_are_refused(tmp_path):
    section = load_params(ROOT / "params.yaml").compose
    for split in ("train", "eval"):
        write_ids(tmp_path / f"ingest/procedural/{split}", {"frame", f"only-{split}"})
        (tmp_path / f"ingest/procedural/{split}/manifest.json").write_text("{}")
    with pytest.raises(ShardError, match=r"share 1 source frame, the first 'frame'"):
        compose_stage.check_sources(section, tmp_path)
    (tmp_path / "ingest/procedural/eval/manifest.json").unlink()  # not made yet: it is compared when it is
    compose_stage.check_sources(section, tmp_path)


def test_source_ids_must_fit_a_line():
    sample = make_sample(0)
    with pytest.raises(ValueError, match="source_id: expected"):
        replace(sample.hands[0], source_id="a\nb")
