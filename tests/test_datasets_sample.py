"""The record type: validation, affine transforms and mirroring keep 2D and 3D labels in agreement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_samples import make_label, project
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.datasets.sample import MASK_IGNORE, HandLabel, HandSample


@given(st.floats(0.1, 4), st.floats(-3.2, 3.2), st.floats(-300, 300), st.floats(-300, 300), st.booleans(), st.floats(10, 500))
@settings(max_examples=60, deadline=None)
def test_labels_agree_after_any_similarity_and_flip(scale, angle, dx, dy, flip, width):
    label = make_label(3)
    affine = np.array([[scale * np.cos(angle), -scale * np.sin(angle), dx], [scale * np.sin(angle), scale * np.cos(angle), dy]])
    moved = label.moved(affine)
    if flip:
        moved = moved.moved(np.eye(2, 3), flip_width_px=width)
    np.testing.assert_allclose(project(moved.K, moved.keypoints_m), moved.keypoints_px, atol=1e-3 * max(1, scale))
    # the affine kept with the label maps the source's keypoints to the current ones
    chained = label.keypoints_px @ moved.affine[:, :2].T + moved.affine[:, 2]
    np.testing.assert_allclose(chained, moved.keypoints_px, atol=2e-3)
    assert moved.side == (0 if flip else 1)
    assert (moved.keypoints_px[:, 0] >= moved.box_px[0] - 2e-3).all()


def mirrored(label: HandLabel) -> HandLabel:
    """The hand of an image 224 pixels wide, flipped."""
    return label.moved(np.eye(2, 3), flip_width_px=224)


def test_mirroring_twice_is_the_identity():
    label = make_label(1)
    twice = mirrored(mirrored(label))
    for name in ("keypoints_px", "box_px", "K", "keypoints_m", "vertices_m", "mano", "visible", "affine"):
        before = getattr(label, name) if name != "affine" else np.eye(3)[:2]
        np.testing.assert_allclose(getattr(twice, name), before, atol=1e-4, err_msg=name)
    assert twice.side == label.side


def test_mirror_changes_what_it_must():
    label = make_label(2)
    other = mirrored(label)
    np.testing.assert_allclose(other.keypoints_px[:, 0], 224 - label.keypoints_px[:, 0], atol=1e-4)
    np.testing.assert_allclose(other.vertices_m, label.vertices_m * [-1, 1, 1])
    np.testing.assert_allclose(other.mano[:48].reshape(16, 3), label.mano[:48].reshape(16, 3) * [1, -1, -1])
    np.testing.assert_allclose(other.mano[48:58], label.mano[48:58])
    np.testing.assert_allclose(other.mano[58:], label.mano[58:] * [-1, 1, 1])
    np.testing.assert_allclose(other.K, [[400, 0, 112], [0, 410, 110], [0, 0, 1]])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("side", 2, "side: expected 0"),
        ("keypoints_px", np.zeros((20, 2)), r"keypoints_px: expected shape \(21, 2\), got \(20, 2\)"),
        ("keypoints_m", np.full((21, 3), np.nan), "keypoints_m: expected finite numbers"),
        ("mano", np.zeros(58), r"mano: expected shape \(61,\)"),
        ("K", np.eye(4), "K: expected shape"),
        ("vertices_m", np.array([["a"]] * 778), "vertices_m: expected shape"),
        ("box_px", [5, 0, 1, 1], "box_px: expected x0 <= x1"),
        ("joint_convention", "other", "joint_convention"),
        ("source_id", "", "source_id"),
        ("affine", np.eye(3), "affine: expected shape"),
    ],
)
def test_bad_label_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(make_label(), **{field: value})


@pytest.mark.parametrize("key", ["", "a.b", "../a", "a/b", "a\n"])
def test_bad_key_is_refused(key):
    with pytest.raises(ValueError, match="key: expected"):
        HandSample(key=key, image=np.zeros((4, 4, 3), np.uint8), K=np.eye(3), hands=())


def test_mask_values_must_name_a_hand_or_ignore():
    mask = np.zeros((4, 4), np.uint8)
    mask[0, 0] = MASK_IGNORE
    common = {"key": "a", "image": np.zeros((4, 4, 3), np.uint8), "K": np.eye(3)}
    HandSample(**common, hands=(), mask=mask)
    mask[1, 1] = 2
    with pytest.raises(ValueError, match=r"mask: expected values 0\.\.1 or 255, got 2"):
        HandSample(**common, hands=(make_label(),), mask=mask)
    with pytest.raises(ValueError, match="image: expected"):
        HandSample(key="a", image=np.zeros((4, 4)), K=np.eye(3), hands=())


def test_without_3d_keeps_2d():
    label = make_label().without_3d()
    assert label.keypoints_m is None
    assert label.vertices_m is None
    assert label.mano is None
    np.testing.assert_array_equal(label.keypoints_px, make_label().keypoints_px)
