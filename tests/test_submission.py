"""Packages for the servers: written, read back, and every way they can be wrong found with its own line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_hands import FakePrediction, make_crops, make_hands, make_scenes, truth, write_shards
from scipy.linalg import orthogonal_procrustes

from handnet.skeleton import HO3D_TO_STD, INTERHAND_TO_STD, RHD_TO_STD, STD_TO_HO3D
from pipelines.config import SubmissionConfig
from pipelines.evaluation.frames import crop_frame, middle_frame
from pipelines.shards import ShardReader
from pipelines.submission.checking import bend_towards_palm, check_submission
from pipelines.submission.layouts import LAYOUTS, find_layout
from pipelines.submission.meta import git_revision
from pipelines.submission.packing import write_package
from pipelines.submission.predicting import best_hand, fallback_hand, predict_all
from pipelines.submission.reading import SampleTexts
from pipelines.submission.scoring import load_submission, score_submission

NUM = 6


@pytest.fixture(scope="module")
def hands():
    """Right hands in front of the camera, as the project has them: std21, OpenCV."""
    _, joints, vertices = make_hands(NUM, np.random.default_rng(0), side=1)
    position = np.array([0.02, -0.03, 0.7])
    return joints + position, vertices + position


def in_layout(hands, name):
    layout = LAYOUTS[name]
    return layout.joints(hands[0]), layout.vertices(hands[1])


def write_zip(path: Path, content: object, member: str = "pred.json") -> Path:
    """A package as the servers' own example code writes it."""
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, text)
    return path


def as_lists(xyz, verts):
    return [np.asarray(xyz).tolist(), np.asarray(verts).tolist()]


def only(findings: list[str]) -> str:
    assert len(findings) == 1, findings
    assert "\n" not in findings[0]
    return findings[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_package_holds_what_was_predicted(tmp_path, hands, name):
    path = tmp_path / "out" / "pred.zip"
    assert write_package(path, *hands, LAYOUTS[name]) == []
    assert check_submission(path, name, NUM) == []
    assert [p.name for p in path.parent.iterdir()] == ["pred.zip"]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["pred.json"]
        xyz, verts = json.loads(archive.read("pred.json"))
    assert np.shape(xyz) == (NUM, 21, 3)
    assert np.shape(verts) == (NUM, 778, 3)
    expected_xyz, expected_verts = in_layout(hands, name)
    np.testing.assert_allclose(xyz, expected_xyz, atol=5.001e-6)
    np.testing.assert_allclose(verts, expected_verts, atol=5.001e-6)
    read_xyz, read_verts = load_submission(path)
    np.testing.assert_array_equal(read_xyz, xyz)
    np.testing.assert_allclose(read_verts, verts, atol=1e-7)
    np.testing.assert_allclose(LAYOUTS[name].to_std21(read_xyz), hands[0], atol=5.001e-6)


def test_the_layouts_are_the_servers():
    joints = np.zeros((1, 21, 3))
    joints[0, :, 0] = np.arange(21)
    joints[0, :, 1:] = [0.5, 0.7]
    freihand, ho3d = LAYOUTS["freihand"].joints(joints)[0], LAYOUTS["ho3d"].joints(joints)[0]
    np.testing.assert_array_equal(freihand, joints[0])
    # MANO's order: wrist, index, middle, little, ring, thumb (three each), then the tips from thumb to little finger
    assert ho3d[:, 0].tolist() == [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]
    np.testing.assert_array_equal(ho3d[:, 1:], np.broadcast_to([-0.5, -0.7], (21, 2)))
    assert [LAYOUTS[name].num_samples for name in ("freihand", "ho3d", "ho3d-v3")] == [3960, 11524, 20137]
    with pytest.raises(ValueError, match=r"layout: expected one of \['freihand', 'ho3d', 'ho3d-v3'\], got 'ho4d'"):
        find_layout("ho4d")


def test_the_numbers_have_five_decimals_and_the_bytes_repeat(tmp_path, hands):
    paths = [tmp_path / name / "pred.zip" for name in "ab"]
    for path in paths:
        write_package(path, *hands, LAYOUTS["ho3d"])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    text = zipfile.ZipFile(paths[0]).read("pred.json").decode()
    assert "-0.0," not in text
    assert "e-" not in text
    assert max(len(number.split(".")[1]) for number in text.replace("[", "").replace("]", "").split(",")) == 5


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
    monkeypatch.setattr("pipelines.submission.reading._CHUNK", size)
    few = [sample[:2].tolist() for sample in hands[0][:3]]
    text = json.dumps([few, few[:2]], indent=1 if size > 2 else None).encode()
    texts = SampleTexts(io.BytesIO(text))
    samples = [(number, json.loads(sample)) for number, sample in texts]
    assert samples == [(0, few[0]), (0, few[1]), (0, few[2]), (1, few[0]), (1, few[1])]
    assert json.loads(texts.skeleton) == [[None] * 3, [None] * 2]


def test_nothing_is_left_behind_when_packing_fails(tmp_path, hands, monkeypatch):
    path = tmp_path / "pred.zip"
    joints, vertices = hands
    broken = joints.copy()
    broken[2, 3, 0] = np.nan
    with pytest.raises(ValueError, match=r"joints_m: expected finite numbers.*the first 2"):
        write_package(path, broken, vertices, LAYOUTS["freihand"])
    with pytest.raises(ValueError, match="joints_m: expected shape"):
        write_package(path, joints[:, :20], vertices, LAYOUTS["freihand"])
    with pytest.raises(ValueError, match="vertices_m: expected shape"):
        write_package(path, joints, vertices[:3], LAYOUTS["freihand"])
    with pytest.raises(ValueError, match="would not be accepted: xyz: expected metres"):
        write_package(path, joints * 1000, vertices * 1000, LAYOUTS["freihand"])
    with pytest.raises(ValueError, match=r"would not be accepted: .*axes"):
        write_package(path, joints - [0, 0, 2], vertices - [0, 0, 2], LAYOUTS["ho3d"])
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"an earlier package")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.submission.packing.find_problems", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_package(path, joints, vertices, LAYOUTS["freihand"])
    assert [p.name for p in tmp_path.iterdir()] == ["pred.zip"]
    assert path.read_bytes() == b"an earlier package"


def test_a_poor_network_is_no_reason_to_refuse(tmp_path, hands):
    """Predicted left hands, or one behind the camera, cost points but the server takes them."""
    joints, vertices = (points.copy() for points in hands)
    joints[0, :, 2] -= 0.8
    vertices[0, :, 2] -= 0.8
    doubts = write_package(tmp_path / "pred.zip", joints, vertices, LAYOUTS["freihand"])
    assert "partly behind" in only(doubts)
    assert "mirrored" in only(write_package(tmp_path / "pred.zip", hands[0] * [-1, 1, 1], hands[1] * [-1, 1, 1], LAYOUTS["freihand"]))


def naive_scores(xyz, verts, gt_xyz, gt_verts, layout):
    """The servers' scripts, one sample at a time."""

    def align(a, b):
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        size = np.linalg.norm(a) + 1e-8
        a, b = a / size, b / (np.linalg.norm(b) + 1e-8)
        rotation, scale = orthogonal_procrustes(a, b)
        return b @ rotation.T * scale * size + mean_a

    def scale_translate(a, b):
        length = np.linalg.norm(b[4] - b[0])
        b = b / length * np.linalg.norm(a[4] - a[0])
        return b - b[0] + a[0]

    def f(a, b, threshold):
        distances = np.linalg.norm(a[:, None] - b[None], axis=2)
        recall, precision = (distances.min(0) < threshold).mean(), (distances.min(1) < threshold).mean()
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0

    distances = {}
    f_scores = {}
    for x, v, gx, gv in zip(xyz, verts, gt_xyz, gt_verts, strict=True):
        pairs = {"xyz": (x, gx), "mesh": (v, gv), "mesh_al": (align(gv, v), gv)}
        if layout == "freihand":
            pairs["xyz_al"] = (align(gx, x), gx)
        else:
            pairs["xyz_procrustes_al"] = (align(gx, x), gx)
            pairs["xyz_scale_trans_al"] = (scale_translate(gx, x), gx)
        for name, (a, b) in pairs.items():
            distances.setdefault(name, []).append(np.linalg.norm(a - b, axis=1))
        for t in (5, 15):
            f_scores.setdefault(f"f_score_{t}", []).append(f(gv, v, t / 1000))
            f_scores.setdefault(f"f_al_score_{t}", []).append(f(gv, align(gv, v), t / 1000))
    scores = {name: float(np.mean(values)) for name, values in f_scores.items()}
    thresholds = np.linspace(0, 0.05, 100)
    for name, values in distances.items():
        values = np.array(values)
        curves = [[(values[:, p] <= t).mean() for t in thresholds] for p in range(values.shape[1])]
        scores[f"{name}_mean3d"] = float(values.mean()) * 100
        scores[f"{name}_auc3d"] = float(np.mean([np.trapezoid(curve, thresholds) for curve in curves]) / 0.05)
    return scores


@pytest.mark.parametrize("name", ["freihand", "ho3d"])
def test_scores_are_the_servers(tmp_path, hands, name):
    rng = np.random.default_rng(1)
    gt_xyz, gt_verts = in_layout(hands, name)
    predicted = [points + rng.normal(0, 0.01, points.shape) for points in hands]
    path = tmp_path / "pred.zip"
    write_package(path, *predicted, LAYOUTS[name])
    scores = score_submission(path, gt_xyz, gt_verts, name)
    expected = naive_scores(*load_submission(path), gt_xyz, gt_verts, name)
    assert set(scores) == set(expected)
    for key, value in expected.items():
        assert scores[key] == pytest.approx(value, abs=1e-6), key
    assert scores["f_score_5"] < scores["f_score_15"]
    perfect = score_submission((gt_xyz, gt_verts), gt_xyz, gt_verts, name)
    assert perfect["xyz_mean3d"] == 0
    assert perfect["f_score_5"] == 1


def test_scoring_refuses_what_it_cannot_score(tmp_path, hands):
    xyz, verts = hands
    with pytest.raises(ValueError, match="xyz: expected predictions and truth of one shape"):
        score_submission((xyz[:3], verts[:3]), xyz, verts, "freihand")
    with pytest.raises(ValueError, match=r"pred\.json: not at the zip's root"):
        score_submission(write_zip(tmp_path / "x.zip", [], "x.json"), xyz, verts, "freihand")


def settings(**changes):
    return SubmissionConfig(**{"model": "crop", "data": "fake", "layout": "freihand", "batch_size": 4, **changes})


class Recorded:
    """Returns prepared answers in order and keeps what it was shown."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.centers = []

    def predict(self, images, K=None, centers_px=None, *, score_threshold=0.3):
        self.centers += [None] * len(images) if centers_px is None else [center.tolist() for center in centers_px]
        answers, self.answers = self.answers[: len(images)], self.answers[len(images) :]
        return answers


def test_every_sample_gets_an_entry_in_order(tmp_path):
    samples = make_crops(10, seed=2, side=1)
    samples[6] = replace(samples[6], hands=())  # nothing labelled: the image's middle is taken
    answers = []
    for i, sample in enumerate(samples):
        frame = crop_frame(sample, sample.hands[0], 64, "keypoints") if sample.hands else middle_frame(sample, 64, center_given=True)
        answers.append([truth(sample.hands[0] if sample.hands else samples[5].hands[0], frame.affine, frame.K)] if i != 3 else [])
    predictor = Recorded(answers)
    reader = ShardReader(write_shards(tmp_path / "shards", samples))
    predictions = predict_all(reader, predictor, settings(), 64, "keypoints")
    assert predictions.keys == [f"{i:06d}" for i in range(10)]
    assert predictions.missing == ["000003"]
    assert predictor.centers == [[[32.0, 32.0]]] * 10
    for i, sample in enumerate(samples):
        expected = fallback_hand()[0] if i == 3 else (sample if sample.hands else samples[5]).hands[0].keypoints_m
        np.testing.assert_allclose(predictions.joints_m[i], expected)
    assert write_package(tmp_path / "pred.zip", predictions.joints_m, predictions.vertices_m, LAYOUTS["freihand"]) == []


def test_whole_images_give_their_best_right_hand(tmp_path):
    samples = make_scenes(4, seed=3)
    frames = [middle_frame(sample, 64, center_given=False) for sample in samples]
    answers = [
        [truth(hand, f.affine, f.K, score=0.5 + 0.1 * n) for n, hand in enumerate(s.hands)] for s, f in zip(samples, frames, strict=True)
    ]
    predictor = Recorded(answers)
    reader = ShardReader(write_shards(tmp_path / "shards", samples))
    predictions = predict_all(reader, predictor, settings(model="multi"), 64, "keypoints")
    assert predictor.centers == [None] * 4
    assert predictions.missing == ["000000"]
    hand = FakePrediction(1, 0.5, *[np.zeros(1)] * 5)
    left, better = replace(hand, side=0, score=0.9), replace(hand, score=0.7)
    assert best_hand([hand, left, better]) is better
    assert best_hand([left]) is left
    assert best_hand([]) is None


def test_the_fallback_is_an_upright_right_hand_in_front_of_the_camera():
    joints, vertices = fallback_hand()
    assert (joints[8, 1] < joints[5, 1] < joints[0, 1]).all()  # fingertips above knuckles above the wrist, y down
    assert np.allclose(joints[9], [0, 0, 0.7], atol=1e-6)
    assert bend_towards_palm(joints[None].astype(float)) > 0
    assert vertices[:, 2].min() > 0.5


def test_the_git_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision() is None
    commands = (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"])
    for command in commands:
        subprocess.run(["git", *command], check=True, capture_output=True)
    revision = git_revision()
    assert revision is not None
    assert len(revision["revision"]) == 40
    assert revision["modified"] is False


def test_checking_does_not_need_torch():
    """The checker is for people with only a package in hand: it starts in no time."""
    code = "import sys, pipelines.submission.checking; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0
