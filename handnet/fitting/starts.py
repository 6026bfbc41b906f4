"""Where a fit to 2D keypoints starts: views of a few curled hands that come closest to the labels, found in closed form.

Descents from one view end in every tenth hand turned or bent the wrong way in depth; from several that differ, hardly ever.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from handnet.camera import WINDOW_HALF_M
from handnet.hand.layer import HandLayer
from handnet.rotations import matrix_to_rotation_6d
from handnet.skeleton import ROOT

# Hands curled by these multiples of the model's mean pose, seen from so many directions; starts differ by at least this turn.
_CURLS = (0.0, 0.7, 1.4)
_NUM_DIRECTIONS = 128
_MIN_TURN_RAD = 0.7


class Guess(NamedTuple):
    """N hands: what is optimised, and the place and size that `raw` is relative to (see `decode_translation`)."""

    rotation_6d: Float[Tensor, "N 6"]
    pose: Float[Tensor, "N 45"]
    betas: Float[Tensor, "N 10"]
    raw: Float[Tensor, "N 3"]
    center_px: Float[Tensor, "N 2"]
    window_px: Float[Tensor, " N"]


def first_guesses(layer: HandLayer, target_px: Tensor, visible: Tensor, side: Tensor, num_starts: int) -> Guess:
    """The `num_starts` best views of each of M hands, hand by hand, in the order of how close they come.

    target_px (M,21,2), visible (M,21) weights, side (M,). A view is moved, turned and scaled in the image as fits best.
    """
    views, curls = _views(_NUM_DIRECTIONS).to(target_px), target_px.new_tensor(_CURLS)
    shape = _seen(layer, views, curls)[:, side].transpose(0, 1)  # (M, curls, directions, 21)
    # points of the image as complex numbers: turning and scaling is one factor
    label = torch.view_as_complex(target_px.contiguous())[:, None, None]
    share = (visible / visible.sum(1, keepdim=True))[:, None, None]
    mean, label_mean = (shape * share).sum(-1, keepdim=True), (label * share).sum(-1, keepdim=True)
    shape, label = shape - mean, label - label_mean
    factor = (shape.conj() * label * share).sum(-1) / (shape.abs().square() * share).sum(-1)
    error = ((label - factor[..., None] * shape).abs().square() * share).sum(-1)
    error, curl = error.min(1, keepdim=True)  # of every direction the best curl: (M, 1, directions)
    factor, mean, error, curl = factor.gather(1, curl)[:, 0], mean[..., 0].gather(1, curl)[:, 0], error[:, 0], curl[:, 0]
    rotation = _turns(factor) @ views
    index = _far_apart(error, rotation, num_starts)
    # the root is the origin of the views, so at -mean from the middle of the keypoints
    center_px = torch.view_as_real(label_mean[:, 0, 0] - factor * mean)
    num = index[1].numel()
    return Guess(
        matrix_to_rotation_6d(rotation[index].flatten(0, 1)),
        curls[curl[index]].reshape(-1, 1) * layer.hands_mean[side.repeat_interleave(num_starts)],
        target_px.new_zeros(num, 10),
        target_px.new_zeros(num, 3),
        center_px[index].flatten(0, 1),
        factor[index].abs().flatten() * WINDOW_HALF_M,
    )


def _seen(layer: HandLayer, views: Tensor, curls: Tensor) -> Tensor:
    """Keypoints (curls, sides, directions, 21) of the hands seen along each view, complex, in metres."""
    side = torch.arange(2, device=views.device).repeat(len(curls))
    pose = curls.repeat_interleave(2)[:, None] * layer.hands_mean[side]
    upright = torch.eye(3).to(views).expand(len(side), 3, 3)
    joints = layer(upright, pose, pose.new_zeros(len(side), 10), side, center_joint=ROOT).joints
    seen = torch.einsum("dij,npj->ndpi", views[:, :2], joints).unflatten(0, (len(curls), 2))
    return torch.view_as_complex(seen.contiguous())


def _far_apart(error: Tensor, rotation: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Index (M,1), (M,num) of the views of least error (M,D) that differ from each other in rotation (M,D,3,3)."""
    hand, chosen = torch.arange(len(error), device=error.device), []
    for _ in range(num):
        chosen.append(error.argmin(1))
        trace = (rotation * rotation[hand, chosen[-1]][:, None]).sum((-1, -2))
        error = error.masked_fill(trace > 1 + 2 * math.cos(_MIN_TURN_RAD), torch.inf)
    return hand[:, None], torch.stack(chosen, 1)


def _turns(factor: Tensor) -> Float[Tensor, "*batch 3 3"]:
    """Rotations about the axis of sight by the angle of a complex factor."""
    unit = factor / factor.abs()
    turn = torch.zeros(*factor.shape, 3, 3, dtype=unit.real.dtype, device=factor.device)
    turn[..., :2, 0], turn[..., :2, 1] = torch.view_as_real(unit), torch.view_as_real(1j * unit)
    turn[..., 2, 2] = 1
    return turn


def _views(num: int) -> Float[Tensor, "num 3 3"]:
    """Rotations whose last rows, the directions of sight, spread evenly over the sphere (a Fibonacci lattice)."""
    index = torch.arange(num) + 0.5
    height, angle = 1 - 2 * index / num, math.pi * (1 + math.sqrt(5)) * index
    radius = (1 - height.square()).sqrt()
    sight = torch.stack([angle.cos() * radius, angle.sin() * radius, height], -1)
    aside = torch.stack([-angle.sin(), angle.cos(), torch.zeros_like(angle)], -1)
    return torch.stack([aside, torch.linalg.cross(sight, aside), sight], 1)
