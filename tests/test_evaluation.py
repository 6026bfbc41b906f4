"""Evaluation end to end on made-up hands: a predictor that knows the answers, one that says the mean hand, one that errs in known ways."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_evaluations import INPUT_PX, CropOracle, WholeOracle, all_true, config, run
from fake_hands import camera, make_crops, make_hands, make_label, make_scenes, project, truth, write_shards
from scipy.spatial.transform import Rotation

from handnet.hand.layer import HandLayer
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.frames import frames_of
from pipelines.evaluation.matching import match_given
from pipelines.evaluation.mean_hand import fit_mean_hand
from pipelines.evaluation.outputs import rounded, write_curve, write_metrics, write_predictions
from pipelines.evaluation.predicted import PredictedHands, gather
from pipelines.evaluation.runner import EvaluatedImage
from pipelines.evaluation.table import COLUMNS, HandColumns, HandTable
from pipelines.evaluation.training_hands import read_training_hands
from pipelines.evaluation.viewpoint import rotate, rotation_between, viewing_rays
from pipelines.shards import ShardReader

FIGURES_2D = ["error_2d_px", "error_2d_fraction", "error_2d_visible_px", "error_2d_visible_fraction"]
FIGURES_MM = ["pa_mpjpe_mm", "pa_mpjpe_no_reflection_mm", "root_aligned_mpjpe_mm", "scale_aligned_mpjpe_mm", "pa_mpvpe_mm"]
SHARES = ["f5", "f15", "auc", "auc_vertices"]


@pytest.fixture(scope="module")
def mean_hand(tmp_path_factory):
    folder = write_shards(tmp_path_factory.mktemp("train") / "train", make_crops(30, seed=1))
    return fit_mean_hand(read_training_hands(ShardReader(folder), INPUT_PX, "keypoints"), HandLayer())


def test_the_truth_scores_perfectly_and_the_mean_hand_does_not(tmp_path, mean_hand):
    samples = make_crops(10, seed=2)
    results, table, images = run(tmp_path, samples, CropOracle(samples, all_true), mean_hand, config())
    ours, mean = results.metrics["ours"], results.metrics["mean_hand"]
    for name in FIGURES_2D + FIGURES_MM:
        assert ours[name] < 1e-3, name
        assert mean[name] > (0.02 if "fraction" in name else 1.0), name
    for name in SHARES:
        assert ours[name] > 0.994, name  # an error of 1e-9 is not within the threshold 0
        assert mean[name] < 0.99, name
    assert ours["hand_type_accuracy"] == 1
    assert "precision" not in ours  # centres were given
    assert results.metrics["count"] == {
        "images": 10,
        "hands": 10,
        "detections": 10,
        "measured_hands": 10,
        "measured_hands_3d": 10,
        "training_hands_of_mean_hand": 30,
    }
    assert [image.key for image in images] == [sample.key for sample in samples]
    assert all(len(column) == 10 for column in table.values())


def test_a_predictor_that_says_the_mean_hand_has_the_baselines_figures(tmp_path, mean_hand):
    samples = make_crops(8, seed=3)

    def say_mean(sample, frame):
        hand, side = sample.hands[0], mean_hand.usual_side
        keypoints = mean_hand.keypoints_in_crop(side, np.full(2, INPUT_PX / 2), INPUT_PX)
        ray = viewing_rays(frame.K[None], np.full((1, 2), INPUT_PX / 2))
        turn = rotation_between(np.array([[0, 0, 1.0]]), ray)
        joints, vertices = (rotate(points[None], turn)[0] + [0.1, 0, 0.6] for points in (mean_hand.joints(side), mean_hand.vertices(side)))
        center = np.full(2, INPUT_PX / 2)
        return [
            replace(truth(hand, frame.affine, frame.K), center_px=center, keypoints_px=keypoints, keypoints_m=joints, vertices_m=vertices)
        ]

    results, _, _ = run(tmp_path, samples, CropOracle(samples, say_mean), mean_hand, config())
    ours, mean = results.metrics["ours"], results.metrics["mean_hand"]
    for name in FIGURES_2D + FIGURES_MM + SHARES:
        assert ours[name] == pytest.approx(mean[name], rel=1e-3), name
    assert mean["error_2d_fraction"] > 0.02


def test_figures_are_those_of_known_errors(tmp_path, mean_hand):
    samples = make_crops(9, seed=4)

    def shifted(sample, frame):
        hand = sample.hands[0]
        zoom = frame.affine[0, 0]
        answer = truth(hand, frame.affine, frame.K)
        joints = hand.keypoints_m.copy()
        joints[:, 2] += 0.3  # a wrong depth is forgiven by every alignment
        joints[5] += np.array([0.021, 0, 0])
        side = 1 - hand.side if sample.key == "000000" else hand.side
        return [replace(answer, keypoints_px=answer.keypoints_px + np.array([3.0, 4.0]) * zoom, keypoints_m=joints, side=side)]

    results, table, _ = run(tmp_path, samples, CropOracle(samples, shifted), mean_hand, config(batch_size=2))
    ours = results.metrics["ours"]
    assert ours["error_2d_px"] == pytest.approx(5.0, abs=1e-3)
    sizes = [np.ptp(sample.hands[0].keypoints_px, axis=0).max() for sample in samples]
    assert ours["error_2d_fraction"] == pytest.approx(np.mean([5 / size for size in sizes]), rel=1e-4)
    assert ours["root_aligned_mpjpe_mm"] == pytest.approx(1.0, abs=1e-3)  # 21 mm over 21 joints
    assert 1.0 < ours["pa_mpjpe_mm"] < 2.5  # the one wrong joint pulls the others
    assert ours["hand_type_accuracy"] == pytest.approx(8 / 9)
    assert table["error_2d_px"].mean() == pytest.approx(ours["error_2d_px"])
    assert table["predicted_side"][0] == 1 - table["side"][0]
    curve = results.pck_2d
    assert curve["ours"][curve["threshold_fraction"] <= 5 / max(sizes) - 1e-3].max() == 0
    assert curve["ours"][curve["threshold_fraction"] >= 5 / min(sizes)].min() == 1
    assert list(results.pck) == ["threshold_mm", "ours", "mean_hand"]
    assert len(results.pck["ours"]) == 100
    assert results.pck["threshold_mm"][-1] == pytest.approx(50)


def test_scenes_with_predicted_centres(tmp_path, mean_hand):
    samples = make_scenes(8, seed=5)  # 0, 1, 2, 3, 0, 1, 2, 3 hands

    def answers(sample, frame):
        hands = [truth(hand, frame.affine, frame.K, score=0.9 - 0.1 * i) for i, hand in enumerate(sample.hands)]
        number = int(sample.key)
        if number == 3:
            hands = hands[1:]  # missed
        if number in (0, 2):
            far = truth(samples[1].hands[0], frame.affine, frame.K, score=0.5)
            hands.append(replace(far, keypoints_px=far.keypoints_px + 200))  # nothing is there
        if number == 6:
            hands[0] = replace(hands[0], score=0.1)  # found, but below the threshold
        return sorted(hands, key=lambda hand: -hand.score)

    oracle = WholeOracle(samples, answers)
    settings = config(model="multi", centers="predicted")
    results, table, _ = run(tmp_path, samples, oracle, mean_hand, settings)
    ours, count = results.metrics["ours"], results.metrics["count"]
    assert oracle.thresholds == {0.05}
    assert count["hands"] == 12
    assert count["measured_hands"] == 10
    assert count["detections"] == 12
    assert ours["precision"] == pytest.approx(10 / 12)
    assert ours["recall"] == pytest.approx(10 / 12)
    # by score: 8 found above 0.5 or as good, then 2 false alarms at 0.5, then one more at 0.1 that only AP sees
    assert ours["ap"] == pytest.approx((10 + 11 / 13) / 12)
    for name in FIGURES_2D + FIGURES_MM:
        assert ours[name] < 1e-2, name
        assert results.metrics["mean_hand"][name] > ours[name]
    assert results.metrics["mean_hand"]["recall"] <= ours["recall"]
    assert table["found"].sum() == 10
    assert np.isnan(table["error_2d_px"][~table["found"]]).all()
    labelled = table["labelled"]
    assert (table["predicted_side"][labelled & ~table["found"]] == -1).all()
    # an image's labelled hands first, then its false alarms
    assert table["num_hands"].tolist() == [0] + [1] + [2] * 3 + [3] * 3 + [1] + [2] * 2 + [3] * 3
    assert np.flatnonzero(~labelled).tolist() == [0, 4]
    assert (table["hand"][~labelled] == -1).all()
    assert (table["score"][~labelled] == 0.5).all()
    assert table["source_id"][~labelled].tolist() == [None, None]
    assert np.isnan(table["center_distance_px"]).tolist() == [True] + [False] * 13  # alone in its image
    assert table["center_distance_px"][table["found"]].max() < 1e-3


def test_true_centres_in_whole_images(tmp_path, mean_hand):
    samples = make_scenes(4, seed=6)
    results, _, _ = run(tmp_path, samples, WholeOracle(samples, all_true), mean_hand, config(model="multi", centers="true"))
    assert results.metrics["count"]["measured_hands"] == 6
    assert results.metrics["ours"]["error_2d_px"] < 1e-3
    assert "precision" not in results.metrics["ours"]


def test_a_pasted_hand_is_compared_along_its_own_viewing_ray(tmp_path, mean_hand):
    """The hand was photographed in the middle of its image and pasted at the scene's edge: the scene's camera sees it turned."""
    rng = np.random.default_rng(7)
    sides, joints, vertices = make_hands(1, rng)
    own_K, scene_K = camera(100, 250.0), camera(256, 256.0)
    label = make_label(sides[0], joints[0], vertices[0], np.array([0, 0, 0.7]), own_K, "a")
    label = label.moved([[0.5, 0, 190.0], [0, 0.5, 20.0]])
    center = label.keypoints_px.mean(0).astype(float)[None]
    turn = rotation_between(viewing_rays(label.K[None], center), viewing_rays(scene_K[None], center))
    assert math.degrees(math.acos((np.trace(turn[0]) - 1) / 2)) > 15
    seen_joints, seen_vertices = (rotate(points[None], turn) for points in (label.keypoints_m, label.vertices_m))
    # turned like that, it projects near the label's pixels once it is moved to where it looks that large
    scale = 256.0 / (250.0 * 0.5)
    projected = project(scene_K, seen_joints[0] + seen_joints[0].mean(0) * (scale - 1))
    assert np.linalg.norm(projected - label.keypoints_px, axis=1).max() < 3.0
    predicted = PredictedHands(
        side=sides[:1],
        score=np.ones(1),
        center_px=center,
        keypoints_px=label.keypoints_px[None].astype(float),
        keypoints_m=seen_joints.astype(np.float32),
        vertices_m=seen_vertices.astype(np.float32),
        K=scene_K[None],
        frame_px=np.array([256.0]),
    )
    settings = config(model="multi")
    image = EvaluatedImage(
        key="a", number=0, size_px=(256, 256), hands=(label,), predicted=predicted, match=match_given(1), raw=[], overlap=None
    )
    with HandTable(tmp_path / "hands.parquet") as table:
        evaluator = Evaluator(mean_hand, settings, input_px=256, definition="keypoints", table=table)
        evaluator.add(image)
        evaluator.finish()
    ours = evaluator.results(HandColumns(tmp_path / "hands.parquet")).metrics["ours"]
    assert ours["root_aligned_mpjpe_mm"] < 1e-3
    assert ours["pa_mpjpe_mm"] < 1e-3
    assert "mpjpe_mm" not in ours  # positions in two cameras can't be compared


def test_rotations_between_rays():
    rng = np.random.default_rng(8)
    start, end = rng.normal(size=(2, 20, 3))
    start, end = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (start, end))
    turns = rotation_between(start, end)
    np.testing.assert_allclose(rotate(start[:, None], turns)[:, 0], end, atol=1e-9)
    angles = Rotation.from_matrix(turns).magnitude()
    np.testing.assert_allclose(np.cos(angles), (start * end).sum(1), atol=1e-9)
    np.testing.assert_allclose(rotation_between(start, start), np.broadcast_to(np.eye(3), (20, 3, 3)), atol=1e-12)
    with pytest.raises(ValueError, match="half a turn"):
        rotation_between(start, -start)
    K = np.array([[[300.0, 0, 50], [0, 200, 40], [0, 0, 1]]])
    np.testing.assert_allclose(viewing_rays(K, project(K[0], end[:1] * np.sign(end[:1, 2:]))), end[:1] * np.sign(end[:1, 2:]), atol=1e-9)


@pytest.mark.parametrize("model", ["crop", "multi"])
def test_predictions_come_back_to_the_images_pixels_and_camera(model):
    sample = make_scenes(4, seed=9, size_px=150)[3]
    frames = frames_of(sample, sample.hands, INPUT_PX, model=model, centers="true", definition="keypoints")
    assert len(frames) == (3 if model == "crop" else 1)
    if model == "crop":
        answers = [[truth(hand, frame.affine, frame.K)] for hand, frame in zip(sample.hands, frames, strict=True)]
        for hand, frame in zip(sample.hands, frames, strict=True):
            in_frame = hand.keypoints_px @ frame.affine[:, :2].T + frame.affine[:, 2]
            np.testing.assert_allclose(in_frame.mean(0), INPUT_PX / 2, atol=1e-4)
    else:
        answers = [[truth(hand, frames[0].affine, frames[0].K) for hand in sample.hands]]
        np.testing.assert_allclose(frames[0].centers_px, [answer.center_px for answer in answers[0]], atol=1e-4)
    predicted = gather(frames, answers)
    np.testing.assert_allclose(predicted.keypoints_px, [hand.keypoints_px for hand in sample.hands], atol=1e-4)
    np.testing.assert_allclose(predicted.frame_px, 150.0)
    for i, hand in enumerate(sample.hands):
        np.testing.assert_allclose(project(predicted.K[i], predicted.keypoints_m[i]), hand.keypoints_px, atol=1e-3)


def test_the_mean_hand_reads_only_2d_labels(tmp_path):
    samples = make_crops(6, seed=10)
    changed = [
        replace(s, hands=tuple(replace(h, keypoints_m=h.keypoints_m * 2, vertices_m=-h.vertices_m) for h in s.hands)) for s in samples
    ]
    fitted = []
    for name, these in (("a", samples), ("b", changed)):
        reader = ShardReader(write_shards(tmp_path / name, these))
        fitted.append(fit_mean_hand(read_training_hands(reader, INPUT_PX, "keypoints"), HandLayer()))
    np.testing.assert_array_equal(fitted[0].in_crop, fitted[1].in_crop)
    np.testing.assert_array_equal(fitted[0].vertices_m, fitted[1].vertices_m)


def test_large_training_sets_are_thinned_evenly(tmp_path, monkeypatch):
    samples = make_crops(9, seed=16)
    reader = ShardReader(write_shards(tmp_path / "shards", samples))
    monkeypatch.setattr("pipelines.evaluation.training_hands.MAX_TRAINING_IMAGES", 4)
    hands = read_training_hands(reader, INPUT_PX, "keypoints")
    np.testing.assert_allclose(hands.keypoints_px, [samples[i].hands[0].keypoints_px for i in (0, 3, 6)])
    np.testing.assert_allclose(hands.crop_px, 96)


def test_hands_without_3d_labels_are_measured_in_2d_only(tmp_path, mean_hand):
    samples = [replace(s, hands=tuple(h.without_3d() if i % 2 else h for h in s.hands)) for i, s in enumerate(make_crops(6, seed=11))]
    originals = make_crops(6, seed=11)
    oracle = CropOracle(samples, lambda sample, frame: all_true(originals[int(sample.key)], frame))
    results, table, _ = run(tmp_path, samples, oracle, mean_hand, config())
    assert results.metrics["count"]["measured_hands"] == 6
    assert results.metrics["count"]["measured_hands_3d"] == 3
    assert np.isnan(table["pa_mpjpe_mm"]).sum() == 3
    assert results.metrics["ours"]["pa_mpjpe_mm"] < 1e-3
    only_2d = [replace(s, hands=tuple(h.without_3d() for h in s.hands)) for s in originals]
    results, table, _ = run(
        tmp_path / "2d", only_2d, CropOracle(only_2d, lambda s, f: all_true(originals[int(s.key)], f)), mean_hand, config()
    )
    assert "pa_mpjpe_mm" not in results.metrics["ours"]
    assert results.pck["ours"].max() == 0


def test_finding_nothing_is_a_result_and_no_label_an_error(tmp_path, mean_hand):
    samples = make_scenes(3, seed=12)
    settings = config(model="multi", centers="predicted")
    results, table, _ = run(tmp_path, samples, WholeOracle(samples, lambda sample, frame: []), mean_hand, settings)
    assert results.metrics["ours"] == {"recall": 0.0, "ap": 0.0}
    assert results.metrics["count"]["hands"] == 3
    assert not table["found"].any()
    empty = [replace(sample, hands=()) for sample in samples]
    with pytest.raises(ValueError, match="at least one labelled hand"):
        run(tmp_path / "none", empty, WholeOracle(empty, lambda sample, frame: []), mean_hand, settings)


def test_max_samples_and_missing_predictions(tmp_path, mean_hand):
    samples = make_crops(5, seed=13)
    results, _, _ = run(tmp_path, samples, CropOracle(samples, all_true), mean_hand, config(max_samples=3))
    assert results.metrics["count"]["images"] == 3
    with pytest.raises(ValueError, match="000000: expected one prediction for each of 1 given centres, got 0"):
        run(tmp_path / "b", samples, CropOracle(samples, lambda sample, frame: []), mean_hand, config())


def test_a_network_that_diverged_is_told(tmp_path, mean_hand):
    samples = make_crops(4, seed=14)

    def diverged(sample, frame):
        return [replace(truth(sample.hands[0], frame.affine, frame.K), keypoints_px=np.full((21, 2), np.nan))]

    with pytest.raises(ValueError, match="000000: keypoints_px: expected finite predictions"):
        run(tmp_path, samples, CropOracle(samples, diverged), mean_hand, config())
    assert not list((tmp_path / "out").iterdir())


def test_files_are_the_same_every_time_and_nothing_half_written_stays(tmp_path, mean_hand):
    samples = make_scenes(4, seed=15)
    settings = config(model="multi", centers="predicted")
    written = []
    for name in ("a", "b"):
        folder = tmp_path / name
        results, table, images = run(folder, samples, WholeOracle(samples, all_true), mean_hand, settings)
        out = folder / "out"
        write_metrics(out / "metrics.json", results.metrics)
        write_curve(out / "pck.csv", results.pck)
        write_predictions(out / "predictions.npz", [i.key for i in images], [i.predicted for i in images], [i.raw for i in images])
        written.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert written[0] == written[1]
    assert set(written[0]) == {"metrics.json", "hands.parquet", "pck.csv", "predictions.npz"}
    out = tmp_path / "a" / "out"
    table = pq.read_table(out / "hands.parquet").to_pydict()
    assert table["key"] == ["000001", "000002", "000002", "000003", "000003", "000003"]
    assert list(table) == list(COLUMNS)
    assert (out / "pck.csv").read_text().splitlines()[0] == "threshold_mm,ours,mean_hand"
    with np.load(out / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["image"].tolist() == [1, 2, 2, 3, 3, 3]
        assert arrays["keys"].tolist() == [sample.key for sample in samples]
        assert arrays["vertices_m"].shape == (6, 778, 3)
        assert np.isnan(arrays["albedo"]).all()
        np.testing.assert_allclose(project(arrays["K"][0].astype(float), arrays["keypoints_m"][0]), arrays["keypoints_px"][0], atol=1e-2)
    with pytest.raises(TypeError):
        write_metrics(out / "metrics.json", {"ours": {"x": object()}})  # type: ignore[dict-item]
    assert {path.name for path in out.iterdir()} == set(written[0])
    assert (out / "metrics.json").read_bytes() == written[0]["metrics.json"]


def test_rounding():
    assert rounded(12.3456789) == 12.346
    assert rounded(0.000123456) == 0.00012346
    assert rounded(400.0) == 400
