"""The network in training and prediction: sides, pretrained weights, learning, the paper's presets, any number of hands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_batches import SMALL, batch_of
from fake_hands import make_crops, make_scenes

from handnet.hand.layer import HandLayer
from handnet.losses.weights import LossWeights
from handnet.network.handnet import HandNet, HandSites
from handnet.predict import ModelDescription, Predictor
from handnet.task import HandTask
from pipelines.config import load_params
from pipelines.training.stage import build_task


@pytest.fixture(scope="module")
def layer():
    return HandLayer()


def test_a_left_hand_is_the_mirror_of_a_right_one(layer):
    """Same right-hand numbers, mirrored place: the left hand's mesh is the mirrored mesh."""
    network = HandNet(SMALL, layer)
    state = torch.randn(1, network.hands.num_state, generator=torch.Generator().manual_seed(0)) * 0.3 + network.hands.start
    K = torch.tensor([[[100.0, 0, 48], [0, 100, 48], [0, 0, 1]]])
    window = torch.tensor([30.0])

    def decode(side: int, x: float):
        sign = torch.tensor([2.0 * side - 1])
        return network.hands.decode(state, sign, torch.tensor([side]), torch.tensor([[x, 40.0]]), window, K)

    right, left = decode(1, 60.0), decode(0, 96 - 60.0)
    mirror = torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(left.keypoints_m, right.keypoints_m * mirror, atol=1e-6, rtol=0)
    torch.testing.assert_close(left.vertices_m, right.vertices_m * mirror, atol=1e-6, rtol=0)
    torch.testing.assert_close(left.keypoints_px[..., 0], 96 - right.keypoints_px[..., 0], atol=1e-3, rtol=0)
    assert left.axis_angle_61().shape == (1, 61)


def test_wrong_images_are_refused(layer):
    network = HandNet(SMALL, layer)
    with pytest.raises(ValueError, match=r"multiples of 32, got \(1, 3, 100, 64\)"):
        network.dense(torch.zeros(1, 3, 100, 64))
    with pytest.raises(ValueError, match="output_stride: expected one of \[4, 8\], got 16"):
        HandNet(replace(SMALL, output_stride=16), layer)
    with pytest.raises(ValueError, match="expected a timm model name, got 'resnet5000'"):
        HandNet(replace(SMALL, backbone="resnet5000"), layer)
    with pytest.raises(ValueError, match="tf_efficientnet_lite0 only, got backbone 'resnet18'"):
        HandNet(replace(SMALL, backbone="resnet18", pretrained="efficientnet-lite0-package"), layer)


def test_pretrained_weights_classify_like_imagenet_ones():
    """The package's weights sit in the right layers: folding batch norm changes nothing, and features differ from random ones."""
    from handnet.network.backbone import Backbone

    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = Backbone("tf_efficientnet_lite0", "efficientnet-lite0-package", "train").eval()
    folded = Backbone("tf_efficientnet_lite0", "efficientnet-lite0-package", "folded")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    for a, b in zip(kept(image), folded(image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    assert kept.reductions == [4, 8, 16, 32]


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18"])
def test_frozen_levels_get_no_gradient_and_later_ones_do(name):
    from handnet.network.backbone import Backbone

    trunk = Backbone(name, frozen_levels=1)
    maps = trunk(torch.rand(2, 3, 64, 64))
    assert not maps[0].requires_grad
    assert maps[1].requires_grad
    flags = [p.requires_grad for p in trunk.parameters()]
    assert flags == sorted(flags)  # frozen ones come first, none in between
    assert 0 < sum(flags) < len(flags)
    with pytest.raises(ValueError, match="frozen_levels: expected 0 to 4, got 5"):
        Backbone(name, frozen_levels=5)


def overfit(samples, weights, *, input_px, whole_image, steps, layer):
    torch.manual_seed(0)
    task = HandTask(HandNet(replace(SMALL, feature_channels=48), layer), layer, weights).train()
    batch = batch_of(samples, input_px, whole_image=whole_image)
    optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    # the batch norm statistics of so few steps are not those of the images: keep the batch's own
    for module in task.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        task(batch)
    return task.network, batch


def drawn(samples):
    """Hands drawn as line figures, so that there is something to see."""
    from pipelines.drawing import draw_skeleton

    out = []
    for sample in samples:
        image = sample.image
        for hand in sample.hands:
            image = draw_skeleton(image, hand.keypoints_px, hand.visible, hand.side)
        out.append(replace(sample, image=image))
    return out


def predictor_of(network) -> Predictor:
    description = ModelDescription(
        schema=2,
        network=network.config,
        hand="free",
        hand_sha256=network.hands.layer.sha256,
        stage="crop",
        input_px=96,
        focal_px=None,
        fingerprint="",
        provenance={},
    )
    return Predictor(network, description)


def test_stage_1_overfits_four_images_below_two_pixels(layer):
    samples = drawn(make_crops(4, seed=3))
    weights = LossWeights(keypoints=5.0, keypoint_maps=1.0, reprojection=10.0, bones=2.0, pose_limits=1.0, shape_prior=0.01)
    network, batch = overfit(samples, weights, input_px=96, whole_image=False, steps=250, layer=layer)
    images = (batch.image * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    centers = [batch.keypoints_px[i].mean(0, keepdim=True).numpy() for i in range(4)]
    hands = predictor_of(network).predict(images, batch.K.numpy(), centers)
    errors = [np.linalg.norm(h[0].keypoints_px - batch.keypoints_px[i].numpy(), axis=1).mean() for i, h in enumerate(hands)]
    assert np.mean(errors) < 2.0, errors
    assert [h[0].side for h in hands] == batch.side.tolist()


def test_stage_2_overfits_to_finding_every_hand(layer):
    samples = drawn(make_scenes(4, seed=1))
    weights = LossWeights(keypoints=2.0, keypoint_maps=1.0, reprojection=2.0)
    network, batch = overfit(samples, weights, input_px=192, whole_image=True, steps=150, layer=layer)
    images = (batch.image * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    found = predictor_of(network).predict(images, batch.K.numpy())
    for i, hands in enumerate(found):
        true = batch.keypoints_px[batch.image_index == i].mean(1).numpy()
        got = np.array([h.center_px for h in hands]).reshape(-1, 2)
        assert len(got) == len(true)
        for center, side in zip(true, batch.side[batch.image_index == i].tolist(), strict=True):
            nearest = np.linalg.norm(got - center, axis=1).argmin()
            assert np.linalg.norm(got[nearest] - center) < 8
            assert hands[nearest].side == side


@pytest.mark.parametrize("preset", ["paper-freihand", "paper-ho3d"])
def test_the_papers_presets_build_and_step(preset, layer):
    """ResNet-50 at 224 and 512 px, the paper's losses; weights from nowhere, a batch of two instead of 256."""
    params = load_params(Path("pipelines/presets") / f"{preset}.yaml").train
    assert params.model.backbone == "resnet50"
    offline = params.model_copy(update={"model": params.model.model_copy(update={"pretrained": "none"})})
    for stage, samples, whole in (
        (offline.crop, make_crops(2, seed=0, size_px=224), False),
        (offline.multi, make_scenes(4, seed=0, size_px=512)[2:], True),
    ):
        assert stage.input_px == (512 if whole else 224)
        task = build_task(offline, stage, None)
        terms = task(batch_of(samples, stage.input_px, whole_image=whole))
        terms["loss"].backward()
        assert torch.isfinite(terms["loss"])
        torch.optim.Adam(task.parameters(), lr=1e-3).step()


def test_prediction_of_many_and_no_hands(layer):
    network = HandNet(SMALL, layer).eval()
    predictor = predictor_of(network)
    images = np.zeros((2, 100, 70, 3), np.uint8)  # not multiples of 32
    assert predictor.predict(images, score_threshold=0.9) == [[], []]
    centers = [np.zeros((0, 2)), np.array([[20.0, 30.0], [60.0, 90.0], [10.0, 10.0]])]
    hands = predictor.predict(images, centers_px=centers)
    assert [len(h) for h in hands] == [0, 3]
    np.testing.assert_allclose([h.center_px for h in hands[1]], centers[1])
    hand = hands[1][0]
    K = predictor.default_K(100, 70)
    projected = hand.keypoints_m @ K.T
    np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], hand.keypoints_px, atol=1e-2)
    for bad, message in (
        ({"images": images.astype(np.float32)}, "images: expected"),
        ({"images": images, "K": np.full((2, 3, 3), np.nan)}, "K: expected finite"),
        ({"images": images, "centers_px": [np.zeros((1, 2))]}, "centers_px: expected one array for each of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.predict(**bad)


def test_sites_may_come_in_any_order(layer):
    network = HandNet(SMALL, layer).eval()
    image = torch.rand(2, 3, 64, 64)
    index, side = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1])
    cells = torch.tensor([[3, 4], [8, 8], [12, 2]])
    K = torch.tensor([[64.0, 0, 32], [0, 64, 32], [0, 0, 1]]).repeat(3, 1, 1)
    with torch.no_grad():
        maps = network.dense(image)
        centers = (cells.flip(-1) + 0.5) * 4.0
        a = network.reconstruct(maps, HandSites(index, cells, centers, side, None), K)
        order = torch.tensor([2, 0, 1])
        b = network.reconstruct(maps, HandSites(index[order], cells[order], centers[order], side[order], None), K)
    torch.testing.assert_close(a.passes[-1].vertices_m[order], b.passes[-1].vertices_m, atol=1e-5, rtol=1e-4)
