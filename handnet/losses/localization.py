"""Localisation losses of section III-B: penalty-reduced focal losses on heatmaps (Eq. 2, 3), the hand's side and its window."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from handnet.losses.reduction import smooth_norm, weighted_mean
from handnet.precision import full_precision


@full_precision
def focal_heatmap_loss(
    logits: Float[Tensor, "B C h w"],
    target: Float[Tensor, "B C h w"],
    num_hands: int | Tensor,
    weight: Float[Tensor, "B 1 h w"] | None = None,
    gamma: float = 2.0,
    beta: float = 4.0,
) -> Float[Tensor, ""]:
    """Focal loss of a Gaussian heatmap, summed over cells and divided by the number of hands k, at least 1 (Eq. 3).

    Eq. 3 as printed has no negative term; this is the penalty-reduced form of its reference [23]: a cell with target t < 1 counts as
    negative with weight (1 - t)^beta. logits are before the sigmoid; weight: 0 for cells about which nothing is known.
    """
    if logits.shape != target.shape:
        raise ValueError(f"focal_heatmap_loss: expected target of shape {tuple(logits.shape)}, got {tuple(target.shape)}")
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = logits.sigmoid()
    loss_positive = -((1 - p) ** gamma) * log_p
    loss_negative = -((1 - target) ** beta) * p**gamma * log_q
    loss = torch.where(target >= 1, loss_positive, loss_negative)
    if weight is not None:
        loss = loss * weight
    return loss.sum() / torch.as_tensor(num_hands, device=logits.device).clamp(min=1)


@full_precision
def side_loss(logit: Float[Tensor, " M"], side: Int[Tensor, " M"], gamma: float = 2.0) -> Float[Tensor, ""]:
    """Focal loss of each hand's log odds of being a right one (0 left, 1 right); 0 for no hands."""
    wrong = F.binary_cross_entropy_with_logits(logit, side.to(logit.dtype), reduction="none")
    return ((1 - torch.exp(-wrong)) ** gamma * wrong).sum() / max(len(logit), 1)


@full_precision
def window_loss(log_window: Float[Tensor, " M"], target_log_window: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """L1 error of the log half side of the hands' windows; 0 for no hands."""
    return (log_window - target_log_window).abs().sum() / max(len(log_window), 1)


@full_precision
def window_keypoint_loss(
    keypoints_px: Float[Tensor, "M 21 2"],
    target_px: Float[Tensor, "M 21 2"],
    visible: Float[Tensor, "M 21"],
    window_px: Float[Tensor, " M"],
) -> Float[Tensor, ""]:
    """Mean distance between the heatmaps' expected keypoints and the labels, in half sides of the hand's window."""
    distance = smooth_norm((keypoints_px - target_px) / window_px[:, None, None])
    return weighted_mean(distance, visible)


@full_precision
def window_map_loss(
    log_probability: Float[Tensor, "M 21 S2"],
    target_px: Float[Tensor, "M 21 2"],
    visible: Float[Tensor, "M 21"],
    centers_px: Float[Tensor, "M 2"],
    window_px: Float[Tensor, " M"],
    sigma_cells: float = 1.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of each keypoint's distribution over its window against a Gaussian at the label.

    The expectation alone leaves the shape of the distribution open and learns slowly from a flat start; this term gives it one.
    A label outside its window has no target and does not count.
    """
    size = round(log_probability.shape[-1] ** 0.5)
    place = in_window(target_px, centers_px, window_px)
    cell = (place + 1) / 2 * size - 0.5
    inside = (place.abs() <= 1).all(-1)
    steps = torch.arange(size, device=cell.device, dtype=cell.dtype)
    gaussian = torch.exp(-((steps - cell[..., None]) ** 2) / (2 * sigma_cells**2))  # (M, 21, 2, S): along x, along y
    gaussian = gaussian / gaussian.sum(-1, keepdim=True).clamp(min=1e-9)
    target = (gaussian[:, :, 1, :, None] * gaussian[:, :, 0, None, :]).flatten(2)
    return weighted_mean(-(target * log_probability).sum(-1), visible * inside)


def in_window(
    points_px: Float[Tensor, "M 21 2"], centers_px: Float[Tensor, "M 2"], window_px: Float[Tensor, " M"]
) -> Float[Tensor, "M 21 2"]:
    """Points in half sides of their hand's window: within +-1 inside it."""
    return (points_px - centers_px[:, None]) / window_px[:, None, None]
