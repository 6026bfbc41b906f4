"""What holds for every loss: gradients in double, any order of the hands, nothing labelled, half precision under autocast."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from handnet.losses.assignment import pull_loss, push_loss
from handnet.losses.consistency import consistency_loss
from handnet.losses.localization import focal_heatmap_loss, side_loss, window_keypoint_loss, window_loss, window_map_loss
from handnet.losses.reconstruction import (
    bone_loss,
    joints_3d_loss,
    photometric_loss,
    reprojection_loss,
    root_aligned_loss,
    silhouette_loss,
)
from handnet.losses.regularization import pose_limit_loss, shape_prior_loss


class Case(NamedTuple):
    """A loss and what makes its arguments for `num` hands (or images): the first `num_predicted` of them carry gradients."""

    loss: Callable[..., Tensor]
    arguments: Callable[[int, torch.Generator], list[Tensor]]
    num_predicted: int = 1


def normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def some(generator: torch.Generator, *shape: int) -> Tensor:
    return (torch.rand(*shape, generator=generator) > 0.3).double()


def sides(num: int) -> Tensor:
    return torch.arange(num) % 2


def points(num: int, g: torch.Generator) -> list[Tensor]:
    target = normal(g, num, 21, 2, scale=30) + 60
    return [target + normal(g, num, 21, 2, scale=4), target, some(g, num, 21)]


def windows(num: int, g: torch.Generator) -> Tensor:
    return normal(g, num, scale=0.1).exp() * 30


def heatmaps(num: int, g: torch.Generator) -> list[Tensor]:
    target = normal(g, num, 2, 4, 5).sigmoid() * 0.9
    target.flatten(1)[:, 3] = 1
    return [normal(g, num, 2, 4, 5), target, torch.tensor(num), some(g, num, 1, 4, 5)]


def window_maps(num: int, g: torch.Generator) -> list[Tensor]:
    return [normal(g, num, 21, 25).log_softmax(-1), normal(g, num, 21, 2, scale=9), some(g, num, 21), normal(g, num, 2), windows(num, g)]


def tags(num: int, g: torch.Generator) -> list[Tensor]:
    return [normal(g, num, 22, 2), some(g, num, 22)]


def images(num: int, g: torch.Generator) -> list[Tensor]:
    return [normal(g, num, 4, 5, 3), normal(g, num, 4, 5, 3), some(g, num, 4, 5)]


def shapes(num: int, g: torch.Generator) -> list[Tensor]:
    return [normal(g, num, 4, 5).sigmoid(), some(g, num, 4, 5), some(g, num, 4, 5)]


def bodies(num: int, g: torch.Generator) -> list[Tensor]:
    return [normal(g, num, 8, 3), normal(g, num, 3), normal(g, num, 8, 3), normal(g, num, 3), some(g, num)]


def regions(num: int, g: torch.Generator) -> list[Tensor]:
    return [normal(g, num, 45, scale=0.6), sides(num)]


CASES = {
    "focal": Case(focal_heatmap_loss, heatmaps),
    "side": Case(side_loss, lambda n, g: [normal(g, n), sides(n)]),
    "window": Case(window_loss, lambda n, g: [normal(g, n), normal(g, n)]),
    "keypoints": Case(window_keypoint_loss, lambda n, g: [*points(n, g), windows(n, g)]),
    "keypoint_maps": Case(window_map_loss, window_maps),
    "consistency": Case(consistency_loss, lambda n, g: [*points(n, g)[:2], windows(n, g)], num_predicted=2),
    "pull": Case(pull_loss, tags),
    "push": Case(push_loss, lambda n, g: [*tags(n, g), torch.arange(n) // 3]),
    "reprojection": Case(reprojection_loss, points),
    "reprojection released": Case(lambda *a: reprojection_loss(*a, "released"), points),
    "bones": Case(bone_loss, points),
    "photometric": Case(photometric_loss, images),
    "silhouette": Case(silhouette_loss, shapes),
    "pose_limits": Case(pose_limit_loss, regions),
    "pose_limits released": Case(lambda *a: pose_limit_loss(*a, limits="released"), regions),
    "shape_prior": Case(shape_prior_loss, lambda n, g: [normal(g, n, 10)]),
    "joints_3d": Case(joints_3d_loss, lambda n, g: [normal(g, n, 21, 3), normal(g, n, 21, 3), some(g, n)]),
    "vertices_3d": Case(root_aligned_loss, bodies, num_predicted=2),
}


def made(case: Case, num: int, seed: int = 0) -> list[Tensor]:
    return case.arguments(num, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CASES)
def test_gradients_in_double(name):
    case = CASES[name]
    arguments = made(case, 3)
    predicted = [a.clone().requires_grad_() for a in arguments[: case.num_predicted]]
    rest = arguments[case.num_predicted :]
    assert torch.autograd.gradcheck(lambda *p: case.loss(*p, *rest), predicted, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_the_hands_does_not_matter(name):
    case = CASES[name]
    arguments = made(case, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    shuffled = [a[order] if a.ndim else a for a in arguments]
    assert case.loss(*shuffled).item() == pytest.approx(case.loss(*arguments).item(), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num", [0, 1])
def test_no_hand_and_one_hand(name, num):
    """No hand gives 0 and no NaN; a single one works."""
    case = CASES[name]
    arguments = [a.requires_grad_() if i < case.num_predicted else a for i, a in enumerate(made(case, num))]
    value = case.loss(*arguments)
    value.backward()
    assert torch.isfinite(value)
    assert num or value.item() == 0
    for predicted in arguments[: case.num_predicted]:
        assert predicted.grad is None or torch.isfinite(predicted.grad).all()


# which argument says what is labelled
LABELLED = {
    **dict.fromkeys(("keypoints", "keypoint_maps", "reprojection", "reprojection released", "bones", "photometric", "silhouette"), 2),
    **dict.fromkeys(("pull", "push"), 1),
    "joints_3d": 2,
    "vertices_3d": 4,
}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("filler", [0.0, -1.0])
def test_nothing_labelled_gives_zero_and_zero_gradients(name, filler):
    """No visible keypoint, an empty mask, no 3D label; what stands in the labels' place is one number throughout."""
    case = CASES[name]
    arguments = made(case, 3)
    where = LABELLED[name]
    arguments[where] = torch.zeros_like(arguments[where])
    for i in range(case.num_predicted, where):
        arguments[i] = torch.full_like(arguments[i], filler)
    predicted = [a.requires_grad_() for a in arguments[: case.num_predicted]]
    value = case.loss(*arguments)
    value.backward()
    assert value.item() == 0
    for p in predicted:
        assert p.grad is None or (p.grad == 0).all()


@pytest.mark.parametrize("name", ["keypoints", "keypoint_maps", "reprojection", "reprojection released", "bones", "consistency"])
def test_a_hand_in_a_single_point_has_finite_gradients(name):
    """All labels at one place and all predictions too: bones of no length, a hand of no size."""
    case = CASES[name]
    arguments = made(case, 2)
    if name != "keypoint_maps":
        arguments[0] = torch.full_like(arguments[0], 7.0)
    arguments[1] = torch.full_like(arguments[1], 7.0)
    arguments[0].requires_grad_()
    value = case.loss(*arguments)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(arguments[0].grad).all()


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_raised_under_autocast(name):
    """bfloat16 arguments under autocast give what the same numbers give in float32."""
    case = CASES[name]
    halves = [a.bfloat16() if a.is_floating_point() else a for a in made(case, 4)]
    singles = [a.float() if a.is_floating_point() else a for a in halves]
    expected = case.loss(*singles)
    with torch.autocast("cpu", torch.bfloat16):
        value = case.loss(*halves)
    assert value.dtype == expected.dtype == torch.float32
    assert value.item() == expected.item()
    assert torch.isfinite(value)
