"""Every way a package can be wrong is found, each with its own line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fake_hands import make_hands
from fake_packages import NUM, as_lists, in_layout, only, right_hands, write_zip

from handnet.skeleton import HO3D_TO_STD, INTERHAND_TO_STD, RHD_TO_STD, STD_TO_HO3D
from pipelines.submission.checking import check_submission
from pipelines.submission.geometry import bend_towards_palm
from pipelines.submission.json_samples import SampleTexts
from pipelines.submission.layouts import LAYOUTS
from pipelines.submission.packing import write_package


@pytest.fixture(scope="module")
def hands():
    return right_hands()


def test_the_number_of_samples(tmp_path, hands):
    path = tmp_path / "pred.zip"
    write_package(path, *hands, LAYOUTS["freihand"])
    assert check_submission(path, "freihand") == ["xyz: expected 3,960 samples, got 6", "verts: expected 3,960 samples, got 6"]
    uneven = write_zip(tmp_path / "uneven.zip", as_lists(hands[0][:5], hands[1]))
    assert check_submission(uneven, "freihand", NUM) == ["expected as many xyz as verts, got 5 and 6", "xyz: expected 6 samples, got 5"]


def test_the_archive(tmp_path, hands):
    good = as_lists(*hands)
    nested = write_zip(tmp_path / "nested.zip", good, "submission/pred.json")
    assert "not at the zip's root (it is at 'submission/pred.json'" in only(check_submission(nested, "freihand", NUM))
    other = write_zip(tmp_path / "other.zip", good, "predictions.json")
    assert "not at the zip's root (members: ['predictions.json'])" in only(check_submission(other, "freihand", NUM))
    more = write_zip(tmp_path / "more.zip", good)
    with zipfile.ZipFile(more, "a") as archive:
        archive.writestr("__MACOSX/._pred.json", b"x")
    assert "expected no .json but pred.json, got 1 more" in only(check_submission(more, "freihand", NUM))
    (tmp_path / "text.zip").write_text("no zip")
    assert "not a readable zip" in only(check_submission(tmp_path / "text.zip", "freihand", NUM))
    whole = write_zip(tmp_path / "whole.zip", good).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    assert "not a readable zip" in only(check_submission(tmp_path / "cut.zip", "freihand", NUM))
    broken = bytearray(whole)
    broken[200:260] = bytes(60)
    (tmp_path / "broken.zip").write_bytes(broken)
    assert "not a readable zip" in only(check_submission(tmp_path / "broken.zip", "freihand", NUM))
    assert "not found" in only(check_submission(tmp_path / "nothing.zip", "freihand", NUM))
    assert "got a folder" in only(check_submission(tmp_path, "freihand", NUM))


def test_the_json(tmp_path, hands):
    good = as_lists(*hands)
    cases = {
        "cut": (json.dumps(good)[:-500], "not valid JSON (the file ends early)"),
        "no json": ("hello", "not valid JSON"),
        "object": ({"xyz": good[0], "verts": good[1]}, "expected a list [xyz_list, verts_list] of lists of samples, got dict"),
        "three": ([*good, []], "expected a list [xyz_list, verts_list] of lists of samples, got a list of 3"),
        "joints only": ([good[0]], "got a list of 1"),
        "number": (3.5, "got float"),
    }
    for name, (content, expected) in cases.items():
        assert expected in only(check_submission(write_zip(tmp_path / f"{name}.zip", content), "freihand", NUM)), name


def test_the_nesting_and_shapes(tmp_path, hands):
    xyz, verts = as_lists(*hands)
    flat = [np.ravel(sample).tolist() for sample in xyz]
    deep = [[sample] for sample in xyz]
    pairs = [list(pair) for pair in zip(xyz, verts, strict=True)]
    ragged = [*xyz[:-1], xyz[-1][:-1] + [xyz[-1][-1][:2]]]
    cases = {
        "flat": ([flat, verts], "xyz: expected shape (21, 3) in every sample, got shape (63,) in 6 of 6, the first sample 0"),
        "deep": ([deep, verts], "got shape (1, 21, 3) in 6 of 6"),
        "ragged": (
            [ragged, verts],
            "xyz: expected shape (21, 3) in every sample, got lists of different lengths in 1 of 6, the first sample 5",
        ),
        "few joints": ([[sample[:20] for sample in xyz], verts], "got shape (20, 3)"),
        "numbers": ([np.ravel(xyz).tolist(), verts], "xyz: wrong nesting: expected a list of samples, each 21 lists of 3 numbers"),
        "one number": ([1.0, verts], "xyz: wrong nesting"),
        "a list too many": ([[*xyz, 4.0], verts], "xyz: wrong nesting"),
    }
    for name, (content, expected) in cases.items():
        assert expected in only(check_submission(write_zip(tmp_path / f"{name}.zip", content), "freihand", NUM)), name
    swapped = check_submission(write_zip(tmp_path / "swapped.zip", [verts, xyz]), "freihand", NUM)
    assert [finding.split(" in 6")[0] for finding in swapped] == [
        "xyz: expected shape (21, 3) in every sample, got shape (778, 3)",
        "verts: expected shape (778, 3) in every sample, got shape (21, 3)",
    ]
    by_sample = check_submission(write_zip(tmp_path / "pairs.zip", pairs), "freihand", NUM)
    assert "got a list of 6" in only(by_sample)


def test_the_numbers(tmp_path, hands):
    for value, expected in (
        (float("nan"), "verts: expected finite numbers in every sample, got NaN or infinity in 1 of 6, the first sample 2"),
        (float("-inf"), "got NaN or infinity in 1 of 6"),
        (None, "got null in 1 of 6"),
        ("0.1", "verts: expected numbers only in every sample, got text among the numbers in 1 of 6, the first sample 2"),
    ):
        xyz, verts = as_lists(*hands)
        verts[2][100][1] = value
        assert expected in only(check_submission(write_zip(tmp_path / "x.zip", [xyz, verts]), "freihand", NUM)), value
    huge = json.dumps(as_lists(*hands)).replace("0.7", "1e999", 1)
    assert "got NaN or infinity in 1 of 6" in only(check_submission(write_zip(tmp_path / "x.zip", huge), "freihand", NUM))
    typo = json.dumps(as_lists(*hands)).replace("0.7", "0..7", 1)
    assert "got no valid JSON in 1 of 6" in only(check_submission(write_zip(tmp_path / "x.zip", typo), "freihand", NUM))


@pytest.mark.parametrize("name", ["freihand", "ho3d"])
def test_units(tmp_path, hands, name):
    xyz, verts = in_layout(hands, name)
    for factor, unit in ((1000, "millimetres"), (100, "centimetres")):
        findings = check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz * factor, verts * factor)), name, NUM)
        assert len(findings) == 2
        assert findings[0].startswith("xyz: expected metres")
        assert all(finding.endswith(f"these look like {unit}") for finding in findings)
    findings = check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz, verts * 1000)), name, NUM)
    assert only(findings).startswith("verts: expected metres")
    findings = check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz * 0, verts * 0)), name, NUM)
    assert findings[0] == "xyz: expected metres, hands 0.03 to 0.4 wide, got a median of 0"


def test_axes(tmp_path, hands):
    def findings(xyz, verts, layout):
        return check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz, verts)), layout, NUM)

    as_freihand, as_ho3d = (in_layout(hands, name) for name in ("freihand", "ho3d"))
    opencv_for_ho3d = as_ho3d[0] * [1, -1, -1], as_ho3d[1] * [1, -1, -1]
    assert "axes: expected z < 0 in front of the camera (OpenGL axes), got the opposite in 6 of 6" in only(
        findings(*opencv_for_ho3d, "ho3d")
    )
    opengl_for_freihand = as_freihand[0] * [1, -1, -1], as_freihand[1] * [1, -1, -1]
    assert "axes: expected z > 0" in only(findings(*opengl_for_freihand, "freihand"))
    only_z = opencv_for_ho3d[0] * [1, 1, -1], opencv_for_ho3d[1] * [1, 1, -1]
    assert "hands look mirrored" in only(findings(*only_z, "ho3d"))
    mirrored = as_freihand[0] * [-1, 1, 1], as_freihand[1] * [-1, 1, 1]
    assert "hands look mirrored" in only(findings(*mirrored, "freihand"))
    different = as_freihand[0], as_freihand[1] * [-1, -1, 1] + [0.2, 0, 0]
    assert "xyz and verts: expected the same hands" in only(findings(*different, "freihand"))
    behind = as_freihand[0].copy(), as_freihand[1].copy()
    behind[0][3] -= [0, 0, 0.7]
    behind[1][3] -= [0, 0, 0.7]
    assert "at least partly behind it in 1 of 6 samples, the first sample 3" in only(findings(*behind, "freihand"))


@pytest.mark.parametrize(
    ("name", "order", "expected"),
    [
        ("freihand", STD_TO_HO3D, "expected joints in the order std21 (FreiHAND), got what looks like MANO + tips (HO3D)"),
        ("freihand", RHD_TO_STD, "got what looks like RHD"),
        ("freihand", np.argsort(INTERHAND_TO_STD), "got what looks like InterHand2.6M"),
        ("ho3d", HO3D_TO_STD, "expected joints in the order MANO + tips (HO3D), got what looks like std21 (FreiHAND)"),
    ],
)
def test_joint_order(tmp_path, hands, name, order, expected):
    xyz, verts = in_layout(hands, name)
    findings = check_submission(write_zip(tmp_path / "x.zip", as_lists(xyz[:, order], verts)), name, NUM)
    assert expected in only(findings)


def test_right_hands_bend_towards_their_palm():
    for side, sign in ((1, 1), (0, -1)):
        _, joints, _ = make_hands(30, np.random.default_rng(side), side=side, spread_deg=90)
        assert sign * bend_towards_palm(joints) > 0.2


def test_several_things_at_once_each_have_their_line(tmp_path, hands):
    xyz, verts = as_lists(*in_layout(hands, "freihand"))
    xyz[0] = xyz[0][:5]
    xyz[4] = xyz[4][:5]
    verts[1][0][0] = float("nan")
    path = write_zip(tmp_path / "x.zip", [xyz, verts])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("extra.json", "{}")
    findings = check_submission(path, "freihand", NUM)
    assert len(findings) == 3
    assert "got shape (5, 3) in 2 of 6, the first sample 0" in findings[1]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1 << 20])
def test_the_file_may_be_cut_into_pieces_anywhere(hands, monkeypatch, size):
    monkeypatch.setattr("pipelines.submission.json_samples._CHUNK", size)
    few = [sample[:2].tolist() for sample in hands[0][:3]]
    text = json.dumps([few, few[:2]], indent=1 if size > 2 else None).encode()
    texts = SampleTexts(io.BytesIO(text))
    samples = [(number, json.loads(sample)) for number, sample in texts]
    assert samples == [(0, few[0]), (0, few[1]), (0, few[2]), (1, few[0]), (1, few[1])]
    assert json.loads(texts.skeleton) == [[None] * 3, [None] * 2]


def test_checking_does_not_need_torch():
    """The checker is for people with only a package in hand: it starts in no time."""
    code = "import sys, pipelines.submission.checking; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0
