"""Hand centres: definitions, Gaussian training targets (section III-B) and decoding by peak picking.

All positions are in pixels of the network's input unless a name says `cell`; a cell of stride s covers s x s pixels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from handnet.skeleton import ROOT

CenterDefinition = Literal["keypoints", "box", "root"]
# Two detections closer than this share of the smaller hand's window are one hand seen twice.
DUPLICATE_OF_WINDOW = 0.35


def hand_boxes(keypoints_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"]) -> Float[Tensor, "M 4"]:
    """x0, y0, x1, y1 of the visible keypoints; all keypoints where none is visible."""
    use = (visible > 0) | (visible.sum(-1, keepdim=True) == 0)
    low = keypoints_px.masked_fill(~use[..., None], torch.inf).amin(1)
    high = keypoints_px.masked_fill(~use[..., None], -torch.inf).amax(1)
    return torch.cat([low, high], -1)


def hand_centers(
    keypoints_px: Float[Tensor, "M 21 2"], visible: Float[Tensor, "M 21"], definition: CenterDefinition = "keypoints"
) -> Float[Tensor, "M 2"]:
    """Centre of each hand: mean of the visible keypoints (the paper's choice), box centre, or the middle finger's root."""
    if definition == "keypoints":
        use = torch.where(visible.sum(-1, keepdim=True) > 0, visible, torch.ones_like(visible))
        return (keypoints_px * use[..., None]).sum(1) / use.sum(-1, keepdim=True)
    if definition == "box":
        box = hand_boxes(keypoints_px, visible)
        return (box[:, :2] + box[:, 2:]) / 2
    if definition == "root":
        return keypoints_px[:, ROOT]
    raise ValueError(f"center definition: expected 'keypoints', 'box' or 'root', got {definition!r}")


def gaussian_radius(size: Float[Tensor, "M 2"], min_overlap: float = 0.7) -> Float[Tensor, " M"]:
    """CornerNet's radius (reference [23] of the paper): the largest shift of a box's corners that keeps IoU >= min_overlap.

    size: width and height, in cells.
    """
    w, h = size.unbind(-1)
    total, area = w + h, w * h

    def smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
        return (b - (b * b - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)

    both_shifted = smaller_root(1.0, total, area * (1 - min_overlap) / (1 + min_overlap))
    inside = smaller_root(4.0, 2 * total, (1 - min_overlap) * area)
    b = 2 * min_overlap * total
    outside = (-b + (b * b + 4 * (4 * min_overlap) * (1 - min_overlap) * area).sqrt()) / (2 * 4 * min_overlap)
    return torch.minimum(torch.minimum(both_shifted, inside), outside).clamp(min=0)


def center_cells(centers_px: Float[Tensor, "M 2"], stride: int, height: int, width: int) -> Int[Tensor, "M 2"]:
    """(row, column) of the cell that holds each centre, kept inside a map of height x width cells."""
    column = (centers_px[:, 0] / stride).floor().long().clamp(0, width - 1)
    row = (centers_px[:, 1] / stride).floor().long().clamp(0, height - 1)
    return torch.stack([row, column], -1)


def gaussian_targets(
    cells: Int[Tensor, "M 2"],
    radius_cells: Float[Tensor, " M"],
    image_index: Int[Tensor, " M"],
    channel: Int[Tensor, " M"],
    num_images: int,
    num_channels: int,
    height: int,
    width: int,
) -> Float[Tensor, "B C H W"]:
    """Heatmaps with a Gaussian (sigma = diameter / 6) and an exact 1 at each cell; overlapping hands are merged by maximum."""
    rows = torch.arange(height, device=cells.device)
    columns = torch.arange(width, device=cells.device)
    sigma = ((2 * radius_cells + 1) / 6)[:, None]
    gy = torch.exp(-((rows - cells[:, :1]) ** 2) / (2 * sigma**2))
    gx = torch.exp(-((columns - cells[:, 1:]) ** 2) / (2 * sigma**2))
    blobs = gy[:, :, None] * gx[:, None, :]
    target = blobs.new_zeros(num_images * num_channels, height * width)
    slot = (image_index * num_channels + channel)[:, None].expand(-1, height * width)
    target = target.scatter_reduce(0, slot, blobs.flatten(1), "amax", include_self=True)
    return target.view(num_images, num_channels, height, width)


class Peaks(NamedTuple):
    """Detections of a batch, best first within each image."""

    image_index: Int[Tensor, " M"]
    cells: Int[Tensor, "M 2"]
    centers_px: Float[Tensor, "M 2"]
    scores: Float[Tensor, " M"]


def find_peaks(
    heatmap: Float[Tensor, "B C H W"], stride: int, threshold: float, max_hands: int = 32, min_distance_cells: int = 1
) -> Peaks:
    """Local maxima of a probability map (one channel) above `threshold`: 0 to `max_hands` per image.

    A cell is a peak when it is the maximum of its (2 d + 1)^2 neighbourhood; the sub-cell position is the vertex of the parabola
    through the peak and its neighbours, per axis. Plateaus give one peak: the test is made on values with a tiny slope.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a probability in [0, 1], got {threshold}")
    if heatmap.ndim != 4 or heatmap.shape[1] != 1 or not heatmap.is_floating_point():
        raise ValueError(f"heatmap: expected probabilities of shape (B, 1, H, W), got {tuple(heatmap.shape)} {heatmap.dtype}")
    if max_hands < 1:
        raise ValueError(f"max_hands: expected 1 or more, got {max_hands}")
    b, _, h, w = heatmap.shape
    slope = torch.arange(h * w, device=heatmap.device, dtype=torch.float64).view(1, 1, h, w) * 1e-12
    ranked = heatmap.double() - slope
    size = 2 * min_distance_cells + 1
    is_peak = (F.max_pool2d(ranked, size, stride=1, padding=size // 2) == ranked) & (heatmap > threshold)
    scores = torch.where(is_peak, heatmap, torch.full_like(heatmap, -1.0)).flatten(1)
    best, index = scores.topk(min(max_hands, h * w), dim=1)
    keep = best > 0
    image_index = torch.arange(b, device=heatmap.device)[:, None].expand_as(best)[keep]
    index, best = index[keep], best[keep]
    row, column = index // w, index % w
    padded = F.pad(heatmap, (1, 1, 1, 1), mode="replicate")[:, 0]

    def vertex(before: Tensor, after: Tensor) -> Tensor:
        curvature = (2 * best - before - after).clamp(min=1e-6)
        return (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)

    dx = vertex(padded[image_index, row + 1, column], padded[image_index, row + 1, column + 2])
    dy = vertex(padded[image_index, row, column + 1], padded[image_index, row + 2, column + 1])
    centers = torch.stack([column + 0.5 + dx, row + 0.5 + dy], -1) * stride
    return Peaks(image_index, torch.stack([row, column], -1), centers.to(heatmap.dtype), best)


def without_duplicates(
    centers_px: Float[Tensor, "M 2"], window_px: Float[Tensor, " M"], image_index: Int[Tensor, " M"]
) -> Bool[Tensor, " M"]:
    """Which detections to keep, given best first within each image: a hand seen twice counts once.

    A detection goes where a kept, better one of its image lies nearer than DUPLICATE_OF_WINDOW times the smaller one's window.
    """
    distance = torch.cdist(centers_px, centers_px, compute_mode="donot_use_mm_for_euclid_dist")
    near = distance < DUPLICATE_OF_WINDOW * torch.minimum(window_px[:, None], window_px)
    order = torch.arange(len(centers_px), device=centers_px.device)
    suppresses = near & (image_index[:, None] == image_index) & (order[:, None] < order)  # row suppresses column
    keep = torch.ones_like(image_index, dtype=torch.bool)
    # each round settles at least one more link of every chain of neighbours
    for _ in range(len(centers_px)):
        former, keep = keep, ~(suppresses & keep[:, None]).any(0)
        if torch.equal(former, keep):
            break
    return keep
