"""Reconstruction losses of section III-C: reprojection and bones (Eq. 8), photometric (Eq. 9), silhouette, and the 3D terms.

M hands, all images of a batch together. Sums are divided by what was labelled: an image without labels neither counts nor divides
by zero.
"""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from handnet.losses.reduction import smooth_norm, weighted_mean
from handnet.losses.weights import ReprojectionForm
from handnet.precision import full_precision
from handnet.skeleton import BONES, MIDDLE_FIRST_BONE, ROOT

# A middle finger that points at the camera has no length in the image: the unit never falls below this share of the keypoints' box.
MIN_UNIT_OF_BOX = 0.15
# A label bone shorter than this share of the hand's unit has no direction worth learning.
MIN_BONE_OF_UNIT = 0.05
# The paper's released code multiplies its squared pixel errors by this.
RELEASED_REPROJECTION_SCALE = 0.01
_PARENT, _CHILD = [parent for parent, _ in BONES], [child for _, child in BONES]


def hand_unit_px(keypoints_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"]) -> Float[Tensor, " M"]:
    """Length of the middle finger's first section in the labels: the unit in which Eq. 8 measures, so that hand scale cancels."""
    a, b = MIDDLE_FIRST_BONE
    bone = (keypoints_px[:, a] - keypoints_px[:, b]).norm(dim=-1) * visible[:, a] * visible[:, b]
    shown = visible[..., None] > 0
    high = keypoints_px.masked_fill(~shown, -torch.inf).amax(1)
    low = keypoints_px.masked_fill(~shown, torch.inf).amin(1)
    size = torch.nan_to_num((high - low).amax(-1), nan=1.0, posinf=1.0, neginf=1.0)
    return torch.maximum(bone, MIN_UNIT_OF_BOX * size).clamp(min=1.0)


@full_precision
def reprojection_loss(
    keypoints_px: Float[Tensor, "M 21 2"],
    target_px: Float[Tensor, "M 21 2"],
    visible: Float[Tensor, "M 21"],
    form: ReprojectionForm = "paper",
) -> Float[Tensor, ""]:
    """First term of Eq. 8: mean L2 distance of projected joints to the labels, in units of the middle finger's first section.

    form: "released" is what the paper's released code minimises instead, 0.01 x the mean squared pixel error of a coordinate.
    """
    if form == "paper":
        unit = hand_unit_px(target_px, visible)
        return weighted_mean(smooth_norm((keypoints_px - target_px) / unit[:, None, None]), visible)
    if form == "released":
        return RELEASED_REPROJECTION_SCALE * weighted_mean((keypoints_px - target_px).square().mean(-1), visible)
    raise ValueError(f"reprojection form: expected one of {list(get_args(ReprojectionForm))}, got {form!r}")


@full_precision
def bone_loss(
    keypoints_px: Float[Tensor, "M 21 2"], target_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"]
) -> Float[Tensor, ""]:
    """Second term of Eq. 8: mean L2 distance of the 20 normalised bone vectors. A bone counts when both ends are labelled."""
    unit = hand_unit_px(target_px, visible)[:, None, None]
    bone = (keypoints_px[:, _CHILD] - keypoints_px[:, _PARENT]) / unit
    target, weight = target_bones(target_px, visible)
    direction = bone / (bone.square().sum(-1, keepdim=True) + 1e-4).sqrt()
    target = target / target.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return weighted_mean(smooth_norm(direction - target), weight)


def target_bones(
    target_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"]
) -> tuple[Float[Tensor, "M 20 2"], Float[Tensor, "M 20"]]:
    """The labelled bone vectors in the hand's unit, and the weight with which each counts: 0 for those without a direction."""
    target = (target_px[:, _CHILD] - target_px[:, _PARENT]) / hand_unit_px(target_px, visible)[:, None, None]
    return target, visible[:, _PARENT] * visible[:, _CHILD] * (target.norm(dim=-1) > MIN_BONE_OF_UNIT)


@full_precision
def photometric_loss(
    rendered: Float[Tensor, "B H W 3"], image: Float[Tensor, "B H W 3"], mask: Float[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Eq. 9: mean L2 colour distance over M = rendered silhouette x labelled hand mask; 0 where M is empty."""
    return weighted_mean(smooth_norm(rendered - image), mask)


@full_precision
def silhouette_loss(
    silhouette: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], weight: Float[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """1 - soft intersection over union of a soft silhouette and the labelled hands' share of each pixel, mean over the images.

    weight: 0 for pixels about which nothing is known. An image without a labelled hand pixel does not count.
    """
    covered, wanted = silhouette * weight, target * weight
    both = (covered * target).sum((1, 2))
    union = (covered + wanted).sum((1, 2)) - both
    labelled = (wanted.sum((1, 2)) > 0).to(union.dtype)
    return weighted_mean(1 - both / union.clamp(min=1e-6), labelled)


@full_precision
def root_aligned_loss(
    points_m: Float[Tensor, "M P 3"],
    root_m: Float[Tensor, "M 3"],
    target_m: Float[Tensor, "M P 3"],
    target_root_m: Float[Tensor, "M 3"],
    available: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, ""]:
    """Full supervision: mean L1 distance of a coordinate, in decimetres, of points relative to their hand's root.

    available: 0 for hands without this label, whose rows of target_m and target_root_m may hold any finite number.
    """
    error = ((points_m - root_m[:, None]) - (target_m - target_root_m[:, None])).abs().mean((1, 2))
    return 10 * weighted_mean(error, torch.ones_like(error) if available is None else available)


def joints_3d_loss(
    keypoints_m: Float[Tensor, "M 21 3"], target_m: Float[Tensor, "M 21 3"], available: Float[Tensor, " M"] | None = None
) -> Float[Tensor, ""]:
    """`root_aligned_loss` of the 21 joints, relative to the middle finger's root."""
    return root_aligned_loss(keypoints_m, keypoints_m[:, ROOT], target_m, target_m[:, ROOT], available)
