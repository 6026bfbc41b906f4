"""Reading dense maps at hands: cell gathering, windows around hands, and differentiable keypoints (soft-argmax) inside them.

Everything is computed in float32 or better, whatever the maps' dtype: half precision would move a keypoint by pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from handnet.precision import at_least_float32

WINDOW_CELLS = 24  # samples along each side of a hand's window


class LocalKeypoints(NamedTuple):
    """Keypoints read from the heatmaps of one hand's window."""

    keypoints_px: Float[Tensor, "M 21 2"]
    confidence: Float[Tensor, "M 21"]  # largest probability of a sample: 1 = one place, near 0 = anywhere
    log_probability: Float[Tensor, "M 21 S2"]  # over the window's samples, row by row


def rows_of(maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "N C"]:
    """The map's cells as rows, image by image and row by row; a view where the map is channels_last."""
    b, c, h, w = maps.shape
    return maps.permute(0, 2, 3, 1).reshape(b * h * w, c)


def gather_cells(maps: Float[Tensor, "B C h w"], image_index: Int[Tensor, " M"], cells: Int[Tensor, "M 2"]) -> Float[Tensor, "M C"]:
    """Feature vectors at (row, column) cells."""
    h, w = maps.shape[-2:]
    # index_select, not indexing: its backward adds the hands of an image in one fixed order, so that a run repeats bit for bit
    return rows_of(maps).index_select(0, (image_index * h + cells[:, 0]) * w + cells[:, 1])


def window_grid(centers_px: Float[Tensor, "M 2"], window_px: Float[Tensor, " M"], cells: int = WINDOW_CELLS) -> Float[Tensor, "M S2 2"]:
    """Pixel positions of a cells x cells grid over each window (centre +- half side), samples at cell centres, row by row."""
    steps = (torch.arange(cells, device=centers_px.device, dtype=centers_px.dtype) + 0.5) / cells * 2 - 1
    offset = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
    return centers_px[:, None] + offset * window_px[:, None, None]


def sample_map(
    maps: Float[Tensor, "B C h w"], image_index: Int[Tensor, " M"], points_px: Float[Tensor, "M P 2"], stride: int
) -> Float[Tensor, "M P C"]:
    """Bilinear values of a map of the given stride at pixel positions; beyond the border the nearest border value.

    Only the four cells around each point are read, so the cost does not grow with the map.
    """
    h, w = maps.shape[-2:]
    points = at_least_float32(points_px)
    last = points.new_tensor([w - 1.0, h - 1.0])
    place = torch.minimum((points / stride - 0.5).clamp(min=0), last)
    low = torch.minimum(place.detach().floor(), (last - 1).clamp(min=0))
    fraction = place - low
    x, y = low.long().clamp(min=0).unbind(-1)  # NaN comes out as NaN, and must not be read at
    right, below = min(1, w - 1), min(1, h - 1) * w
    corner = (image_index[:, None] * h + y) * w + x
    corners = torch.stack([corner, corner + right, corner + below, corner + below + right], -1)
    values = rows_of(maps).index_select(0, corners.flatten()).view(*corners.shape, maps.shape[1])
    fx, fy = fraction.unbind(-1)
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], -1)
    return (at_least_float32(values) * weights[..., None]).sum(-2)


def local_keypoints(
    heatmaps: Float[Tensor, "B 21 h w"],
    image_index: Int[Tensor, " M"],
    centers_px: Float[Tensor, "M 2"],
    window_px: Float[Tensor, " M"],
    stride: int,
    penalty: Float[Tensor, "M S2"] | None = None,
) -> LocalKeypoints:
    """Expected keypoint positions under a softmax over each hand's window: differentiable, and blind to hands outside it.

    penalty: subtracted from every joint's logits at the window's samples (see `tag_penalty`).
    """
    grid = window_grid(at_least_float32(centers_px), at_least_float32(window_px))
    logits = sample_map(heatmaps, image_index, grid, stride).transpose(1, 2)
    if penalty is not None:
        logits = logits - penalty[:, None]
    log_probability = logits.log_softmax(-1)
    probability = log_probability.exp()
    # elementwise rather than a matrix product, which autocast would run in half precision
    keypoints = torch.stack([(probability * grid[:, None, :, axis]).sum(-1) for axis in (0, 1)], -1)
    return LocalKeypoints(keypoints, probability.amax(-1), log_probability)


def tag_penalty(
    tags: Float[Tensor, "B T h w"],
    image_index: Int[Tensor, " M"],
    cells: Int[Tensor, "M 2"],
    centers_px: Float[Tensor, "M 2"],
    window_px: Float[Tensor, " M"],
    stride: int,
) -> Float[Tensor, "M S2"]:
    """Squared L2 distance between the tag at a hand's centre and the tags over its window: large on other hands' pixels.

    The joint assignment of section III-C: its pull / push loss makes tags alike on one hand and different on two.
    """
    own = at_least_float32(gather_cells(tags, image_index, cells))
    around = sample_map(tags, image_index, window_grid(centers_px, window_px), stride)
    return (around - own[:, None]).square().sum(-1)
