"""The localisation losses, the tags of joint assignment and consistency, each against a naive loop over hands and joints."""

import math

import numpy as np
import pytest
import torch

from handnet.losses.assignment import pull_loss, push_loss
from handnet.losses.consistency import consistency_loss
from handnet.losses.localization import focal_heatmap_loss, side_loss, window_keypoint_loss, window_loss, window_map_loss
from handnet.network.sampling import local_keypoints


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flags(*shape, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) > 0.3).double()


def naive_focal(logits, target, weight=None):
    total = 0.0
    for b, c, y, x in np.ndindex(*logits.shape):
        p = 1 / (1 + math.exp(-logits[b, c, y, x]))
        t = target[b, c, y, x]
        cell = -((1 - p) ** 2) * math.log(p) if t == 1 else -((1 - t) ** 4) * p**2 * math.log(1 - p)
        total += cell * (1 if weight is None else weight[b, 0, y, x])
    return total


@pytest.mark.parametrize("num_hands", [0, 1, 3])
def test_focal_loss_is_eq_3_with_its_negative_term_over_the_number_of_hands(num_hands):
    logits, target = random(2, 3, 5, 6), flags(2, 3, 5, 6, seed=1) * random(2, 3, 5, 6, seed=2).sigmoid() * 0.9
    target[0, 0, 1, 2] = target[1, 2, 4, 4] = 1
    weight = flags(2, 1, 5, 6, seed=3)
    naive = naive_focal(logits.numpy(), target.numpy()) / max(num_hands, 1)
    assert focal_heatmap_loss(logits, target, num_hands).item() == pytest.approx(naive, rel=1e-9)
    weighted = naive_focal(logits.numpy(), target.numpy(), weight.numpy()) / max(num_hands, 1)
    assert focal_heatmap_loss(logits, target, torch.tensor(num_hands), weight).item() == pytest.approx(weighted, rel=1e-9)


def test_focal_loss_of_an_image_without_hands_is_finite():
    value = focal_heatmap_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 0)
    assert 0 < value.item() < 10


def test_focal_loss_survives_certainty():
    """Logits far beyond where the sigmoid rounds to 0 or 1, wrong and right."""
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0]).view(1, 1, 2, 2).requires_grad_()
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    value = focal_heatmap_loss(logits, target, 1)
    value.backward()
    assert value.item() == pytest.approx(400)
    assert torch.isfinite(logits.grad).all()


def test_side_loss_is_focal_cross_entropy():
    logit, side = random(5), torch.tensor([1, 1, 0, 1, 0])
    naive = 0.0
    for x, s in zip(logit.tolist(), side.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p = p if s else 1 - p
        naive -= (1 - p) ** 2 * math.log(p) / 5
    assert side_loss(logit, side).item() == pytest.approx(naive, rel=1e-9)


def test_window_loss_equals_the_naive_loop():
    got, want = random(4), random(4, seed=1)
    assert window_loss(got, want).item() == pytest.approx(sum(abs(g - w) for g, w in zip(got.tolist(), want.tolist(), strict=True)) / 4)


def test_window_keypoints_equal_the_naive_loop():
    got, want, visible, window = random(4, 21, 2) * 20, random(4, 21, 2, seed=1) * 20, flags(4, 21), random(4, seed=2).exp() * 20
    total = 0.0
    for m in range(4):
        for j in range(21):
            if visible[m, j]:
                total += math.dist(got[m, j].tolist(), want[m, j].tolist()) / window[m].item()
    assert window_keypoint_loss(got, want, visible, window).item() == pytest.approx(total / visible.sum().item(), abs=1e-5)


def test_window_maps_equal_the_naive_loop():
    size, num = 6, 3
    log_probability = random(num, 21, size * size).log_softmax(-1)
    target, centers, window = random(num, 21, 2) * 12 + 30, random(num, 2, seed=1) + 30, torch.full((num,), 15.0, dtype=torch.float64)
    visible = flags(num, 21)
    total = count = 0.0
    for m in range(num):
        for j in range(21):
            # position of the label in cells of the window, cell centres at whole numbers
            place = [((target[m, j, a] - centers[m, a]) / window[m] + 1).item() / 2 * size - 0.5 for a in (0, 1)]
            if not visible[m, j] or not all(-0.5 <= p <= size - 0.5 for p in place):
                continue
            blob = np.array([[math.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 2) for x in range(size)] for y in range(size)])
            total -= (blob / blob.sum() * log_probability[m, j].view(size, size).numpy()).sum()
            count += 1
    assert 0 < count < visible.sum()  # some labels lie outside
    assert window_map_loss(log_probability, target, visible, centers, window).item() == pytest.approx(total / count, rel=1e-9)


def test_consistency_equals_the_naive_loop():
    local, projected, window = random(3, 21, 2) * 9, random(3, 21, 2, seed=1) * 9, random(3, seed=2).exp() * 9
    distances = [math.dist(local[m, j].tolist(), projected[m, j].tolist()) / window[m].item() for m in range(3) for j in range(21)]
    assert consistency_loss(local, projected, window).item() == pytest.approx(np.mean(distances), abs=1e-5)


@pytest.fixture
def tagged():
    """Tags, visibility and images of seven hands; one hand shows no keypoint, one image has a single hand, one has none."""
    visible = flags(7, 22, seed=4)
    visible[2] = 0
    return random(7, 22, 3), visible, torch.tensor([0, 0, 0, 1, 3, 3, 3])


def naive_tag(tags, visible):
    shown = [t for t, v in zip(tags.numpy(), visible.tolist(), strict=True) if v]
    return np.mean(shown, axis=0) if shown else None


def test_pull_equals_the_naive_loop(tagged):
    tags, visible, _ = tagged
    of_hands = []
    for m in range(7):
        mean = naive_tag(tags[m], visible[m])
        if mean is not None:
            of_hands.append(np.mean([((tags[m, j].numpy() - mean) ** 2).sum() for j in range(22) if visible[m, j]]))
    assert len(of_hands) == 6
    assert pull_loss(tags, visible).item() == pytest.approx(np.mean(of_hands), rel=1e-9)


def test_push_equals_the_naive_loop(tagged):
    tags, visible, image = tagged
    pairs = []
    for a in range(7):
        for b in range(a):
            first, second = naive_tag(tags[a], visible[a]), naive_tag(tags[b], visible[b])
            if image[a] == image[b] and first is not None and second is not None:
                pairs.append(math.exp(-((first - second) ** 2).sum() / 2))
    assert len(pairs) == 4  # hands 0 and 1; 4, 5 and 6
    assert push_loss(tags, visible, image).item() == pytest.approx(np.mean(pairs), rel=1e-9)


def test_tags_of_one_hand_meet_and_those_of_two_hands_part():
    """Descent on both losses: hands of one image end apart by several times their own spread; those of two images need not."""
    tags = (random(3, 21, 1) * 0.1).requires_grad_()
    visible, image = torch.ones(3, 21, dtype=torch.float64), torch.tensor([0, 0, 1])
    optimizer = torch.optim.SGD([tags], lr=5.0)
    for _ in range(200):
        optimizer.zero_grad()
        (pull_loss(tags, visible) + push_loss(tags, visible, image)).backward()
        optimizer.step()
    mean, spread = tags.detach().mean(1)[:, 0], tags.detach().std(1).max().item()
    assert abs(mean[0] - mean[1]).item() > 20 * spread
    assert abs(mean[0] - mean[1]).item() > 2
    assert abs(mean[2]).item() < 0.1


def test_without_pairs_nothing_is_pushed(tagged):
    tags, visible, _ = tagged
    assert push_loss(tags, visible, torch.arange(7)).item() == 0
    assert push_loss(tags[:1], visible[:1], torch.zeros(1, dtype=torch.long)).item() == 0


def heatmaps_with_peaks(points_px, stride, size):
    """Sharp logits at the given (21, 2) pixels of one image."""
    cell = torch.arange(size) * stride + stride / 2
    dx = cell[None, :] - points_px[:, 0, None]
    dy = cell[None, :] - points_px[:, 1, None]
    return (-(dx[:, None, :] ** 2 + dy[:, :, None] ** 2) / 8)[None]


def test_soft_argmax_finds_peaks_and_ignores_what_lies_outside_its_window():
    points = 40 + 40 * torch.rand(21, 2, generator=torch.Generator().manual_seed(0))
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
