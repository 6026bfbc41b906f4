"""Every loss against a naive loop over hands and joints, its invariances, its gradient, and the inputs that must not divide by zero."""

import math

import numpy as np
import pytest
import torch

from handnet.losses.consistency import consistency_loss
from handnet.losses.localization import focal_heatmap_loss, side_loss, window_keypoint_loss, window_loss, window_map_loss
from handnet.losses.reconstruction import bone_loss, hand_unit_px, joints_3d_loss, photometric_loss, reprojection_loss
from handnet.losses.regularization import pose_limit_loss, shape_prior_loss
from handnet.network.sampling import local_keypoints
from handnet.skeleton import BONES


@pytest.fixture
def hands():
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
    total = count = 0.0
    for m in range(4):
        unit = naive_unit(target[m], visible[m])
        for j in range(21):
            if visible[m, j]:
                total += np.linalg.norm(predicted[m, j] - target[m, j]) / unit
                count += 1
    assert reprojection_loss(*hands).item() == pytest.approx(total / count, abs=1e-5)


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


@pytest.mark.parametrize("loss", [reprojection_loss, bone_loss])
def test_gradients_and_a_perfect_prediction(hands, loss):
    predicted, target, visible = hands
    assert torch.autograd.gradcheck(lambda p: loss(p, target, visible), predicted.clone().requires_grad_(), atol=1e-4)
    perfect = target.clone().requires_grad_()
    value = loss(perfect, target, visible)
    value.backward()
    assert value.item() < 5e-3
    assert torch.isfinite(perfect.grad).all()


@pytest.mark.parametrize("num", [0, 2])
def test_nothing_visible_gives_zero_not_nan(num):
    points, none = torch.randn(num, 21, 2), torch.zeros(num, 21)
    for loss in (reprojection_loss, bone_loss):
        assert loss(points, points + 1, none).item() == 0
    assert window_keypoint_loss(points, points + 1, none, torch.ones(num)).item() == 0
    assert window_loss(torch.zeros(0), torch.zeros(0)).item() == 0
    assert pose_limit_loss(torch.zeros(0, 45), torch.zeros(0, dtype=torch.long)).item() == 0
    assert shape_prior_loss(torch.zeros(0, 10)).item() == 0
    assert consistency_loss(points[:0], points[:0], torch.ones(0)).item() == 0


def test_a_finger_that_points_at_the_camera_keeps_the_unit_finite():
    target = torch.rand(1, 21, 2) * 50
    target[:, 10] = target[:, 9]
    assert hand_unit_px(target, torch.ones(1, 21)).item() >= 0.15 * 20


def test_focal_loss_equals_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 1, 5, 6, generator=generator, dtype=torch.float64) * 0.9
    target[0, 0, 1, 2] = target[1, 0, 4, 4] = 1
    total = 0.0
    for logit, t in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= (1 - p) ** 2 * math.log(p) if t == 1 else (1 - t) ** 4 * p**2 * math.log(1 - p)
    assert focal_heatmap_loss(logits, target).item() == pytest.approx(total / 2, rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: focal_heatmap_loss(x, target), logits.requires_grad_())


def test_focal_loss_of_an_image_without_hands_is_finite():
    value = focal_heatmap_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    assert 0 < value.item() < 10


def test_side_loss_is_focal_cross_entropy():
    logit, side = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 1, 0])
    naive = 0.0
    for x, s in zip(logit.tolist(), side.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p = p if s else 1 - p
        naive -= (1 - p) ** 2 * math.log(p) / 3
    assert side_loss(logit, side).item() == pytest.approx(naive, rel=1e-5)
    assert side_loss(logit[:0], side[:0]).item() == 0


def test_photometric_counts_masked_pixels_only():
    image, rendered = torch.zeros(1, 4, 4, 3), torch.full((1, 4, 4, 3), 0.5)
    mask = torch.zeros(1, 4, 4)
    assert photometric_loss(rendered, image, mask).item() == 0
    mask[0, 0, :2] = 1
    assert photometric_loss(rendered, image, mask).item() == pytest.approx(0.5 * math.sqrt(3), rel=1e-4)
    image[0, 3, 3] = 9.0  # outside the mask
    assert photometric_loss(rendered, image, mask).item() == pytest.approx(0.5 * math.sqrt(3), rel=1e-4)


def test_shape_prior_and_3d_terms():
    betas = torch.arange(20.0).view(2, 10)
    assert shape_prior_loss(betas).item() == pytest.approx(float((betas**2).mean()))
    joints = torch.rand(2, 21, 3)
    assert joints_3d_loss(joints + 5.0, joints).item() == pytest.approx(0, abs=1e-5)  # root-aligned
    assert joints_3d_loss(joints * 2, joints).item() > 0.1


def heatmaps_with_peaks(points_px, stride, size):
    """Sharp logits at the given (21, 2) pixels of one image."""
    cell = torch.arange(size) * stride + stride / 2
    dx = cell[None, :] - points_px[:, 0, None]
    dy = cell[None, :] - points_px[:, 1, None]
    return (-(dx[:, None, :] ** 2 + dy[:, :, None] ** 2) / 8)[None]


def test_soft_argmax_finds_peaks_and_ignores_what_lies_outside_its_window():
    generator = torch.Generator().manual_seed(0)
    points = 40 + 40 * torch.rand(21, 2, generator=generator)
    maps = heatmaps_with_peaks(points, 4, 40)
    maps[0, :, 35:, 35:] = 50.0  # a much stronger response of another hand, far away
    center, window = torch.tensor([[60.0, 60.0]]), torch.tensor([32.0])
    local = local_keypoints(maps, torch.zeros(1, dtype=torch.long), center, window, 4)
    assert (local.keypoints_px[0] - points).norm(dim=-1).max() < 1.0
    visible = torch.ones(1, 21)
    close = window_map_loss(local.log_probability, points[None], visible, center, window)
    wrong = window_map_loss(local.log_probability, points[None] + 12, visible, center, window)
    assert close < wrong
    outside = window_map_loss(local.log_probability, points[None] + 500, visible, center, window)
    assert outside.item() == 0
