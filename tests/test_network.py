"""The network's variants: keypoint branches, tags, decodings, trunks; reading maps; half precision, compilation, memory format."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from handnet.camera import decode_offset_translation, decode_translation, project
from handnet.centers import DUPLICATE_OF_WINDOW, find_peaks, without_duplicates
from handnet.hand.layer import HandLayer
from handnet.losses.localization import side_loss
from handnet.network.handnet import HandNet, HandNetConfig, HandSites
from handnet.network.heads import KeypointView, across_hand
from handnet.network.sampling import local_keypoints, sample_map, tag_penalty, window_grid

SMALL = HandNetConfig(backbone="mobilenetv3_small_050", feature_channels=16, hidden_channels=32)


@pytest.fixture(scope="module")
def layer():
    return HandLayer()


@pytest.fixture
def unchecked():
    """As outside pytest: no type is checked but by the code itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def network_of(layer, **changes) -> HandNet:
    torch.manual_seed(0)
    return HandNet(replace(SMALL, **changes), layer)


def sites_at(places, *, stride=8, side=None, window=None, image=None) -> HandSites:
    centers = torch.tensor(places, dtype=torch.float32).reshape(-1, 2)
    image_index = torch.zeros(len(centers), dtype=torch.long) if image is None else torch.tensor(image)
    return HandSites(image_index, (centers.flip(-1) / stride).long(), centers, side, window)


def camera(num, size=64):
    return torch.tensor([[[100.0, 0, size / 2], [0, 100, size / 2], [0, 0, 1]]]).expand(num, 3, 3)


IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
HANDS = sites_at([[20.0, 30.0], [50.0, 40.0]])


@pytest.mark.parametrize("branch", ["none", "fused", "window"])
@pytest.mark.parametrize("stride", [4, 8])
def test_shapes_of_every_branch_and_stride(layer, branch, stride):
    network = network_of(layer, keypoint_branch=branch, output_stride=stride)
    maps, out = network(IMAGE, sites_at([[20.0, 30.0], [50.0, 40.0]], stride=stride), camera(2))
    side = 64 // stride
    assert maps.center.shape == (1, 1, side, side)
    assert maps.hand_type.shape == (1, 2, side, side)
    assert (maps.keypoints is None) == (out.local is None) == (branch == "none")
    if maps.keypoints is not None:
        assert maps.keypoints.shape == (1, 21, side, side)
    assert out.passes[-1].axis_angle_61().shape == (2, 61)
    assert out.passes[-1].vertices_m.shape == (2, 778, 3)
    assert out.albedo is not None
    assert out.albedo.shape == (2, 778, 3)
    assert out.light is not None
    assert out.light.shape == (2, 27)


def test_no_hands_is_a_valid_input(layer):
    _, out = network_of(layer, keypoint_branch="window", tag_channels=2, side_head=True, refinements=2)(IMAGE, sites_at([]), camera(0))
    assert out.passes[-1].vertices_m.shape == (0, 778, 3)


def test_the_branch_costs_nothing_when_off(layer):
    def flops(branch: str) -> int:
        network = network_of(layer, keypoint_branch=branch).eval()
        with FlopCounterMode(display=False) as counter:
            network(IMAGE, HANDS, camera(2))
        return counter.get_total_flops()

    without = network_of(layer, keypoint_branch="none")
    assert not [name for name, _ in without.named_parameters() if "keypoint" in name or "tag" in name or "local" in name]
    assert flops("none") < flops("fused") < flops("window")


def test_fig_2_the_maps_reach_the_hand_through_the_first_layer(layer):
    """Fused: the keypoint branch changes the features of the centre, hence the hand; the concatenation is that of Fig. 2."""
    network = network_of(layer, keypoint_branch="fused").eval()
    assert network.keypoint_head is not None
    with torch.no_grad():
        network.keypoint_head[-1].bias += 3.0
        network.hands.first[-1].weight.normal_(std=0.1)
    _, first = network(IMAGE, HANDS, camera(2))
    with torch.no_grad():
        network.keypoint_head[-1].bias -= 3.0
    _, second = network(IMAGE, HANDS, camera(2))
    assert not torch.allclose(first.passes[-1].pose, second.passes[-1].pose)
    # adding the maps' own projection = projecting the concatenation of first layer and maps
    level, maps = torch.rand(1, 5, 4, 4), torch.rand(1, 21, 4, 4)
    weight = torch.rand(7, 26, 1, 1)
    together = F.conv2d(torch.cat([level, maps], 1), weight)
    torch.testing.assert_close(F.conv2d(level, weight[:, :5]) + F.conv2d(maps, weight[:, 5:]), together)


def test_per_hand_heads_cost_grows_with_hands_not_with_the_map(layer):
    network = network_of(layer, keypoint_branch="none").eval()

    def flops_of_hands(size: int, places) -> int:
        maps = network.dense(torch.rand(1, 3, size, size))
        with FlopCounterMode(display=False) as counter:
            network.reconstruct(maps, sites_at(places), camera(len(places)))
        return counter.get_total_flops()

    one, large = flops_of_hands(64, [[20.0, 30.0]]), flops_of_hands(256, [[20.0, 30.0]])
    assert one == large > 0
    assert flops_of_hands(64, [[20.0, 30.0]] * 3) == 3 * one


def test_a_hand_is_the_same_alone_and_among_others(layer):
    network = network_of(layer, keypoint_branch="window", tag_channels=2, side_head=True).eval()
    with torch.no_grad():
        network.hands.first[-1].weight.normal_(std=0.1)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    _, both = network(images, sites_at([[20.0, 30.0], [50.0, 40.0], [33.0, 9.0]], image=[0, 1, 1]), camera(3))
    _, alone = network(images[1:], sites_at([[50.0, 40.0]]), camera(1))
    torch.testing.assert_close(both.passes[-1].vertices_m[1:2], alone.passes[-1].vertices_m, atol=1e-5, rtol=1e-4)


def test_offsets_across_a_hand_keep_through_turns_and_change_sign_in_a_mirror():
    points = torch.randn(4, 21, 2, generator=torch.Generator().manual_seed(2))
    across = across_hand(points)
    assert (across[:, [0, 9]].abs() < 1e-6).all()
    assert across.abs().amax() > 0.5
    torch.testing.assert_close(across_hand(points * points.new_tensor([-1, 1]) + 3), -across, atol=1e-5, rtol=1e-4)
    turn = points.new_tensor([[0.6, -0.8], [0.8, 0.6]])
    torch.testing.assert_close(across_hand(points @ turn.T), across, atol=1e-5, rtol=1e-4)
    upright = torch.zeros(1, 21, 2)
    upright[0, 9, 1], upright[0, 5] = -1, torch.tensor([0.25, -0.9])  # image y goes down
    assert across_hand(upright)[0, 5].item() == pytest.approx(0.25)
    assert not across_hand(torch.zeros(1, 21, 2)).any()  # no direction, no side


def test_the_side_head_learns_order_of_fingers_times_what_is_seen(layer):
    """Thumb to the left or right and palm or back are fair coins, their product is the side: neither tells anything alone."""
    torch.manual_seed(0)
    head = network_of(layer, keypoint_branch="window", side_head=True).hands
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    right = []
    for _ in range(80):
        side, palm = torch.randint(2, (2, 32)).float() * 2 - 1
        keypoints = torch.randn(32, 21, 2) * 0.15
        keypoints[:, 9, 1] -= 0.5
        keypoints[:, 1:5, 0] += 0.2 * (side * palm)[:, None]
        seen = KeypointView(keypoints, torch.ones(32, 21), torch.randn(32, 21, 16) * 0.5 + 0.1 * palm[:, None, None])
        logit = head.predict_side(torch.randn(32, head.window[0].in_features), seen, torch.zeros(32, 2), torch.ones(32))
        right.append(((logit > 0) == (side > 0)).float().mean())
        loss = side_loss(logit, (side > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.stack(right[-20:]).mean() > 0.9  # a head on both as plain inputs is at 0.5 after 200 steps


@pytest.mark.parametrize("changes", [{}, {"keypoint_branch": "window", "side_head": True, "tag_channels": 2}], ids=["paper", "window"])
def test_half_precision_keeps_geometry_in_single(layer, changes):
    network = network_of(layer, **changes).eval()
    hands = HANDS._replace(side=torch.tensor([0, 1]))
    with torch.no_grad():
        full = network(IMAGE, hands, camera(2))[1]
        with torch.autocast("cpu", torch.bfloat16):
            maps, half = network(IMAGE, hands, camera(2))
    assert maps.features.dtype == torch.bfloat16
    for name in ("vertices_m", "keypoints_px", "translation"):
        value, reference = getattr(half.passes[-1], name), getattr(full.passes[-1], name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference, atol=0.02 if name != "keypoints_px" else 0.5, rtol=0.02)
    # the mesh and its projection belong together to single precision, which bfloat16 would miss by pixels
    torch.testing.assert_close(project(half.passes[-1].keypoints_m, camera(2)), half.passes[-1].keypoints_px, atol=1e-3, rtol=0)


def test_channels_last_changes_nothing(layer):
    network = network_of(layer, keypoint_branch="window", side_head=True).eval()
    with torch.no_grad():
        plain = network(IMAGE, HANDS, camera(2))[1]
        network = network.to(memory_format=torch.channels_last)
        last = network(IMAGE.contiguous(memory_format=torch.channels_last), HANDS, camera(2))[1]
    torch.testing.assert_close(last.passes[-1].vertices_m, plain.passes[-1].vertices_m, atol=1e-5, rtol=1e-4)


COMPILE = """
import torch
from handnet.hand.layer import HandLayer
from handnet.network.handnet import HandNet, HandNetConfig, HandSites

torch.manual_seed(0)
config = HandNetConfig(backbone="mobilenetv3_small_050", feature_channels=16, hidden_channels=32, keypoint_branch="window",
                       side_head=True, tag_channels=2, refinements=2)
network = HandNet(config, HandLayer()).eval()
centers = torch.tensor([[20.0, 30.0], [50.0, 40.0]])
sites = HandSites(torch.zeros(2, dtype=torch.long), (centers.flip(-1) / 8).long(), centers, None, None)
K = torch.tensor([[[100.0, 0, 32], [0, 100, 32], [0, 0, 1]]]).expand(2, 3, 3)
image = torch.rand(1, 3, 64, 64)
outputs = []
for run in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
    network.zero_grad()
    out = run(image, sites, K)[1]
    out.passes[-1].keypoints_px.square().mean().backward()
    outputs.append((out.passes[-1].vertices_m.detach(), network.fuse[1].weight.grad.clone()))
torch.testing.assert_close(outputs[1][0], outputs[0][0], atol=1e-5, rtol=1e-4)
torch.testing.assert_close(outputs[1][1], outputs[0][1], atol=1e-4, rtol=1e-3)
"""


def test_compiles_to_one_graph():
    """torch.compile traces forward and backward without a break and gives the same numbers (no C++ compiler needed for that)."""
    # in a process of its own: under pytest every function checks its shapes, which can't be traced
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"])
def test_trunks_of_other_families(layer, name):
    image = torch.rand(1, 3, 96, 128)
    network = network_of(layer, backbone=name).eval()
    maps = network.dense(image)
    assert maps.features.shape == (1, 16, 12, 16)
    # the context is read at the trunk's coarsest stride
    assert maps.context.shape[-2:] == (3, 4)


def test_trunks_without_the_stride_are_refused(layer):
    with pytest.raises(ValueError, match=r"output_stride: expected one of the strides of vit_tiny_patch16_224 \[16, 16, 16\], got 8"):
        network_of(layer, backbone="vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoint_branch": "both"}, "keypoint_branch: expected one of ['none', 'fused', 'window'], got 'both'"),
        ({"rotation": "euler"}, "rotation: expected one of ['6d', 'axis-angle'], got 'euler'"),
        ({"translation": "depth"}, "translation: expected one of ['window', 'offset'], got 'depth'"),
        ({"feature_channels": 12}, "feature_channels: expected a multiple of 8, got 12"),
        ({"tag_channels": 2, "keypoint_branch": "none"}, "tag_channels: expected 0, or more with a keypoint branch; got 2 and 'none'"),
        ({"refinements": 0}, "refinements: expected 1 or more, got 0"),
    ],
)
def test_configurations_that_make_no_network(changes, message, unchecked):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(SMALL, **changes)


def test_pose_origin_adds_the_mean_pose_of_the_hands_side(layer):
    mean = HandLayer()
    mean.hands_mean.copy_(torch.randn(2, 45, generator=torch.Generator().manual_seed(0)) * 0.1)
    flip = torch.tensor([1.0, -1.0, -1.0]).repeat(15)
    state = network_of(layer).hands.start[None].repeat(2, 1)
    sign, side, center = torch.tensor([-1.0, 1.0]), torch.tensor([0, 1]), torch.full((2, 2), 32.0)
    flat, relative = (
        network_of(mean, pose_origin=origin).hands.decode(state, sign, side, center, torch.full((2,), 20.0), camera(2)).pose
        for origin in ("flat", "mean")
    )
    torch.testing.assert_close(relative - flat, torch.stack([mean.hands_mean[1] * flip, mean.hands_mean[1]]))


def test_offset_translation_is_the_released_one():
    """z = raw + 0.8; x = z (raw + cell - c) / f, per axis with its own focal length."""
    raw = torch.tensor([[3.0, -2.0, 0.1]])
    center = torch.tensor([[40.0, 20.0]])
    K = torch.tensor([[[500.0, 0, 32], [0, 400, 30], [0, 0, 1]]])
    z = 0.8 + 0.1
    expected = torch.tensor([[z * (3 + 40 - 32) / 500, z * (-2 + 20 - 30) / 400, z]])
    torch.testing.assert_close(decode_offset_translation(raw, center, K), expected)


@given(st.floats(100, 2000), st.floats(0.5, 2.0), st.floats(-1, 1), st.floats(-0.8, 0.8))
@settings(max_examples=30, deadline=None)
def test_window_translation_lands_where_it_says(focal, aspect, log_scale, shift):
    """Whatever fx and fy: the root projects to centre + shift * window, and its apparent scale is the geometric mean's."""
    K = torch.tensor([[[focal, 0, 60], [0, focal * aspect, 70], [0, 0, 1]]], dtype=torch.float64)
    center, window = torch.tensor([[50.0, 90.0]], dtype=torch.float64), torch.tensor([30.0], dtype=torch.float64)
    root = decode_translation(torch.tensor([[shift, -shift, log_scale]], dtype=torch.float64), center, window, K)
    expected = torch.tensor([[[50 + 30 * shift, 90 - 30 * shift]]], dtype=torch.float64)
    torch.testing.assert_close(project(root[:, None], K), expected)
    assert float(focal * aspect**0.5 / root[0, 2]) == pytest.approx(30 / 0.11 * np.exp(log_scale), rel=1e-6)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_sampling_equals_torchs_grid_sample(h, w, seed):
    """At every place, beyond the border too, and on maps of one cell; in the gradient as in the value."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, h, w, generator=generator, dtype=torch.float64, requires_grad=True)
    points = (torch.rand(4, 5, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3) * torch.tensor([w, h]) * 8
    points.requires_grad_(True)
    index = torch.tensor([0, 1, 1, 0])
    scale = torch.tensor([2.0 / (w * 8), 2.0 / (h * 8)], dtype=torch.float64)
    expected = F.grid_sample(maps[index], points[:, :, None] * scale - 1, padding_mode="border", align_corners=False)
    expected = expected[..., 0].transpose(1, 2)
    got = sample_map(maps, index, points, 8)
    torch.testing.assert_close(got, expected)
    weight = torch.rand(got.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((got * weight).sum(), (maps, points))
    theirs = torch.autograd.grad((expected * weight).sum(), (maps, points))
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])


def test_tags_keep_another_hands_keypoint_out():
    """Two blobs of one joint in a window: without tags the expectation lies between them, with tags on the hand's own."""
    heat = torch.full((1, 21, 16, 16), -9.0)
    heat[..., 8, 4] = heat[..., 8, 12] = 9.0
    tags = torch.zeros(1, 2, 16, 16)
    tags[..., :, 8:] = 4.0
    index, cell = torch.zeros(1, dtype=torch.long), torch.tensor([[8, 3]])
    where = (torch.tensor([[64.0, 68.0]]), torch.tensor([64.0]), 8)
    between = local_keypoints(heat, index, *where).keypoints_px
    own = local_keypoints(heat, index, *where, tag_penalty(tags, index, cell, *where)).keypoints_px
    assert float((between[..., 0] - 68).abs().max()) < 3
    assert float((own[..., 0] - 36).abs().max()) < 2
    assert float((own[..., 1] - 68).abs().max()) < 1


def test_window_grid_covers_the_window():
    grid = window_grid(torch.tensor([[10.0, 20.0]]), torch.tensor([8.0]), cells=4)
    np.testing.assert_allclose(grid[0, :, 0].view(4, 4)[0], [4, 8, 12, 16])
    np.testing.assert_allclose(grid[0, :, 1].view(4, 4)[:, 0], [14, 18, 22, 26])


@given(st.integers(0, 12), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_duplicates_equal_the_greedy_loop(num, seed):
    generator = np.random.default_rng(seed)
    centers = generator.uniform(0, 30, (num, 2)).astype(np.float32)
    window = generator.uniform(5, 60, num).astype(np.float32)
    image = np.sort(generator.integers(0, 2, num))
    kept: list[int] = []
    for m in range(num):
        same = [k for k in kept if image[k] == image[m]]
        near = [np.linalg.norm(centers[m] - centers[k]) < DUPLICATE_OF_WINDOW * min(window[m], window[k]) for k in same]
        if not any(near):
            kept.append(m)
    keep = without_duplicates(torch.from_numpy(centers), torch.from_numpy(window), torch.from_numpy(image))
    assert torch.nonzero(keep)[:, 0].tolist() == kept


def test_peaks_refuse_what_is_no_heatmap():
    with pytest.raises(ValueError, match=r"heatmap: expected probabilities of shape \(B, 1, H, W\), got \(1, 2, 4, 4\)"):
        find_peaks(torch.zeros(1, 2, 4, 4), 8, 0.3)
    with pytest.raises(ValueError, match="max_hands: expected 1 or more, got 0"):
        find_peaks(torch.zeros(1, 1, 4, 4), 8, 0.3, max_hands=0)
