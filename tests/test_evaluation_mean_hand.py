"""The mean-hand baseline: what it is made of, that it is placed right, and that it is as strong as a constant can be."""

from dataclasses import replace

import numpy as np
import pytest
from fake_hands import camera, make_hands, make_label, upright
from scipy.spatial.transform import Rotation

from handnet.hand.layer import HandLayer
from handnet.metrics import mpjpe, procrustes
from pipelines.evaluation.mean_hand import TrainingHands, fit_mean_hand, posed_mean_hand
from pipelines.evaluation.orientation import fit_orientation, weak_perspective_residuals


def training_hands(labels, crop_px=100.0):
    keypoints = np.array([label.keypoints_px for label in labels], np.float64)
    return TrainingHands(
        keypoints_px=keypoints,
        labelled=np.ones(keypoints.shape[:2], bool),
        side=np.array([label.side for label in labels]),
        center_px=keypoints.mean(axis=1),
        crop_px=np.full(len(labels), crop_px),
    )


def some_labels(num=40, seed=0, side=None):
    rng = np.random.default_rng(seed)
    sides, joints, vertices = make_hands(num, rng, side=side)
    K = camera(100, 200.0)
    positions = np.stack([*rng.uniform(-0.1, 0.1, (2, num)), rng.uniform(0.5, 0.9, num)], axis=1)
    return [make_label(sides[i], joints[i], vertices[i], positions[i], K, str(i)) for i in range(num)]


def test_the_2d_mean_is_that_of_the_loop():
    labels = some_labels()
    mean_hand = fit_mean_hand(training_hands(labels, crop_px=80.0), HandLayer())
    in_crop, in_box = np.zeros((21, 2)), np.zeros((21, 2))
    for label in labels:
        points = label.keypoints_px.astype(float)
        offset = points - points.mean(0)
        if label.side == 0:
            offset[:, 0] *= -1
        in_crop += offset / 80.0 / len(labels)
        in_box += offset / max(np.ptp(points[:, 0]), np.ptp(points[:, 1])) / len(labels)
    np.testing.assert_allclose(mean_hand.in_crop, in_crop, atol=1e-9)
    np.testing.assert_allclose(mean_hand.in_box, in_box, atol=1e-9)
    assert mean_hand.num_hands == len(labels)


def test_placing_it():
    mean_hand = fit_mean_hand(training_hands(some_labels()), HandLayer())
    center = np.array([30.0, 50.0])
    right, left = (mean_hand.keypoints_in_crop(side, center, 64.0) for side in (1, 0))
    np.testing.assert_allclose(right - center, (left - center) * [-1, 1], atol=1e-12)
    np.testing.assert_allclose(right.mean(0), center, atol=1e-9)  # the centre was the mean of the keypoints
    sized = mean_hand.keypoints_of_size(1, center, 10.0), mean_hand.keypoints_of_size(1, center, 20.0)
    np.testing.assert_allclose((sized[1] - center), 2 * (sized[0] - center), atol=1e-12)
    np.testing.assert_allclose(mean_hand.joints(0), mean_hand.joints(1) * [-1, 1, 1])
    np.testing.assert_allclose(mean_hand.vertices(0), mean_hand.vertices(1) * [-1, 1, 1])
    np.testing.assert_allclose(mean_hand.joints(1)[9], 0, atol=1e-6)
    with pytest.raises(ValueError, match="side"):
        mean_hand.joints(2)


def test_left_and_right_training_hands_say_the_same():
    rights = some_labels(side=1)
    lefts = [label.moved(np.eye(2, 3), flip_width_px=100) for label in rights]
    a, b = (fit_mean_hand(training_hands(labels), HandLayer()) for labels in (rights, lefts))
    assert (a.usual_side, b.usual_side) == (1, 0)
    np.testing.assert_allclose(a.in_crop, b.in_crop, atol=1e-6)
    np.testing.assert_allclose(a.joints_m, b.joints_m, atol=1e-3)


def test_it_is_a_real_hand_of_the_model():
    mean_hand = fit_mean_hand(training_hands(some_labels()), HandLayer())
    joints, vertices = posed_mean_hand(HandLayer())
    assert mpjpe(procrustes(mean_hand.joints_m[None], joints[None], allow_reflection=False), joints[None]) < 1e-6
    assert mpjpe(procrustes(mean_hand.vertices_m[None], vertices[None], allow_reflection=False), vertices[None]) < 1e-6
    assert np.ptp(vertices, axis=0).max() == pytest.approx(0.18, abs=0.04)  # metres


def test_residuals_follow_least_squares():
    rng = np.random.default_rng(1)
    points, targets = rng.normal(size=(21, 3)), rng.normal(size=(5, 21, 2))
    residuals = weak_perspective_residuals(points, targets)
    for n in range(5):
        design = np.zeros((42, 3))
        design[0::2, 0], design[1::2, 0] = points[:, 0], points[:, 1]
        design[0::2, 1] = design[1::2, 2] = 1
        solution = np.linalg.lstsq(design, targets[n].ravel(), rcond=None)[0]
        scale = max(solution[0], 0.0)  # a mirrored fit is none
        moved = points[:, :2] - points[:, :2].mean(0)
        expected = np.linalg.norm(targets[n] - targets[n].mean(0) - scale * moved, axis=1).mean()
        assert residuals[n] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_orientation_of_hands_seen_alike_is_found(seed):
    joints, _ = posed_mean_hand(HandLayer())
    rotation = Rotation.random(random_state=seed).as_matrix()
    rng = np.random.default_rng(seed)
    flat = (joints @ rotation.T)[:, :2]
    targets = rng.uniform(0.5, 2, (12, 1, 1)) * flat + rng.normal(size=(12, 1, 2))
    found = fit_orientation(joints, targets)
    assert weak_perspective_residuals(joints @ found.T, targets).mean() < 1e-4
    angle = np.degrees(np.arccos(np.clip((np.trace(found.T @ rotation) - 1) / 2, -1, 1)))
    assert angle < 1.0


def test_half_palms_half_backs_settle_on_one_of_them():
    """The average of both would be a hand seen edge-on, which is worse than either in 3D."""
    joints, _ = posed_mean_hand(HandLayer())
    back = joints @ upright().T
    palm = back @ np.diag([-1.0, 1.0, -1.0])
    rng = np.random.default_rng(0)
    views = [(back, palm)[i % 2] @ Rotation.from_rotvec(rng.normal(0, 0.25, 3)).as_matrix().T for i in range(60)]
    found = joints @ fit_orientation(joints, np.array([view[:, :2] / np.ptp(view[:, :2], axis=0).max() for view in views])).T
    edge = back @ Rotation.from_rotvec([0, np.pi / 2, 0]).as_matrix().T
    error, edge_error = (np.mean([np.linalg.norm(hand - view, axis=1).mean() for view in views]) for hand in (found, edge))
    assert error < 0.95 * edge_error
    assert min(np.linalg.norm(found - hand, axis=1).mean() for hand in (back, palm)) < 0.02


def test_no_complete_training_hand_is_an_error():
    hands = training_hands(some_labels(4))
    labelled = hands.labelled.copy()
    labelled[:, 3] = False
    with pytest.raises(ValueError, match="at least one training hand with all 21 keypoints"):
        fit_mean_hand(replace(hands, labelled=labelled), HandLayer())
