"""Reading dense maps at hands: cell gathering, windows around hands, and differentiable keypoints (soft-argmax) inside them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

WINDOW_CELLS = 24  # samples along each side of a hand's window


class LocalKeypoints(NamedTuple):
    """Keypoints read from the heatmaps of one hand's window."""

    keypoints_px: Float[Tensor, "M 21 2"]
    confidence: Float[Tensor, "M 21"]  # largest probability of a sample: 1 = one place, near 0 = anywhere
    features: Float[Tensor, "M 21 C"]  # the feature map sampled at the keypoints
    log_probability: Float[Tensor, "M 21 S2"]  # over the window's samples, row by row


def gather_cells(maps: Float[Tensor, "B C h w"], image_index: Int[Tensor, " M"], cells: Int[Tensor, "M 2"]) -> Float[Tensor, "M C"]:
    """Feature vectors at (row, column) cells."""
    b, c, h, w = maps.shape
    # index_select, not indexing: its backward adds the hands of an image in one fixed order, so that a run repeats bit for bit
    flat = maps.permute(0, 2, 3, 1).reshape(b * h * w, c)
    return flat.index_select(0, (image_index * h + cells[:, 0]) * w + cells[:, 1])


def window_grid(centers_px: Float[Tensor, "M 2"], window_px: Float[Tensor, " M"], cells: int = WINDOW_CELLS) -> Float[Tensor, "M S S 2"]:
    """Pixel positions of a cells x cells grid over each window (centre +- half side), samples at cell centres."""
    steps = (torch.arange(cells, device=centers_px.device, dtype=centers_px.dtype) + 0.5) / cells * 2 - 1
    offset = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    return centers_px[:, None, None] + offset * window_px[:, None, None, None]


def sample_map(
    maps: Float[Tensor, "B C h w"], image_index: Int[Tensor, " M"], points_px: Float[Tensor, "M P Q 2"], stride: int
) -> Float[Tensor, "M C P Q"]:
    """Bilinear values of a map of the given stride at pixel positions; beyond the border the nearest border value."""
    h, w = maps.shape[-2:]
    scale = torch.tensor([2.0 / (w * stride), 2.0 / (h * stride)], device=maps.device, dtype=points_px.dtype)
    places = (points_px * scale - 1).to(maps.dtype)
    return F.grid_sample(maps.index_select(0, image_index), places, mode="bilinear", padding_mode="border", align_corners=False)


def local_keypoints(
    heatmaps: Float[Tensor, "B 21 h w"],
    features: Float[Tensor, "B C h w"],
    image_index: Int[Tensor, " M"],
    centers_px: Float[Tensor, "M 2"],
    window_px: Float[Tensor, " M"],
    stride: int,
) -> LocalKeypoints:
    """Expected keypoint positions under a softmax over each hand's window: differentiable, and blind to hands outside it."""
    grid = window_grid(centers_px, window_px)
    logits = sample_map(heatmaps, image_index, grid, stride).float().flatten(2)
    log_probability = logits.log_softmax(-1)
    probability = log_probability.exp()
    keypoints = torch.einsum("mjs,msx->mjx", probability, grid.flatten(1, 2))
    # where to look is learnt from the labels, not from what the features there would like to be
    sampled = sample_map(features, image_index, keypoints[:, :, None].detach(), stride)[..., 0].transpose(1, 2)
    return LocalKeypoints(keypoints, probability.amax(-1), sampled, log_probability)
