"""`handnet score` and `handnet check-submission`: what they print, their exit codes, and one line for each mistake."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fake_hands import make_hands
from fake_packages import NUM, as_lists, in_layout, right_hands, write_zip
from typer.testing import CliRunner, Result

from pipelines.cli import app
from pipelines.submission.layouts import LAYOUTS
from pipelines.submission.packing import write_package
from pipelines.submission.scoring import score_submission


@pytest.fixture(scope="module")
def hands():
    return right_hands()


@pytest.fixture
def published(tmp_path, hands):
    """A folder for each layout with the truth as its owners publish it."""
    for name in LAYOUTS:
        folder = tmp_path / name
        folder.mkdir()
        for kind, points in zip(("xyz", "verts"), in_layout(hands, name), strict=True):
            (folder / f"evaluation_{kind}.json").write_text(json.dumps(points.tolist()))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def package_of(folder: Path, hands, name: str, noise_m: float = 0.004) -> Path:
    rng = np.random.default_rng(1)
    write_package(folder / "pred.zip", *(points + rng.normal(0, noise_m, points.shape) for points in hands), LAYOUTS[name])
    return folder / "pred.zip"


@pytest.mark.parametrize("name", LAYOUTS)
def test_score(published, hands, name):
    package = package_of(published, hands, name)
    before = sorted(published.rglob("*"))
    result = run("score", package, "--gt", published / name, "--layout", name, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    expected = score_submission(package, *in_layout(hands, name), name)
    assert found["server"] == pytest.approx(expected.server, abs=1e-6)
    assert found["ours"] == pytest.approx(expected.ours, abs=1e-6)
    assert (found["layout"], found["num_samples"]) == (name, NUM)
    assert all("no_reflection" in key for key in found["ours"])
    assert sorted(published.rglob("*")) == before
    text = run("score", package, "--gt", published / name, "--layout", name).stdout
    server, ours = text.split("ours, on no server")
    values = dict(line.split(":") for line in server.splitlines()[1:] if line)
    assert {key: float(value) for key, value in values.items()} == pytest.approx(expected.server, abs=1e-6)
    assert "xyz_al_no_reflection_mean3d" in ours
    # pred.json itself gives the same
    bare = published / "pred.json"
    bare.write_bytes(zipfile.ZipFile(package).read("pred.json"))
    assert json.loads(run("score", bare, "--gt", published / name, "--layout", name, "--json").stdout) == found


def test_score_says_what_looks_wrong(published, hands):
    opencv = write_zip(published / "opencv.zip", as_lists(*in_layout(hands, "freihand")))
    result = run("score", opencv, "--gt", published / "ho3d", "--layout", "ho3d")
    assert result.exit_code == 0
    assert "note: axes: expected z < 0 in front of the camera (OpenGL axes)" in result.stderr
    assert "note: xyz: expected joints in the order MANO + tips (HO3D), got what looks like std21 (FreiHAND)" in result.stderr


def test_what_cannot_be_scored(published, hands):
    good = package_of(published, hands, "freihand")
    truth = published / "freihand"

    def refusal(code, *arguments):
        result = run("score", *arguments)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert all(line.startswith("error: ") for line in lines), lines
        return lines

    broken = as_lists(*hands)
    broken[0][2][0][0] = float("nan")
    broken[1][1] = broken[1][1][:5]
    lines = refusal(1, write_zip(published / "broken.zip", broken), "--gt", truth, "--layout", "freihand")
    assert [line.split(" in every")[0] for line in lines] == [
        "error: xyz: expected finite numbers",
        "error: verts: expected shape (778, 3)",
    ]
    short = write_zip(published / "short.zip", as_lists(hands[0][:3], hands[1][:3]))
    assert "expected predictions and truth of one shape" in refusal(2, short, "--gt", truth, "--layout", "freihand")[0]
    assert "layout: expected one of" in refusal(2, good, "--gt", truth, "--layout", "ho4d")[0]
    assert "evaluation_xyz.json: not found" in refusal(2, good, "--gt", published, "--layout", "freihand")[0]
    assert "not found" in refusal(1, published / "none.zip", "--gt", truth, "--layout", "freihand")[0]
    verts = truth / "evaluation_verts.json"
    whole = verts.read_text()
    for text, expected in (
        (whole[:-300], "evaluation_verts.json: not valid JSON (the file ends early)"),
        (
            json.dumps(json.loads(whole)[:-1]),
            "expected as many samples in each file, got {'evaluation_xyz.json': 6, 'evaluation_verts.json': 5}",
        ),
        (json.dumps([json.loads(whole)]), "evaluation_verts.json: verts: expected shape (778, 3) in every sample, got shape (6, 778, 3)"),
        ("[]", "evaluation_verts.json: expected at least one sample"),
        ('{"a": 1}', "evaluation_verts.json: expected a list of samples"),
        (re.sub(r"-?\d+\.\d+", "NaN", whole, count=1), "verts: expected finite numbers"),
    ):
        verts.write_text(text)
        assert expected in refusal(2, good, "--gt", truth, "--layout", "freihand")[0]


def test_a_clean_package_says_what_was_checked(tmp_path, hands):
    result = run("check-submission", package_of(tmp_path, hands, "ho3d"), "--layout", "ho3d", "--count", NUM)
    assert result.exit_code == 0, result.output
    assert "nothing found wrong. Checked for ho3d" in result.stdout
    for words in ("6 x 21 x 3", "metres", "OpenGL axes (z < 0)", "joint order MANO + tips (HO3D)", "evaluation.txt"):
        assert words in result.stdout
    assert (
        "but not the order of samples (image id)"
        in run("check-submission", package_of(tmp_path, hands, "freihand"), "--layout", "freihand", "--count", NUM).stdout
    )


def test_findings_have_a_line_each_and_exit_code_1(tmp_path, hands):
    path = package_of(tmp_path, hands, "freihand")
    result = run("check-submission", path, "--layout", "freihand")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "problem: xyz: expected 3,960 samples, got 6",
        "problem: verts: expected 3,960 samples, got 6",
    ]
    found = json.loads(run("check-submission", path, "--layout", "ho3d", "--count", NUM, "--json").stdout)
    assert len(found["problems"]) == 2
    assert found["doubts"] == []
    left = write_zip(tmp_path / "left.zip", as_lists(hands[0] * [-1, 1, 1], hands[1] * [-1, 1, 1]))
    doubtful = run("check-submission", left, "--layout", "freihand", "--count", NUM)
    assert doubtful.exit_code == 0  # the server takes it, and a poor network can be the reason
    assert doubtful.stdout.startswith("doubt: hands look mirrored")
    assert run("check-submission", left, "--layout", "x").exit_code == 2
    assert run("check-submission", tmp_path / "none.zip", "--layout", "freihand").stdout.startswith("problem: ")


def test_the_order_of_samples_is_seen_against_the_truth(tmp_path):
    _, joints, vertices = make_hands(200, np.random.default_rng(3), side=1, spread_deg=60)
    hands = joints + [0, 0, 0.7], vertices + [0, 0, 0.7]
    (tmp_path / "evaluation_xyz.json").write_text(json.dumps(hands[0].tolist()))
    rng = np.random.default_rng(4)
    poor = [points + rng.normal(0, 0.004, points.shape) for points in hands]
    for order, wrong in ((np.arange(200), False), (np.argsort([str(i) for i in range(200)]), True)):
        path = write_zip(tmp_path / "x.zip", as_lists(*(np.round(points[order], 4) for points in poor)))
        result = run("check-submission", path, "--layout", "freihand", "--count", 200, "--gt", tmp_path)
        assert ("another order of samples" in result.stdout) == wrong, result.stdout
        assert ("in the order of the truth" in result.stdout) != wrong
