"""Packages for the servers: what is predicted for every sample, how it is written, and what never stays behind."""

from __future__ import annotations

import json
import subprocess
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from fake_hands import FakePrediction, make_crops, make_scenes, truth, write_shards
from fake_packages import NUM, in_layout, only, right_hands

from handnet.hand.layer import HandLayer
from pipelines.config import SubmissionConfig
from pipelines.evaluation.frames import crop_frame, middle_frame
from pipelines.shards import ShardReader
from pipelines.submission.checking import check_submission
from pipelines.submission.geometry import bend_towards_palm
from pipelines.submission.layouts import LAYOUTS, find_layout
from pipelines.submission.meta import git_revision
from pipelines.submission.packing import write_package
from pipelines.submission.predicting import best_hand, fallback_hand, frame_of, predict_all
from pipelines.submission.scoring import load_submission

FALLBACK = fallback_hand(HandLayer(), "model")


@pytest.fixture(scope="module")
def hands():
    return right_hands()


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


DEFAULTS = {"model": "crop", "data": "fake", "layout": "freihand", "center": "label", "place": "predicted", "batch_size": 4}


def settings(**changes):
    return SubmissionConfig(**{**DEFAULTS, **changes})


class Recorded:
    """Returns prepared answers in order and keeps what it was shown."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.centers, self.sides = [], []

    def predict(self, images, K=None, centers_px=None, *, sides=None, score_threshold=0.3):
        self.sides += [None] * len(images) if sides is None else [side.tolist() for side in sides]
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
    predictions = predict_all(reader, predictor, settings(), 64, "keypoints", FALLBACK)
    assert predictions.keys == [f"{i:06d}" for i in range(10)]
    assert predictions.missing == ["000003"]
    assert predictor.centers == [[[32.0, 32.0]]] * 10
    assert predictor.sides == [None] * 10
    for i, sample in enumerate(samples):
        expected = FALLBACK[0] if i == 3 else (sample if sample.hands else samples[5]).hands[0].keypoints_m
        np.testing.assert_allclose(predictions.joints_m[i], expected)
    doubts = write_package(tmp_path / "pred.zip", predictions.joints_m, predictions.vertices_m, LAYOUTS["freihand"])
    assert only(doubts) == "xyz: 1 of 10 samples repeat an earlier one exactly, the first sample 6 (as 5)"


def test_whole_images_give_their_best_right_hand(tmp_path):
    samples = make_scenes(4, seed=3)
    frames = [middle_frame(sample, 64, center_given=False) for sample in samples]
    answers = [
        [truth(hand, f.affine, f.K, score=0.5 + 0.1 * n) for n, hand in enumerate(s.hands)] for s, f in zip(samples, frames, strict=True)
    ]
    predictor = Recorded(answers)
    reader = ShardReader(write_shards(tmp_path / "shards", samples))
    predictions = predict_all(reader, predictor, settings(model="multi", center="predicted"), 64, "keypoints", FALLBACK)
    assert predictor.centers == [None] * 4
    assert predictions.missing == ["000000"]
    hand = FakePrediction(1, 0.5, *[np.zeros(1)] * 5)
    left, better = replace(hand, side=0, score=0.9), replace(hand, score=0.7)
    assert best_hand([hand, left, better]) is better
    assert best_hand([left]) is left
    assert best_hand([]) is None


def test_a_test_set_is_used_as_its_owners_give_it(tmp_path):
    """Crops around the middle or the published box, right hands, and the hand brought to the given bone length or wrist."""
    samples = make_crops(4, seed=4, side=1)
    given = []
    for sample in samples:
        hand = sample.hands[0]
        bone = float(np.linalg.norm(hand.keypoints_m[10] - hand.keypoints_m[9]))
        hidden = replace(hand, keypoints_px=np.tile(hand.keypoints_px[:1], (21, 1)), keypoints_m=None, vertices_m=None)
        given.append(replace(sample, hands=(replace(hidden, given_scale_m=bone, given_wrist_m=hand.keypoints_m[0]),)))
    reader = ShardReader(write_shards(tmp_path / "shards", given))

    def predict(center, place, answers):
        predictor = Recorded(answers)
        found = predict_all(reader, predictor, settings(center=center, place=place), 64, "keypoints", FALLBACK)
        assert predictor.sides == [[1]] * 4
        assert predictor.centers == [[[32.0, 32.0]]] * 4
        return found

    frame = middle_frame(samples[0], 64, center_given=True)
    smaller = [[scaled(truth(sample.hands[0], frame.affine, frame.K), 0.5)] for sample in samples]
    moved = [[shifted(truth(sample.hands[0], frame.affine, frame.K), [0.1, 0, -0.2])] for sample in samples]
    for found in (predict("middle", "scale", smaller), predict("box", "wrist", moved)):
        for i, sample in enumerate(samples):
            np.testing.assert_allclose(found.joints_m[i], sample.hands[0].keypoints_m, atol=1e-6)
            np.testing.assert_allclose(found.vertices_m[i], sample.hands[0].vertices_m, atol=1e-6)
    nothing = predict("middle", "wrist", [[]] * 4)
    assert len(nothing.missing) == 4
    np.testing.assert_allclose(nothing.joints_m[:, 0], [sample.hands[0].keypoints_m[0] for sample in samples], atol=1e-6)

    box = frame_of(given[1], settings(center="box"), 64, "keypoints")
    x0, y0, x1, y1 = given[1].hands[0].box_px
    np.testing.assert_allclose(box.affine[:, :2] @ [(x0 + x1) / 2, (y0 + y1) / 2] + box.affine[:, 2], [32, 32], atol=1e-4)
    bare = ShardReader(write_shards(tmp_path / "bare", samples))
    with pytest.raises(ValueError, match="sample 000000: place: wrist: the dataset gives none"):
        predict_all(bare, Recorded([[]] * 4), settings(place="wrist"), 64, "keypoints", FALLBACK)
    with pytest.raises(ValueError, match="center: box: expected one hand, got 0"):
        frame_of(replace(samples[0], hands=()), settings(center="box"), 64, "keypoints")
    with pytest.raises(ValueError, match="center: expected 'predicted' for model 'multi'"):
        settings(model="multi", center="box")


def scaled(hand, factor):
    return replace(hand, keypoints_m=hand.keypoints_m * np.float32(factor), vertices_m=hand.vertices_m * np.float32(factor))


def shifted(hand, offset):
    offset = np.array(offset, np.float32)
    return replace(hand, keypoints_m=hand.keypoints_m + offset, vertices_m=hand.vertices_m + offset)


def test_the_fallback_is_an_upright_right_hand_in_front_of_the_camera():
    joints, vertices = FALLBACK
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
