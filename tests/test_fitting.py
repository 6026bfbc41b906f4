"""Fitting as proof that gradients lead where they should: from 2D keypoints, from colours, and from a soft silhouette alone."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handnet.camera import intrinsics, project
from handnet.fitting import fit_hands
from handnet.hand.layer import HandLayer
from handnet.hand.pose_limits import joint_angles, limit_excess
from handnet.hand.pose_sampler import sample_poses
from handnet.losses.reconstruction import photometric_loss
from handnet.rendering import render_hands, shade, soft_silhouette, vertex_normals
from handnet.rotations import axis_angle_to_matrix
from handnet.skeleton import ROOT

SIZE_PX = 224
NUM_HANDS = 4
SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def layer():
    return HandLayer()


def random_hands(layer, num, seed):
    """Natural poses turned any way, every other hand a left one, before a camera of 224 px: parameters by name, output, K."""
    rng = np.random.default_rng(seed)
    side = torch.arange(num) % 2
    turn = torch.stack([torch.ones(num), 2.0 * side - 1, 2.0 * side - 1], -1)  # a left hand bends as the mirrored right one
    given = {
        "root_rotation": torch.tensor(Rotation.random(num, random_state=seed).as_matrix(), dtype=torch.float32),
        "pose": (torch.tensor(sample_poses(num, rng), dtype=torch.float32).unflatten(1, (15, 3)) * turn[:, None]).flatten(1),
        "betas": torch.tensor(rng.normal(0, 0.7, (num, 10)), dtype=torch.float32),
        "side": side,
        "translation": torch.tensor(rng.uniform([-0.03, -0.03, 0.45], [0.03, 0.03, 0.65], (num, 3)), dtype=torch.float32),
    }
    return given, layer(**given, center_joint=ROOT), intrinsics(2.0 * SIZE_PX, SIZE_PX, SIZE_PX).expand(num, 3, 3)


@pytest.fixture(scope="module")
def scenes(layer):
    """The labels of every seed in one batch, since a batch costs little more than a hand: keypoints_px, side, K, the true output."""
    parts = [random_hands(layer, NUM_HANDS, seed) for seed in SEEDS]
    K = torch.cat([K for _, _, K in parts])
    joints = torch.cat([out.joints for _, out, _ in parts])
    return project(joints, K), torch.cat([given["side"] for given, _, _ in parts]), K, joints


@pytest.fixture(scope="module")
def regularised(layer, scenes):
    keypoints_px, side, K, _ = scenes
    return fit_hands(layer, keypoints_px, side, K)


def test_keypoints_alone_are_met(layer, scenes):
    """The 2D term only, 300 steps: within 1.5 px, but with fingers bent as no hand can."""
    keypoints_px, side, K, _ = scenes
    fitted = fit_hands(layer, keypoints_px, side, K, pose_limits=0.0, shape_prior=0.0)
    assert fitted.error_px.max() < 1.5
    torch.testing.assert_close(fitted.error_px, (project(fitted.keypoints_m, K) - keypoints_px).norm(dim=-1).mean(1))
    assert (fitted.excess_rad > math.radians(10)).float().mean() > 0.5


def test_the_regulariser_keeps_angles_inside_their_limits(layer, scenes, regularised):
    """All 45 angles of every hand, to five hundredths of a degree, and the keypoints are met all the same."""
    _, side, _, joints = scenes
    assert regularised.error_px.max() < 1.5
    assert limit_excess(regularised.pose, side).max() < math.radians(0.05)
    assert torch.equal(regularised.excess_rad, limit_excess(regularised.pose, side).flatten(1).amax(1))
    assert joint_angles(regularised.pose, side)[..., 0].max() > math.radians(60), "hands that do not bend"
    # no 3D label was read; a hand with possible angles is nearly the true one
    relative = (regularised.keypoints_m - regularised.keypoints_m[:, ROOT:10]) - (joints - joints[:, ROOT:10])
    assert relative.norm(dim=-1).mean() < 0.008


def test_the_result_poses_the_layer_again(layer, scenes, regularised):
    _, side, _, _ = scenes
    hand = regularised
    out = layer(hand.root_rotation, hand.pose, hand.betas, side, hand.translation, center_joint=ROOT)
    torch.testing.assert_close(out.vertices, hand.vertices_m, atol=1e-6, rtol=0)
    assert not any(value.requires_grad for value in hand)


def test_hidden_keypoints_do_not_count(layer, scenes):
    """Three fingertips and the wrist without a label, NaN in their place."""
    keypoints_px, side, K, _ = (value[:4] for value in scenes)
    visible = torch.ones(4, 21)
    visible[:, [0, 4, 8, 12]] = 0
    fitted = fit_hands(layer, keypoints_px.masked_fill(visible[..., None] == 0, math.nan), side, K, visible, num_steps=120, num_starts=6)
    assert fitted.error_px.max() < 1.5
    assert torch.isfinite(fitted.vertices_m).all()


def test_no_hands_and_wrong_labels(layer, scenes):
    keypoints_px, side, K, _ = (value[:3] for value in scenes)
    empty = fit_hands(layer, keypoints_px[:0], side[:0], K[:0], num_steps=3)
    assert empty.vertices_m.shape == (0, 778, 3)
    broken = keypoints_px.clone()
    broken[1, 4] = math.nan
    few = torch.zeros(3, 21)
    few[[0, 1], :5] = 1
    for arguments, match in (
        ((broken, side, K), r"finite numbers, got NaN or infinity in hands \[1\]"),
        ((keypoints_px, side, K, few), r"at least 4 visible keypoints of every hand, got fewer in hands \[2\]"),
        ((keypoints_px[:, :20], side, K), r"keypoints_px \(3, 21, 2\) float, got \(3, 20, 2\)"),
        ((keypoints_px, side.float(), K), r"side \(3,\) int64, got \(3,\) torch.float32"),
        ((keypoints_px, side, K[0]), r"K \(3, 3, 3\) float, got \(3, 3\)"),
    ):
        with pytest.raises(ValueError, match=match):
            fit_hands(layer, *arguments)


def painted(layer, given, seed):
    """Smooth random colours with grain, and a light from one side: albedo (M,778,3) and light (M,27)."""
    generator = torch.Generator().manual_seed(seed)
    num = len(given["side"])
    rest = layer(torch.eye(3).expand(num, 3, 3), torch.zeros(num, 45), torch.zeros(num, 10), given["side"]).vertices
    waves = torch.sin(rest @ (60 * torch.randn(num, 3, 3, generator=generator)) + 6 * torch.rand(num, 1, 3, generator=generator))
    albedo = (0.5 + 0.25 * waves + 0.03 * torch.randn(rest.shape, generator=generator)).clamp(0, 1)
    light = 0.08 * torch.randn(num, 3, 9, generator=generator)
    light[..., 0] += 0.9
    light[..., 1:4] += torch.tensor([0.2, -0.25, 0.0])
    return albedo, light.flatten(1)


def draw(layer, vertices, side, albedo, light, K):
    faces = layer.both_faces[side]
    colors = shade(albedo, vertex_normals(vertices, faces), light)
    return render_hands(vertices, faces, colors, K, torch.arange(len(side)), len(side), SIZE_PX, SIZE_PX)


def psnr_db(image, target, mask):
    """Peak signal-to-noise ratio (M,) over the pixels of a mask; the peak is 1."""
    error = ((image - target).square().mean(-1) * mask).sum((1, 2)) / mask.sum((1, 2))
    return -10 * error.log10()


def test_the_photometric_loss_recovers_texture_and_light(layer):
    """From grey skin under plain light, on the true mesh: at least 30 dB over the hand, and so over the whole image."""
    given, out, K = random_hands(layer, 4, seed=0)
    target = draw(layer, out.vertices, given["side"], *painted(layer, given, 0), K)
    albedo = torch.full((4, 778, 3), 0.5, requires_grad=True)
    light = torch.zeros(4, 3, 9)
    light[..., 0] = 0.8
    light = light.flatten(1).requires_grad_()
    optimizer = torch.optim.Adam([albedo, light], lr=0.02)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.01 * (1.01 + math.cos(math.pi * step / 60))
        drawn = draw(layer, out.vertices, given["side"], albedo, light, K)
        optimizer.zero_grad()
        photometric_loss(drawn.image, target.image, target.silhouette * drawn.silhouette).backward()
        optimizer.step()
    start = draw(layer, out.vertices, given["side"], torch.full_like(albedo, 0.5), torch.ones_like(light) * 0.1, K)
    assert psnr_db(start.image, target.image, target.silhouette).max() < 20
    assert psnr_db(drawn.image, target.image, target.silhouette).min() > 30
    assert psnr_db(drawn.image, target.image, torch.ones_like(target.silhouette)).min() > 35


def test_the_photometric_loss_alone_moves_a_mesh_into_place(layer):
    """Known colours on hands that are turned, bent and shifted by 4 px or more: back within half a pixel, and above 30 dB."""
    given, out, K = random_hands(layer, 2, seed=1)
    colors = painted(layer, given, 0)
    target = draw(layer, out.vertices, given["side"], *colors, K)
    generator = torch.Generator().manual_seed(1)
    free = [0.05 * torch.randn(2, 3, generator=generator), 0.05 * torch.randn(2, 45, generator=generator)]
    free = [value.requires_grad_() for value in (*free, torch.tensor([[0.005, -0.004, 0.02], [-0.004, 0.005, -0.02]]))]
    optimizer = torch.optim.Adam([{"params": free[:2], "lr": 0.008}, {"params": free[2:], "lr": 0.001}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    trace = []
    for _ in range(100):
        turned = axis_angle_to_matrix(free[0]) @ given["root_rotation"]
        place = given["translation"] + free[2]
        hand = layer(turned, given["pose"] + free[1], given["betas"], given["side"], place, center_joint=ROOT)
        drawn = draw(layer, hand.vertices, given["side"], *colors, K)
        distance = (project(hand.joints, K) - project(out.joints, K)).norm(dim=-1).mean(1)
        trace.append((distance.detach(), psnr_db(drawn.image, target.image, target.silhouette).detach()))
        optimizer.zero_grad()
        photometric_loss(drawn.image, target.image, target.silhouette * drawn.silhouette).backward()
        optimizer.step()
        schedule.step()
    assert trace[0][0].min() > 4
    assert trace[0][1].max() < 20
    assert trace[-1][0].max() < 0.5
    assert trace[-1][1].min() > 30


@pytest.mark.parametrize("sigma_px", [0.7, 0.3])
def test_a_soft_silhouette_alone_pulls_a_hand_back(layer, sigma_px):
    """Displaced by 30 mm across and 60 mm in depth, of a hard mask at 96 px; nothing else says where the hand is."""
    given, out, K = random_hands(layer, 2, seed=3)
    faces, index = layer.both_faces[given["side"]], torch.arange(2)
    K = K * torch.tensor([96 / SIZE_PX, 96 / SIZE_PX, 1.0])[:, None]
    mask = render_hands(out.vertices, faces, out.vertices, K, index, 2, 96, 96).silhouette
    shift = torch.tensor([[0.02, -0.022, 0.06], [-0.02, 0.022, -0.06]], requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.004)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
    for _ in range(80):
        soft = soft_silhouette(out.vertices + shift[:, None], faces, K, index, 2, 96, 96, sigma_px=sigma_px)
        optimizer.zero_grad()
        (soft - mask).square().mean().backward()
        optimizer.step()
        schedule.step()
    # many faces share a pixel, so a wide sigma swells the outline: a hand a little farther away makes up for it
    across_m, along_m = (0.005, 0.05) if sigma_px == 0.7 else (0.002, 0.02)
    assert shift[:, :2].abs().max() < across_m
    assert shift[:, 2].abs().max() < along_m
