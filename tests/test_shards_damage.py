"""Damaged shards: what is wrong is named with its file, whether a sample, a shard or the manifest is read."""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import numpy as np
import orjson
import pytest
from fake_hands import mixture_of
from fake_samples import make_plan

from pipelines.config import load_params
from pipelines.shards import ShardError, ShardReader, schema
from pipelines.shards.build import build_shards
from pipelines.shards.manifest import ShardEntry, sha256_file
from pipelines.training.batches import TrainingBatches


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    plan = make_plan(tmp_path_factory.mktemp("built"))
    assert build_shards(plan, num_workers=1, description="fake")
    return plan.target


@pytest.fixture
def copy(tmp_path, built):
    """A private copy of the built folder, to be damaged."""
    return shutil.copytree(built, tmp_path / "set")


def rewrite(folder, change, shard="shard-000000.tar"):
    """Rewrite a shard with `change(name, data) -> data | None`, keeping the manifest's size and checksum in step."""
    with tarfile.open(folder / shard) as source:
        members = [(member.name, source.extractfile(member).read()) for member in source]
    with tarfile.open(folder / shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, old in members:
            data = change(name, old)
            if data is not None:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    refresh(folder, shard)


def refresh(folder, shard="shard-000000.tar"):
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["shards"]:
        if entry["name"] == shard:
            entry["bytes"] = (folder / shard).stat().st_size
            entry["sha256"] = sha256_file(folder / shard)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_meta(**changes):
    def change(name, data):
        if name != "00000001.json":
            return data
        meta = orjson.loads(data)
        for key, value in changes.items():
            if key == "hand":
                meta["hands"][0].update(value)
            elif value is None:
                del meta[key]
            else:
                meta[key] = value
        return orjson.dumps(meta)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, d: None if n == "00000001.jpg" else d, r"shard-000000\.tar: 00000001\.jpg: no such member"),
        (lambda n, d: None if n == "00000001.keypoints.npy" else d, r"00000001\.keypoints\.npy: no such member"),
        (lambda n, d: b'{"a": ' if n == "00000001.json" else d, r"shard-000000\.tar: 00000001\.json: cannot be decoded"),
        (lambda n, d: b"[]" if n == "00000001.json" else d, r"00000001\.json: cannot be decoded: expected a JSON object"),
        (edit_meta(schema=99), r"00000001\.json: .*expected schema 2, got 99"),
        (edit_meta(width=None), r"00000001\.json: missing key 'width'"),
        (edit_meta(width=65), r"00000001\.jpg: expected height, width \(48, 65\), got \(48, 64\)"),
        (edit_meta(hand={"side": "both"}), r"00000001: hand 0: .*not in tuple"),
        (edit_meta(hand={"K": [[1, 0], [0, 1]]}), r"00000001: hand 0: K: expected shape \(3, 3\)"),
        (edit_meta(hand={"box": [0, 0, float("nan"), 1]}), r"00000001: hand 0: box_px"),
        (lambda n, d: d[:200] if n == "00000001.jpg" else d, r"00000001\.jpg: cannot be decoded"),
        (lambda n, d: b"" if n == "00000001.mask.png" else d, r"00000001\.mask\.png: cannot be decoded"),
        (lambda n, d: d[:100] if n == "00000001.mano.npy" else d, r"00000001\.mano\.npy: cannot be decoded"),
        (
            lambda n, d: schema.encode_array(np.zeros((3, 21, 3))) if n == "00000001.keypoints3d.npy" else d,
            r"00000001\.keypoints3d\.npy: expected shape \(1, 21, 3\), got \(3, 21, 3\)",
        ),
    ],
)
def test_damaged_member_is_named(copy, change, message):
    rewrite(copy, change)
    with pytest.raises(ShardError, match=message):
        ShardReader(copy).read(1, labels_3d=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_meta(K=[[1, 0, 0], [0, 1]]), r"00000001: "),
        (edit_meta(K={"fx": 1}), r"00000001: "),
        (edit_meta(hand={"box": [0, 0, 1]}), r"00000001: hand 0: box_px"),
        (edit_meta(hand={"box": None}), r"00000001: hand 0: box_px"),
        (lambda n, d: None if n == "00000001.jpg" else d, r"shard-000000\.tar: 00000001\.jpg: no such member"),
        (lambda n, d: d[:200] if n == "00000001.jpg" else d, r"00000001\.jpg: cannot be decoded"),
    ],
)
def test_a_training_batch_names_the_damaged_sample(copy, change, message):
    rewrite(copy, change)
    changes = {"data": mixture_of(copy), "batch_size": 10, "steps": 1, "input_px": 64}
    with pytest.raises(ShardError, match=message):
        TrainingBatches(load_params().train.crop.model_copy(update=changes), 0, whole_image=False)[0]


def test_object_arrays_are_refused(copy):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    rewrite(copy, lambda n, d: stream.getvalue() if n == "00000001.keypoints.npy" else d)
    with pytest.raises(ShardError, match="Object arrays cannot be loaded"):
        ShardReader(copy).read(1, labels_3d=False)


def test_missing_optional_member_is_named_when_asked_for(copy):
    rewrite(copy, lambda n, d: None if n == "00000001.mask.png" else d)
    reader = ShardReader(copy)
    assert reader.read(1, labels_3d=False).mask is None
    with pytest.raises(ShardError, match=r"00000001\.mask\.png: no such member"):
        reader.read_members(1, ["jpg", "mask.png"])


def test_truncated_shard_is_named(copy):
    path = copy / "shard-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-20000])
    with pytest.raises(ShardError, match=r"shard-000000\.tar: expected \d+ bytes as manifest\.json says, got \d+ \(truncated"):
        ShardReader(copy)
    for length in (len(data) // 2 + 100, len(data) // 1024 * 512, 700):
        path.write_bytes(data[:length])
        refresh(copy)
        with pytest.raises(ShardError, match=r"shard-000000\.tar: .*truncated"):
            ShardReader(copy).read(0, labels_3d=False)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_regular_files_are_accepted(copy, kind):
    path = copy / "shard-000000.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("00000000.jpg")
        info.type = kind
        info.linkname = "/etc/passwd"
        tar.addfile(info)
    refresh(copy)
    with pytest.raises(ShardError, match=r"00000000\.jpg/?: expected a regular file"):
        ShardReader(copy).read(0, labels_3d=False)


@pytest.mark.parametrize("name", ["../../evil.jpg", "00000000.exe", "x/00000000.jpg"])
def test_foreign_member_names_are_refused(copy, name):
    with tarfile.open(copy / "shard-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(name))
    refresh(copy)
    with pytest.raises(ShardError, match="unknown kind of member"):
        ShardReader(copy).read(0, labels_3d=False)


def test_damaged_header_is_named(copy):
    path = copy / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"shard-000000\.tar: at byte 0: damaged tar header"):
        ShardReader(copy).read(0, labels_3d=False)
    with pytest.raises(ShardError, match=r"shard-000000\.tar: expected sha256"):
        ShardReader(copy).verify()


def test_manifest_problems_are_named(copy, tmp_path):
    with pytest.raises(ShardError, match=r"nowhere/manifest\.json: not found; the stage that writes"):
        ShardReader(tmp_path / "nowhere")
    path = copy / "manifest.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"schema": 7}, "expected schema 2, got 7"),
        ({"extra": 7}, r"unknown keys \['extra'\]"),
        ({"num_samples": 11}, "num_samples 11 is not the sum"),
        ({"shards": [{"name": "x"}]}, "shards: "),
    ]:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(ShardError, match=r"manifest\.json: .*" + message):
            ShardReader(copy)
    path.write_text("{")
    with pytest.raises(ShardError, match=r"manifest\.json: not valid JSON"):
        ShardReader(copy)
    path.write_text(json.dumps(good))
    (copy / "shard-000002.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000002\.tar: not found, but manifest\.json lists it"):
        ShardReader(copy)
    assert ShardEntry(**good["shards"][0]).num_samples == 4
