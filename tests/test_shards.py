"""Shards: what is written is what is read, the same samples are the same bytes, and damage is named."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import tarfile

import cv2
import numpy as np
import pytest
import simplejpeg
from fake_samples import folder_bytes, make_plan, make_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shards import ShardError, ShardReader, schema
from pipelines.shards.build import build_shards
from pipelines.shards.headers import member_blocks
from pipelines.shards.manifest import sha256_file
from pipelines.shards.schema import SUFFIXES


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    plan = make_plan(tmp_path_factory.mktemp("built"))
    assert build_shards(plan, num_workers=1, description="fake")
    return plan


def assert_same_labels(a, b, with_3d=True):
    assert len(a.hands) == len(b.hands)
    for x, y in zip(a.hands, b.hands, strict=True):
        for name in ("side", "hand_model", "joint_convention", "source_id", "identity"):
            assert getattr(x, name) == getattr(y, name), name
        names = ["keypoints_px", "visible", "box_px", "K", *(["keypoints_m", "vertices_m", "mano"] if with_3d else [])]
        for name in names:
            np.testing.assert_array_equal(getattr(x, name), getattr(y, name), err_msg=name)


def test_read_returns_what_was_written(built):
    reader = ShardReader(built.target)
    source = built.open_source()
    assert len(reader) == 10
    for index in (9, 0, 4, 3, 8):  # any order
        want, got = source.sample(index), reader.read(index, labels_3d=True)
        assert got.key == want.key == reader.key(index)
        assert_same_labels(want, got)
        np.testing.assert_array_equal(got.mask, want.mask)
        np.testing.assert_array_equal(got.K, want.K)
        jpeg = schema.encode_jpeg(want.image, 90)
        np.testing.assert_array_equal(got.image, simplejpeg.decode_jpeg(jpeg, colorspace="RGB"))
    with pytest.raises(IndexError, match=r"0\.\.9, got 10"):
        reader.read(10, labels_3d=False)


def test_jpeg_keeps_channel_order_and_detail():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 200
    decoded = schema.decode_image(schema.encode_jpeg(image, 95))
    np.testing.assert_allclose(decoded.reshape(-1, 3).mean(0), [200, 0, 0], atol=3)


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_members_round_trip(seed, num_hands, with_3d, mask):
    sample = make_sample(seed % 10**8, num_hands, size=(17, 23), with_3d=with_3d, mask=mask)
    members = schema.encode_sample(sample, 90)
    assert set(members) <= set(SUFFIXES)
    assert (schema.MASK in members) == mask
    assert all((suffix in members) == (with_3d and num_hands > 0) for suffix in schema.LABELS_3D)
    arrays = {s: schema.decode_array(members[s]) for s in schema.LABELS_3D if s in members}
    hands = schema.decode_hands("x", schema.decode_meta(members["json"]), schema.decode_array(members["keypoints.npy"]), arrays)
    for got, want in zip(hands, sample.hands, strict=True):
        np.testing.assert_array_equal(got.keypoints_px, want.keypoints_px)
        assert (got.mano is None) == (want.mano is None)
        np.testing.assert_array_equal(got.K, want.K)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 200), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_masks_are_decoded_as_opencv_does(seed, height, width, place):
    """Of long runs and of noise (several chunks), as they are written here and with filters; damage is refused, or does not matter."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 4, (height, width), dtype=np.uint8) if seed % 2 else np.zeros((height, width), np.uint8)
    mask[height // 3 : height // 2, width // 4 :] = 255
    data = schema.encode_mask(mask)
    assert schema._plain_mask(data) is not None
    np.testing.assert_array_equal(schema.decode_mask(data), mask)
    filtered = bytes(cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH])[1])
    np.testing.assert_array_equal(schema.decode_mask(filtered), mask)
    damaged = bytearray(data)
    damaged[place % len(data)] ^= 1 + seed % 255
    for broken in (bytes(damaged), data[: place % len(data)]):
        found = schema._plain_mask(broken)
        assert found is None or np.array_equal(found, mask)


def test_a_shared_mask_is_encoded_once_and_a_changed_one_again(monkeypatch):
    encoded = []
    encode = schema.encode_mask
    monkeypatch.setattr(schema, "encode_mask", lambda mask: encoded.append(mask.copy()) or encode(mask))
    sample = make_sample(1)
    for writeable, times in ((True, 3), (False, 1)):
        mask = sample.mask.copy()
        mask.flags.writeable = writeable
        encoded.clear()
        members = [schema.encode_sample(dataclasses.replace(sample, mask=mask), 90)["mask.png"] for _ in range(3)]
        assert len(encoded) == times
        assert set(members) == {encode(mask)}
    mask = sample.mask.copy()
    before = schema.encode_sample(dataclasses.replace(sample, mask=mask), 90)["mask.png"]
    mask[...] = 0
    assert schema.encode_sample(dataclasses.replace(sample, mask=mask), 90)["mask.png"] == encode(mask) != before


@pytest.mark.parametrize("image", [np.zeros((9, 8, 3), np.uint8), np.zeros((9, 8), np.uint16)])
def test_other_pngs_are_no_masks(image):
    with pytest.raises(ValueError, match="expected a grey 8-bit PNG"):
        schema.decode_mask(bytes(cv2.imencode(".png", image)[1]))


def test_a_hand_without_3d_beside_one_with_it():
    sample = make_sample(1, 2)
    hands = (sample.hands[0].without_3d(), sample.hands[1])
    members = schema.encode_sample(type(sample)(key="a", image=sample.image, K=sample.K, hands=hands), 90)
    arrays = {s: schema.decode_array(members[s]) for s in schema.LABELS_3D}
    first, second = schema.decode_hands("x", schema.decode_meta(members["json"]), schema.decode_array(members["keypoints.npy"]), arrays)
    assert first.keypoints_m is None
    assert first.mano is None
    np.testing.assert_array_equal(second.vertices_m, hands[1].vertices_m)


def test_weak_supervision_reads_no_3d(tmp_path, built):
    """Every byte of every 3D member is destroyed; a 2D reader must neither notice nor deliver any."""
    copy = shutil.copytree(built.target, tmp_path / "set")
    reader = ShardReader(copy)
    reader.read(0, labels_3d=False)
    for entry in reader.manifest.shards:
        data = bytearray((copy / entry.name).read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = tar.getmembers()
        for member in members:
            if member.name.partition(".")[2] in schema.LABELS_3D:
                data[member.offset_data : member.offset_data + member.size] = b"\xff" * member.size
        (copy / entry.name).write_bytes(data)
    for index in range(len(reader)):
        sample = ShardReader(copy).read(index, labels_3d=False)
        assert all(hand.keypoints_m is None and hand.vertices_m is None and hand.mano is None for hand in sample.hands)
        assert_same_labels(sample, built.open_source().sample(index), with_3d=False)
    with pytest.raises(ShardError, match=r"shard-000000\.tar: 00000001\.keypoints3d\.npy: cannot be decoded"):
        ShardReader(copy).read(1, labels_3d=True)


def test_only_requested_members_are_read(built, monkeypatch):
    reader = ShardReader(built.target)
    reader.key(0)  # the scan of headers
    asked = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: asked.append(size) or real(fd, size, at))
    members = reader.read_members(1, ["keypoints.npy"])
    assert asked == [len(members["keypoints.npy"])]


def test_without_image_or_vertices(built):
    reader = ShardReader(built.target)
    sample = reader.read(1, labels_3d=True, image=False, vertices=False)
    assert sample.image.shape == (48, 64, 3)
    assert sample.image.base.nbytes == 1
    assert sample.mask is None
    assert sample.hands[0].vertices_m is None
    assert sample.hands[0].mano is not None


def test_manifest_says_what_is_there(built):
    reader = ShardReader(built.target)
    manifest = reader.manifest
    assert [entry.num_samples for entry in manifest.shards] == [4, 4, 2]
    assert manifest.num_hands == sum(i % 3 for i in range(10)) == sum(entry.num_hands for entry in manifest.shards)
    assert manifest.identities == ["p0", "p1", "p2"] or set(manifest.identities) <= {"p0", "p1", "p2"}
    for entry in manifest.shards:
        assert sha256_file(built.target / entry.name) == entry.sha256
    reader.verify()
    ids = (built.target / "source_ids.txt").read_text().split()
    assert len(ids) == manifest.num_source_ids == manifest.num_hands
    stats = json.loads((built.target / "stats.json").read_text())
    assert stats["hands_per_image"] == {"0": 4, "1": 3, "2": 3}
    assert stats["parity"] == {"0": 5, "1": 5}
    assert sorted(p.name for p in built.target.iterdir()) == sorted(
        ["manifest.json", "source_ids.txt", "stats.json", *(entry.name for entry in manifest.shards)]
    )


def test_tars_are_plain_and_deterministic(built, tmp_path):
    other = make_plan(tmp_path)
    build_shards(other, num_workers=1, description="again")
    assert folder_bytes(other.target) == folder_bytes(built.target)
    with tarfile.open(built.target / "shard-000000.tar") as tar:
        members = tar.getmembers()
    assert len(members) > 12
    for member in members:
        assert member.isreg()
        assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")


def test_webdataset_reads_our_tars(built):
    import webdataset

    urls = [str(built.target / entry.name) for entry in ShardReader(built.target).manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{i:08d}" for i in range(10)]
    source = built.open_source()
    for index, sample in enumerate(samples):
        keypoints = np.load(io.BytesIO(sample["keypoints.npy"]))
        assert keypoints.shape == (index % 3, 21, 3)
        for hand, row in zip(source.sample(index).hands, keypoints, strict=True):
            np.testing.assert_array_equal(row[:, :2], hand.keypoints_px)
        assert json.loads(sample["json"])["schema"] == schema.SCHEMA


def test_reader_survives_pickling(built):
    reader = ShardReader(built.target)
    reader.read(5, labels_3d=False)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.read(5, labels_3d=False).image, reader.read(5, labels_3d=False).image)


@given(st.text("abcXYZ09-_", min_size=1, max_size=60), st.sampled_from(SUFFIXES), st.binary(max_size=1100))
def test_members_are_what_tarfile_writes(key, suffix, data):
    info = tarfile.TarInfo(f"{key}.{suffix}")
    info.size, info.mode = len(data), 0o644
    want = info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    assert b"".join(member_blocks(f"{key}.{suffix}", data)) == want


def test_names_that_no_header_has_room_for_are_refused():
    with pytest.raises(ValueError, match=r"expected a name of at most 100 bytes .*, got 104"):
        member_blocks("a" * 100 + ".jpg", b"")
