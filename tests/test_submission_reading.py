"""Packages made to do harm, and damaged ones: always findings, never an exception, a hang or memory without end."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fake_packages import NUM, as_lists, only, right_hands, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.submission import json_samples, reading
from pipelines.submission.checking import check_submission
from pipelines.submission.json_samples import SampleTexts, TooLargeError
from pipelines.submission.repeats import MIN_SAMPLES, video_order_findings


@pytest.fixture(scope="module")
def hands():
    return right_hands()


def zipped_bytes(text: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pred.json", text)
    return stream.getvalue()


class Endless:
    """A stream that repeats one text and counts what is read."""

    def __init__(self, start: bytes, text: bytes) -> None:
        self.start, self.text, self.num_read = start, text, 0

    def read(self, size: int) -> bytes:
        start = self.start if not self.num_read else b""
        self.num_read += size
        return start + self.text * (size // len(self.text))


@pytest.mark.parametrize(
    ("start", "text", "message"),
    [
        (b"", b"[", "samples of at most"),
        (b"[[[", b"1,", "samples of at most"),
        (b"[[", b"[],", "samples in a list"),
        (b"[", b"[],", "between them"),
        (b"[[", b"1,", "between them"),
        (b'"', b"a", "between them"),
    ],
)
def test_what_never_ends_is_left_early(start, text, message, monkeypatch):
    monkeypatch.setattr(json_samples, "_CHUNK", 1 << 16)
    stream = Endless(start, text)
    with pytest.raises(TooLargeError, match=message):
        for _ in SampleTexts(stream):
            pass
    assert stream.num_read < 2 * json_samples.MAX_SKELETON_BYTES


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped_bytes(b"[" + b" " * (1 << 22) + b"]"))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    opened = []
    monkeypatch.setattr(reading, "_read_json", lambda *arguments: opened.append(arguments))
    assert only(check_submission(path, "freihand")) == "pred.json: expected at most 1,048,576 bytes, got 4,194,306"
    assert not opened


def test_a_member_that_lies_about_its_size_is_cut_there(tmp_path, hands):
    data = bytearray(zipped_bytes(json.dumps(as_lists(*hands)).encode()))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 1000)  # the unpacked size as the archive states it
    (tmp_path / "x.zip").write_bytes(data)
    assert only(check_submission(tmp_path / "x.zip", "freihand", NUM)).startswith("x.zip: not a readable zip file")


@pytest.mark.parametrize("depth", [40, 5_000, 400_000])
def test_nested_lists_are_a_finding(tmp_path, hands, depth):
    xyz, verts = as_lists(*hands)
    nested = "[" * depth + "1" + "]" * depth
    text = json.dumps([xyz, verts]).replace(json.dumps(xyz[1]), nested)
    finding = only(check_submission(write_zip(tmp_path / "x.zip", text), "freihand", NUM))
    assert finding.startswith("xyz: expected ")
    assert "in 1 of 6, the first sample 1" in finding


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_anywhere_is_a_finding_or_harmless(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    xyz, verts = right_hands()
    whole = bytearray(zipped_bytes(json.dumps(as_lists(xyz[:1], verts[:1, :3])).encode()))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    whole = whole[: data.draw(st.integers(len(whole) // 2, len(whole)))]
    path = folder / "x.zip"
    path.write_bytes(whole)
    findings = check_submission(path, "freihand", 1)
    assert findings
    assert all("\n" not in finding for finding in findings)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=3) | json_values)
@settings(max_examples=80, deadline=None)
def test_any_other_json_is_a_finding(tmp_path_factory, content):
    path = Path(tmp_path_factory.getbasetemp()) / "any.zip"
    findings = check_submission(write_zip(path, json.dumps(content)), "freihand", 0)
    assert findings or content == [[], []]


def test_repeated_samples(tmp_path, hands):
    xyz, verts = (points.copy() for points in hands)
    xyz[4], verts[4] = xyz[1], verts[1]
    finding = only(check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz, verts)), "freihand", NUM))
    assert finding == "xyz: 1 of 6 samples repeat an earlier one exactly, the first sample 4 (as 1)"
    same = as_lists(np.repeat(xyz[:1], NUM, axis=0), np.repeat(verts[:1], NUM, axis=0))
    finding = only(check_submission(write_zip(tmp_path / "x.zip", same), "freihand", NUM))
    assert finding == "xyz: expected a hand for every image, got the same one in all 6 samples"


def test_vertices_of_other_hands_or_in_another_order(tmp_path, hands):
    xyz, verts = hands
    rng = np.random.default_rng(0)
    for name, changed in (("order", verts[:, rng.permutation(778)]), ("upside down", verts * [1, -1, 1])):
        finding = only(check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz, changed)), "freihand", NUM))
        assert finding.startswith("xyz and verts: expected fingertip joints at their vertices"), name
    one = verts.copy()
    one[3] = one[3, ::-1]
    finding = only(check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz, one)), "freihand", NUM))
    assert "in 1 of 6 samples, the first 3" in finding


def test_a_few_samples_in_other_units(tmp_path, hands):
    xyz, verts = (points.copy() for points in hands)
    xyz[2], verts[2] = xyz[2] * 1000, verts[2] * 1000
    findings = check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz, verts)), "freihand", NUM)
    assert "xyz: expected hands 0.03 to 0.4 m wide, got others in 1 of 6 samples, the first sample 2" in findings[0]


def test_the_order_of_a_video_is_seen():
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(0, 0.005, (300, 1, 3)), axis=0) + rng.normal(0, 0.05, (21, 3)) + rng.normal(0, 0.002, (300, 21, 3))
    assert video_order_findings(walk) == []
    assert "another order of samples?" in video_order_findings(walk[rng.permutation(300)])[0].text
    assert video_order_findings(walk[rng.permutation(300)][: MIN_SAMPLES - 1]) == []
