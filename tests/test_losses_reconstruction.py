"""The reconstruction losses (Eq. 8 to 10), silhouette and 3D terms, each against a naive loop over hands, joints or pixels."""

import math

import numpy as np
import pytest
import torch
from fake_batches import unchecked
from scipy.spatial.transform import Rotation

from handnet.hand.dofs import limits_table_deg
from handnet.hand.files import load_hand
from handnet.hand.layer import HandLayer
from handnet.losses.reconstruction import (
    bone_loss,
    hand_unit_px,
    joints_3d_loss,
    photometric_loss,
    reprojection_loss,
    root_aligned_loss,
    silhouette_loss,
)
from handnet.losses.regularization import RELEASED_LIMITS_DEG, pose_limit_loss, shape_prior_loss
from handnet.rendering import soft_silhouette
from handnet.skeleton import BONES, ROOT


@pytest.fixture
def hands():
    """Predicted and labelled keypoints and visibility of four hands, the last one with nothing visible."""
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(4, 21, 2, generator=generator, dtype=torch.float64) * 100
    predicted = target + torch.randn(4, 21, 2, generator=generator, dtype=torch.float64) * 5
    visible = (torch.rand(4, 21, generator=generator) > 0.3).double()
    visible[3] = 0
    return predicted, target, visible


def naive_unit(target, visible):
    shown = [p for p, v in zip(target, visible, strict=True) if v]
    if not shown:
        return 1.0
    shown = np.array(shown)
    size = (shown.max(0) - shown.min(0)).max()
    bone = np.linalg.norm(target[9] - target[10]) if visible[9] and visible[10] else 0.0
    return max(bone, 0.15 * size, 1.0)


def test_reprojection_equals_the_naive_loop(hands):
    predicted, target, visible = (t.numpy() for t in hands)
    total = released = count = 0.0
    for m in range(4):
        unit = naive_unit(target[m], visible[m])
        for j in range(21):
            if visible[m, j]:
                total += np.linalg.norm(predicted[m, j] - target[m, j]) / unit
                released += 0.01 * ((predicted[m, j] - target[m, j]) ** 2).mean()
                count += 1
    assert reprojection_loss(*hands).item() == pytest.approx(total / count, abs=1e-5)
    assert reprojection_loss(*hands, "released").item() == pytest.approx(released / count, rel=1e-9)


def test_bones_equal_the_naive_loop(hands):
    predicted, target, visible = (t.numpy() for t in hands)
    total = count = 0.0
    for m in range(4):
        unit = naive_unit(target[m], visible[m])
        for a, b in BONES:
            want = (target[m, b] - target[m, a]) / unit
            if not (visible[m, a] and visible[m, b]) or np.linalg.norm(want) <= 0.05:
                continue
            got = (predicted[m, b] - predicted[m, a]) / unit
            got = got / math.sqrt((got**2).sum() + 1e-4)
            total += np.linalg.norm(got - want / np.linalg.norm(want))
            count += 1
    assert bone_loss(*hands).item() == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("loss", [reprojection_loss, bone_loss])
def test_hand_scale_and_place_cancel(hands, loss):
    predicted, target, visible = hands
    moved = [3.0 * x + torch.tensor([40.0, -7.0], dtype=torch.float64) for x in (predicted, target)]
    assert loss(*moved, visible).item() == pytest.approx(loss(predicted, target, visible).item(), rel=1e-6)


def test_each_hand_may_be_scaled_by_itself(hands):
    predicted, target, visible = hands
    scale = torch.tensor([0.5, 1.0, 4.0, 2.0], dtype=torch.float64)[:, None, None]
    assert reprojection_loss(scale * predicted, scale * target, visible).item() == pytest.approx(
        reprojection_loss(predicted, target, visible).item(), rel=1e-6
    )
    released = [reprojection_loss(s * predicted, s * target, visible, "released").item() for s in (1, 3)]
    assert released[1] == pytest.approx(9 * released[0])  # it measures pixels


def test_a_moved_prediction_keeps_its_bones(hands):
    predicted, target, visible = hands
    shifted = predicted + torch.tensor([300.0, -20.0], dtype=torch.float64)
    assert bone_loss(shifted, target, visible).item() == pytest.approx(bone_loss(predicted, target, visible).item(), rel=1e-9)
    assert reprojection_loss(shifted, target, visible) > 2 * reprojection_loss(predicted, target, visible)


def test_what_is_not_visible_does_not_count(hands):
    predicted, target, visible = hands
    elsewhere = torch.where(visible[..., None] > 0, target, torch.full_like(target, -1.0))
    for loss in (reprojection_loss, bone_loss):
        assert loss(predicted, elsewhere, visible).item() == pytest.approx(loss(predicted, target, visible).item(), rel=1e-12)


def test_a_finger_that_points_at_the_camera_keeps_the_unit_finite():
    target = torch.rand(1, 21, 2, generator=torch.Generator().manual_seed(0)) * 50
    target[:, 10] = target[:, 9]
    assert hand_unit_px(target, torch.ones(1, 21)).item() >= 0.15 * 20


def test_photometric_equals_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    rendered, image = (torch.rand(2, 5, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = (torch.rand(2, 5, 4, generator=generator) > 0.5).double()
    distances = [math.dist(rendered[at].tolist(), image[at].tolist()) for at in np.ndindex(2, 5, 4) if mask[at]]
    assert photometric_loss(rendered, image, mask).item() == pytest.approx(np.mean(distances), abs=1e-5)
    changed = torch.where(mask[..., None] > 0, image, torch.full_like(image, 9.0))
    assert photometric_loss(rendered, changed, mask) == photometric_loss(rendered, image, mask)
    assert photometric_loss(rendered, image, torch.zeros_like(mask)).item() == 0


def test_silhouette_equals_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    drawn, target = (torch.rand(3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = (torch.rand(3, 5, 4, generator=generator) > 0.3).double()
    target[2] = 0  # an image without a labelled hand
    losses = []
    for b in range(2):
        both = union = 0.0
        for at in np.ndindex(5, 4):
            if weight[b][at]:
                s, t = drawn[b][at].item(), target[b][at].item()
                both, union = both + s * t, union + s + t - s * t
        losses.append(1 - both / union)
    assert silhouette_loss(drawn, target, weight).item() == pytest.approx(np.mean(losses), rel=1e-9)
    full = torch.ones(1, 5, 4)
    assert silhouette_loss(full, full, full).item() == pytest.approx(0, abs=1e-6)
    assert silhouette_loss(full, full, 0 * full).item() == 0
    assert silhouette_loss(0 * full, full, full).item() == 1


def test_the_silhouette_moves_the_hand_onto_its_mask():
    """Descent on the hand's place alone: the gradient of the silhouette is real and points the right way."""
    layer = HandLayer()
    turn = torch.tensor(Rotation.from_euler("x", 80, degrees=True).as_matrix(), dtype=torch.float32)[None]
    side = torch.ones(1, dtype=torch.long)
    rest = layer(turn, torch.zeros(1, 45), torch.zeros(1, 10), side, center_joint=ROOT).vertices
    K = torch.tensor([[[64.0, 0, 24], [0, 64, 24], [0, 0, 1]]])

    def drawn(place):
        return soft_silhouette(rest + place, layer.faces(1)[None], K, torch.zeros(1, dtype=torch.long), 1, 48, 48)

    true, everywhere = torch.tensor([0.01, -0.005, 0.4]), torch.ones(1, 48, 48)
    target = (drawn(true) > 0.5).float()
    assert 100 < target.sum() < 1500
    place = (true + torch.tensor([0.03, 0.02, 0.05])).requires_grad_()
    start = silhouette_loss(drawn(place), target, everywhere).item()
    optimizer = torch.optim.Adam([place], lr=0.005)
    for _ in range(60):
        optimizer.zero_grad()
        loss = silhouette_loss(drawn(place), target, everywhere)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.25 * start
    assert (place - true)[:2].abs().max().item() < 0.004


def poses(num=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, 45, generator=generator, dtype=torch.float64) * 0.6, torch.tensor([0, 1, 1, 0, 1, 0])[:num]


def test_pose_limits_equal_the_naive_loop():
    """Angles by another route: Euler angles of the rotation in the joint's frame, one joint at a time."""
    pose, side = poses()
    axes, limits = load_hand().joint_axes[1], limits_table_deg()
    total = 0.0
    for m in range(len(pose)):
        for j in range(15):
            vector = pose[m, 3 * j : 3 * j + 3].numpy() * (1 if side[m] else np.array([1, -1, -1]))
            frame = axes[j + 1]  # rows: flexion, abduction and twist axes
            in_frame = Rotation.from_matrix(frame @ Rotation.from_rotvec(vector).as_matrix() @ frame.T)
            abduction, flexion, twist = in_frame.as_euler("YXZ")  # R_abduction R_flexion R_twist
            if np.abs(abduction) + np.abs(twist) > np.pi:  # the other triple of the same rotation
                abduction, flexion, twist = abduction - np.sign(abduction) * np.pi, np.pi - flexion, twist - np.sign(twist) * np.pi
                flexion = (flexion + np.pi) % (2 * np.pi) - np.pi
            for angle, (low, high) in zip((flexion, abduction, twist), np.radians(limits[j]), strict=True):
                total += max(low - angle, 0) + max(angle - high, 0)
    assert pose_limit_loss(pose, side).item() == pytest.approx(total / pose.numel(), rel=1e-3)


def test_released_limits_equal_the_naive_loop():
    pose, side = poses()
    total = 0.0
    for m in range(len(pose)):
        for j in range(15):
            for axis in range(3):
                low, high = RELEASED_LIMITS_DEG[j][axis]
                if side[m] == 0 and axis > 0:
                    low, high = -high, -low
                value = math.degrees(pose[m, 3 * j + axis])
                total += math.radians(max(low - value, 0) + max(value - high, 0))
    assert pose_limit_loss(pose, side, limits="released").item() == pytest.approx(total / pose.numel(), rel=1e-9)
    # the ring finger's first joint bends down to 100 degrees, to either side's palm
    bent = torch.zeros(2, 45, dtype=torch.float64)
    bent[:, 29] = torch.tensor([-1.0, 1.0]) * math.radians(101)
    thumb = pose_limit_loss(torch.zeros(2, 45), torch.tensor([0, 1]), limits="released").item()
    assert thumb == 0
    assert pose_limit_loss(bent, torch.tensor([0, 1]), limits="released").item() == pytest.approx(math.radians(1) / 45, rel=1e-5)


@pytest.mark.parametrize("limits", ["anatomical", "released"])
def test_a_mirrored_pose_is_as_far_outside(limits):
    pose, side = poses()
    mirrored = pose * torch.tensor([1.0, -1.0, -1.0]).repeat(15)
    assert pose_limit_loss(mirrored, 1 - side, limits=limits).item() == pytest.approx(pose_limit_loss(pose, side, limits=limits).item())


def test_limits_are_measured_in_the_given_frames():
    pose, side = poses()
    turned = torch.from_numpy(load_hand().joint_axes[1].copy())[:, [1, 0, 2]]
    assert pose_limit_loss(pose, side, turned).item() != pytest.approx(pose_limit_loss(pose, side).item(), rel=1e-3)
    assert pose_limit_loss(pose, side, HandLayer(dtype=torch.float64).joint_axes).item() == pose_limit_loss(pose, side).item()


def test_unknown_forms_are_refused(hands):
    with unchecked(), pytest.raises(ValueError, match=r"reprojection form: expected one of \['paper', 'released'\], got 'printed'"):
        reprojection_loss(*hands, "printed")
    with unchecked(), pytest.raises(ValueError, match=r"pose limits: expected one of \['anatomical', 'released'\], got 'none'"):
        pose_limit_loss(*poses(), limits="none")


def test_shape_prior_and_3d_terms_equal_the_naive_loop():
    betas = torch.arange(20.0).view(2, 10)
    assert shape_prior_loss(betas).item() == pytest.approx(np.mean([b**2 for b in range(20)]))
    generator = torch.Generator().manual_seed(0)
    got, want = (torch.randn(3, 21, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    available = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    errors = []
    for m in (0, 2):
        for j in range(21):
            for axis in range(3):
                aligned = (got[m, j, axis] - got[m, 9, axis]) - (want[m, j, axis] - want[m, 9, axis])
                errors.append(10 * abs(aligned.item()))  # decimetres
    assert joints_3d_loss(got, want, available).item() == pytest.approx(np.mean(errors), rel=1e-9)
    want[1] = 1e6  # the row of a hand without a label
    assert joints_3d_loss(got, want, available).item() == pytest.approx(np.mean(errors), rel=1e-9)
    assert joints_3d_loss(got, want, 0 * available).item() == 0
    assert joints_3d_loss(want + 5.0, want).item() == pytest.approx(0, abs=1e-9)  # root-aligned
    vertices = torch.randn(3, 778, 3, generator=generator, dtype=torch.float64)
    moved = root_aligned_loss(vertices + 2, got[:, 9] + 2, vertices, got[:, 9])
    assert moved.item() == pytest.approx(0, abs=1e-9)
