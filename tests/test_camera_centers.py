"""The camera, the centre definitions, Gaussian targets and peak picking, each against its definition or a naive loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handnet.camera import WINDOW_HALF_M, decode_translation, intrinsics, project, unproject
from handnet.centers import center_cells, find_peaks, gaussian_radius, gaussian_targets, hand_boxes, hand_centers


def some_K(num: int) -> torch.Tensor:
    K = torch.eye(3, dtype=torch.float64).repeat(num, 1, 1)
    K[:, 0, 0] = torch.linspace(200, 900, num)
    K[:, 1, 1] = torch.linspace(300, 700, num)
    K[:, 0, 2], K[:, 1, 2] = 101.0, 57.0
    return K


def test_unproject_inverts_project():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(5, 21, 3, generator=generator, dtype=torch.float64) - 0.5
    points[..., 2] += 1.0
    K = some_K(5)
    torch.testing.assert_close(unproject(project(points, K), points[..., 2], K), points)


def test_project_is_the_matrix_product_and_finite_behind_the_camera():
    point = torch.tensor([[[0.1, -0.2, 0.5]]], dtype=torch.float64)
    K = some_K(1)
    homogeneous = K[0] @ point[0, 0]
    torch.testing.assert_close(project(point, K)[0, 0], homogeneous[:2] / homogeneous[2])
    assert torch.isfinite(project(-point, K)).all()


def test_translation_of_zero_fills_the_window_at_its_centre():
    K = some_K(3)
    center, window = torch.tensor([[30.0, 40.0]] * 3, dtype=torch.float64), torch.tensor([20.0, 40.0, 80.0], dtype=torch.float64)
    root = decode_translation(torch.zeros(3, 3, dtype=torch.float64), center, window, K)
    torch.testing.assert_close(project(root[:, None], K)[:, 0], center)
    torch.testing.assert_close((K[:, 0, 0] * K[:, 1, 1]).sqrt() / root[:, 2], window / WINDOW_HALF_M)  # pixels per metre


def test_intrinsics_have_the_principal_point_at_the_image_centre():
    assert intrinsics(512.0, 640, 480).tolist() == [[512, 0, 320], [0, 512, 240], [0, 0, 1]]


def test_centre_definitions():
    keypoints = torch.rand(4, 21, 2, generator=torch.Generator().manual_seed(1)) * 100
    visible = torch.ones(4, 21)
    visible[1, 5:] = 0
    visible[2] = 0
    mean = hand_centers(keypoints, visible, "keypoints")
    torch.testing.assert_close(mean[0], keypoints[0].mean(0))
    torch.testing.assert_close(mean[1], keypoints[1, :5].mean(0))
    torch.testing.assert_close(mean[2], keypoints[2].mean(0))  # nothing visible: all, not NaN
    box = hand_boxes(keypoints, visible)
    torch.testing.assert_close(box[1], torch.cat([keypoints[1, :5].amin(0), keypoints[1, :5].amax(0)]))
    torch.testing.assert_close(hand_centers(keypoints, visible, "box"), (box[:, :2] + box[:, 2:]) / 2)
    torch.testing.assert_close(hand_centers(keypoints, visible, "root"), keypoints[:, 9])


def iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = w * h
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


@settings(deadline=None, max_examples=60)
@given(st.floats(2, 60), st.floats(2, 60))
def test_radius_keeps_the_overlap(w, h):
    r = float(gaussian_radius(torch.tensor([[w, h]], dtype=torch.float64))[0])
    box = (0.0, 0.0, w, h)
    overlaps = [
        iou(box, (r, r, w + r, h + r)),  # both corners shifted
        iou(box, (r, r, w - r, h - r)),  # shrunk
        iou(box, (-r, -r, w + r, h + r)),  # grown
    ]
    assert min(overlaps) == pytest.approx(0.7, abs=1e-6)


def naive_targets(cells, radius, image_index, channel, b, c, h, w):
    out = np.zeros((b, c, h, w))
    for (row, column), r, i, k in zip(cells, radius, image_index, channel, strict=True):
        sigma = (2 * r + 1) / 6
        for y in range(h):
            for x in range(w):
                out[i, k, y, x] = max(out[i, k, y, x], math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2)))
    return out


def test_targets_equal_the_naive_loop():
    rng = np.random.default_rng(0)
    cells = rng.integers(0, [9, 11], (6, 2))
    radius, image, channel = rng.uniform(0, 3, 6), np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 1, 1])
    tensors = [torch.tensor(value) for value in (cells, radius, image, channel)]
    got = gaussian_targets(*tensors, num_images=4, num_channels=2, height=9, width=11)
    np.testing.assert_allclose(got.numpy(), naive_targets(cells, radius, image, channel, 4, 2, 9, 11), atol=1e-12)
    assert (got[image, channel, cells[:, 0], cells[:, 1]] == 1).all()
    assert got[3].sum() == 0


def test_no_hands_give_empty_targets():
    none = torch.zeros(0, dtype=torch.long)
    got = gaussian_targets(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0), none, none, 2, 1, 4, 4)
    assert got.shape == (2, 1, 4, 4)
    assert got.sum() == 0


def test_peaks_recover_painted_centres():
    centers = torch.tensor([[21.0, 10.0], [50.0, 40.0], [9.0, 55.0]])
    cells = center_cells(centers, 4, 16, 16)
    index = torch.tensor([0, 0, 2])
    heat = gaussian_targets(cells, torch.tensor([2.0, 3.0, 2.0]), index, torch.zeros(3, dtype=torch.long), 3, 1, 16, 16)
    heat = heat * torch.tensor([0.9, 1.0, 0.6]).view(3, 1, 1, 1)
    peaks = find_peaks(heat, 4, threshold=0.3)
    assert peaks.image_index.tolist() == [0, 0, 2]
    assert sorted(map(tuple, peaks.cells.tolist())) == sorted(map(tuple, cells.tolist()))
    assert (peaks.centers_px - (peaks.cells.flip(-1) + 0.5) * 4).abs().max() < 1e-4  # symmetric blobs: cell centres
    assert len(find_peaks(heat, 4, threshold=0.95).scores) == 0


def test_a_plateau_is_one_peak_and_a_flat_map_at_most_a_few():
    heat = torch.zeros(1, 1, 8, 8)
    heat[0, 0, 3, 3:5] = 0.8
    assert len(find_peaks(heat, 4, threshold=0.3).scores) == 1
    with pytest.raises(ValueError, match="threshold"):
        find_peaks(heat, 4, threshold=1.5)


def test_sub_cell_offset_follows_the_parabola():
    heat = torch.zeros(1, 1, 7, 7)
    heat[0, 0, 3, 2:5] = torch.tensor([0.5, 0.9, 0.7])
    peak = find_peaks(heat, 8, threshold=0.3)
    offset = 0.5 * (0.7 - 0.5) / (2 * 0.9 - 0.5 - 0.7)
    assert peak.centers_px[0, 0].item() == pytest.approx((3.5 + offset) * 8, abs=1e-4)
