"""Reconstruction losses of section III-C: reprojection and bones (Eq. 8), photometric (Eq. 9), and the 3D terms of full supervision.

M hands, all images of a batch together. Sums are divided by what was labelled: an image without labels neither counts nor divides
by zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from handnet.losses.localization import smooth_norm
from handnet.skeleton import BONES, MIDDLE_FIRST_BONE, ROOT

# A middle finger that points at the camera has no length in the image: the unit never falls below this share of the keypoints' box.
MIN_UNIT_OF_BOX = 0.15


def hand_unit_px(keypoints_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"]) -> Float[Tensor, " M"]:
    """Length of the middle finger's first section in the labels: the unit in which Eq. 8 measures, so that hand scale cancels."""
    a, b = MIDDLE_FIRST_BONE
    bone = (keypoints_px[:, a] - keypoints_px[:, b]).norm(dim=-1) * visible[:, a] * visible[:, b]
    shown = visible[..., None] > 0
    high = keypoints_px.masked_fill(~shown, -torch.inf).amax(1)
    low = keypoints_px.masked_fill(~shown, torch.inf).amin(1)
    size = torch.nan_to_num((high - low).amax(-1), nan=1.0, posinf=1.0, neginf=1.0)
    return torch.maximum(bone, MIN_UNIT_OF_BOX * size).clamp(min=1.0)


def reprojection_loss(
    keypoints_px: Float[Tensor, "M 21 2"], target_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"]
) -> Float[Tensor, ""]:
    """First term of Eq. 8: mean L2 distance of projected joints to the labels, in units of the middle finger's first section."""
    unit = hand_unit_px(target_px, visible)
    distance = smooth_norm((keypoints_px - target_px) / unit[:, None, None])
    return (distance * visible).sum() / visible.sum().clamp(min=1)


def bone_loss(
    keypoints_px: Float[Tensor, "M 21 2"], target_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"]
) -> Float[Tensor, ""]:
    """Second term of Eq. 8: mean L2 distance of the 20 normalised bone vectors. A bone counts when both ends are labelled.

    A label bone shorter than a twentieth of the hand's unit has no direction worth learning and does not count.
    """
    parent, child = [p for p, _ in BONES], [c for _, c in BONES]
    unit = hand_unit_px(target_px, visible)[:, None, None]
    bone = (keypoints_px[:, child] - keypoints_px[:, parent]) / unit
    target = (target_px[:, child] - target_px[:, parent]) / unit
    weight = visible[:, parent] * visible[:, child] * (target.norm(dim=-1) > 0.05)
    direction = bone / (bone.square().sum(-1, keepdim=True) + 1e-4).sqrt()
    target = target / target.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return (smooth_norm(direction - target) * weight).sum() / weight.sum().clamp(min=1)


def photometric_loss(
    rendered: Float[Tensor, "B H W 3"], image: Float[Tensor, "B H W 3"], mask: Float[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Eq. 9: mean L2 colour distance over M = rendered silhouette x labelled hand mask; 0 where M is empty."""
    distance = smooth_norm(rendered - image)
    return (distance * mask).sum() / mask.sum().clamp(min=1)


def root_aligned_loss(points_m: Float[Tensor, "M P 3"], root_m: Tensor, target_m: Float[Tensor, "M P 3"], target_root_m: Tensor) -> Tensor:
    """L1 distance of root-aligned points in decimetres (full supervision). Roots are (M, 3)."""
    error = (points_m - root_m[:, None]) - (target_m - target_root_m[:, None])
    return 10 * error.abs().sum() / max(error.numel(), 1)


def joints_3d_loss(keypoints_m: Float[Tensor, "M 21 3"], target_m: Float[Tensor, "M 21 3"]) -> Float[Tensor, ""]:
    return root_aligned_loss(keypoints_m, keypoints_m[:, ROOT], target_m, target_m[:, ROOT])
