"""`fit_hands`: the hand model's pose, shape and place from 2D keypoints, with Eq. 8's reprojection error and Eq. 10's regulariser."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from handnet.camera import decode_translation, project
from handnet.fitting.starts import Guess, first_guesses
from handnet.hand.layer import HandLayer, HandOutput
from handnet.hand.pose_limits import limit_excess
from handnet.losses.reconstruction import reprojection_loss
from handnet.losses.regularization import pose_limit_loss, shape_prior_loss
from handnet.rotations import rotation_6d_to_matrix
from handnet.skeleton import NUM_KEYPOINTS, ROOT

MIN_VISIBLE = 4
_LEARNING_RATE = 0.04
# After a third of the steps so many descents of each hand go on.
_NUM_KEPT = 2
# How many pixels of error a radian beyond a joint's limit counts for when descents are compared.
_PX_PER_RAD = 20.0


class FittedHands(NamedTuple):
    """M hands in the camera frame: `layer(root_rotation, pose, betas, side, translation, center_joint=ROOT)` poses them again."""

    root_rotation: Float[Tensor, "M 3 3"]
    pose: Float[Tensor, "M 45"]  # axis-angle, radians
    betas: Float[Tensor, "M 10"]
    translation: Float[Tensor, "M 3"]  # metres, of the middle finger's first joint
    vertices_m: Float[Tensor, "M 778 3"]
    keypoints_m: Float[Tensor, "M 21 3"]
    keypoints_px: Float[Tensor, "M 21 2"]
    error_px: Float[Tensor, " M"]  # mean distance from the labelled keypoints
    excess_rad: Float[Tensor, " M"]  # the most that a joint angle lies outside its limits


class _Labels(NamedTuple):
    """Each hand's labels, as often as it has guesses."""

    target_px: Tensor
    visible: Tensor
    side: Tensor
    K: Tensor

    def times(self, num: int) -> _Labels:
        return _Labels(*(label.repeat_interleave(num, 0) for label in self))


def fit_hands(
    layer: HandLayer,
    keypoints_px: Float[Tensor, "M 21 2"],
    side: Int[Tensor, " M"],
    K: Float[Tensor, "M 3 3"],
    visible: Float[Tensor, "M 21"] | None = None,
    *,
    pose_limits: float = 5.0,
    shape_prior: float = 0.01,
    num_steps: int = 300,
    num_starts: int = 12,
) -> FittedHands:
    """Hands whose projected joints lie on 2D keypoints, by gradient descent. No 3D label: depth follows from the model's size.

    keypoints_px: std21 order. side: 0 left, 1 right. K: cameras in pixels.
    visible: weights of the keypoints, None for 1; what has weight 0 may hold anything, 4 of a hand must have more.
    pose_limits, shape_prior: weights of the regulariser (Eq. 10) beside the reprojection error (Eq. 8). With 0 fingers bend
    as none can: 2D keypoints alone do not tell towards the camera from away from it.
    num_starts: descents of each hand to begin with; after a third of num_steps the best two go on. Results repeat exactly.
    Raises ValueError for wrong shapes and types, too few keypoints, and on the CPU for numbers that are not finite.
    """
    if visible is None:
        visible = torch.ones_like(keypoints_px[..., 0])
    _check(keypoints_px, side, K, visible, num_steps, num_starts)
    real = layer.blend.dtype
    target_px = keypoints_px.detach().masked_fill(visible[..., None] <= 0, 0.0).to(real)
    labels = _Labels(target_px, visible.detach().to(real), side, K.detach().to(real))
    weights = (pose_limits, shape_prior)
    third = num_steps // 3
    with torch.inference_mode(False), torch.enable_grad():
        with torch.no_grad():
            guess = first_guesses(layer, labels.target_px, labels.visible, side, num_starts)
        guess = _descend(layer, guess, labels.times(num_starts), *weights, range(third), num_steps)
        num_kept = min(_NUM_KEPT, num_starts)
        guess = _best(layer, guess, labels.times(num_starts), num_starts, num_kept, pose_limits)
        guess = _descend(layer, guess, labels.times(num_kept), *weights, range(third, num_steps), num_steps)
    guess = _best(layer, guess, labels.times(num_kept), num_kept, 1, pose_limits)
    with torch.no_grad():
        out, keypoints, error = _measure(layer, guess, labels)
        return FittedHands(
            rotation_6d_to_matrix(guess.rotation_6d),
            guess.pose,
            guess.betas,
            out.joints[:, ROOT],
            out.vertices,
            out.joints,
            keypoints,
            error,
            limit_excess(guess.pose, side, layer.joint_axes).flatten(1).amax(1),
        )


def _pose(layer: HandLayer, guess: Guess, labels: _Labels) -> tuple[HandOutput, Tensor]:
    """The posed hands and their projected joints."""
    translation = decode_translation(guess.raw, guess.center_px, guess.window_px, labels.K)
    out = layer(rotation_6d_to_matrix(guess.rotation_6d), guess.pose, guess.betas, labels.side, translation, center_joint=ROOT)
    return out, project(out.joints, labels.K)


def _descend(
    layer: HandLayer, guess: Guess, labels: _Labels, pose_limits: float, shape_prior: float, steps: range, num_steps: int
) -> Guess:
    """Some of num_steps steps of Adam, whose rate falls along a half cosine."""
    free = {name: getattr(guess, name).clone().requires_grad_() for name in ("rotation_6d", "pose", "betas", "raw")}
    optimizer = torch.optim.Adam(free.values(), betas=(0.9, 0.99))
    for step in steps:
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (0.502 + 0.5 * math.cos(math.pi * step / num_steps))
        moved = guess._replace(**free)
        _, keypoints = _pose(layer, moved, labels)
        loss = reprojection_loss(keypoints, labels.target_px, labels.visible)
        if pose_limits:
            loss = loss + pose_limits * pose_limit_loss(moved.pose, labels.side, layer.joint_axes)
        if shape_prior:
            loss = loss + shape_prior * shape_prior_loss(moved.betas)
        optimizer.zero_grad()
        # losses are means over the hands; the step of one hand must not depend on how many there are
        (len(labels.side) * loss).backward()
        optimizer.step()
    return guess._replace(**{name: value.detach() for name, value in free.items()})


@torch.no_grad()
def _best(layer: HandLayer, guess: Guess, labels: _Labels, num: int, num_kept: int, pose_limits: float) -> Guess:
    """The num_kept best of each hand's num guesses: by distance and, if limits count, by what lies beyond them."""
    score = _measure(layer, guess, labels)[2]
    if pose_limits:
        score = score + _PX_PER_RAD * limit_excess(guess.pose, labels.side, layer.joint_axes).flatten(1).sum(1)
    order = score.view(-1, num).argsort(stable=True)[:, :num_kept]
    index = (order + num * torch.arange(len(order), device=order.device)[:, None]).flatten()
    return Guess(*(value[index] for value in guess))


def _measure(layer: HandLayer, guess: Guess, labels: _Labels) -> tuple[HandOutput, Tensor, Tensor]:
    """The posed hands, their projected joints, and each hand's mean distance from its labels in pixels."""
    out, keypoints = _pose(layer, guess, labels)
    distance = (keypoints - labels.target_px).norm(dim=-1)
    return out, keypoints, (distance * labels.visible).sum(1) / labels.visible.sum(1)


def _check(keypoints_px: Tensor, side: Tensor, K: Tensor, visible: Tensor, num_steps: int, num_starts: int) -> None:
    num = len(keypoints_px) if keypoints_px.ndim else 0
    for name, value, shape in (
        ("keypoints_px", keypoints_px, (num, NUM_KEYPOINTS, 2)),
        ("K", K, (num, 3, 3)),
        ("visible", visible, (num, NUM_KEYPOINTS)),
    ):
        if tuple(value.shape) != shape or not value.is_floating_point():
            raise ValueError(f"fit_hands: expected {name} {shape} float, got {tuple(value.shape)} {value.dtype}")
    if tuple(side.shape) != (num,) or side.dtype != torch.int64:
        raise ValueError(f"fit_hands: expected side ({num},) int64, got {tuple(side.shape)} {side.dtype}")
    if num_steps < 1 or num_starts < 1:
        raise ValueError(f"fit_hands: expected num_steps and num_starts >= 1, got {num_steps} and {num_starts}")
    if keypoints_px.is_cuda:
        return
    shown = visible > 0
    few = (shown.sum(1) < MIN_VISIBLE).nonzero()[:, 0].tolist()
    if few:
        raise ValueError(f"fit_hands: expected at least {MIN_VISIBLE} visible keypoints of every hand, got fewer in hands {few[:8]}")
    bad = ~(torch.isfinite(keypoints_px).all(-1) | ~shown).all(1) | ~torch.isfinite(K).flatten(1).all(1) | ~torch.isfinite(visible).all(1)
    if bad.any():
        raise ValueError(f"fit_hands: expected finite numbers, got NaN or infinity in hands {bad.nonzero()[:, 0].tolist()[:8]}")
