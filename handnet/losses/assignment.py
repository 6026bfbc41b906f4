"""Joint assignment of section III-C: tags at the keypoints of one hand are pulled together, those of different hands pushed apart.

L2 distances between tags, as in associative embedding (Newell, Huang, Deng 2017).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from handnet.losses.reduction import weighted_mean
from handnet.precision import full_precision


@full_precision
def pull_loss(tags: Float[Tensor, "M P T"], visible: Float[Tensor, "M P"]) -> Float[Tensor, ""]:
    """Squared distance of a hand's tags to their mean: mean over its labelled points, then over the hands that have any.

    tags are sampled at P labelled points of M hands; a point with visible = 0 does not count.
    """
    mean, counted = _mean_tags(tags, visible)
    distance = (tags - mean[:, None]).square().sum(-1)
    of_hand = (distance * visible).sum(-1) / visible.sum(-1).clamp(min=1)
    return weighted_mean(of_hand, counted)


@full_precision
def push_loss(tags: Float[Tensor, "M P T"], visible: Float[Tensor, "M P"], image_index: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """exp(-d^2 / 2) of the distance d between the mean tags of two hands: mean over all pairs of hands that share an image."""
    mean, counted = _mean_tags(tags, visible)
    squared = (mean[:, None] - mean[None]).square().sum(-1)
    return weighted_mean(torch.exp(-squared / 2), hand_pairs(counted, image_index))


def hand_pairs(counted: Float[Tensor, " M"], image_index: Int[Tensor, " M"]) -> Float[Tensor, "M M"]:
    """1 for two hands that count (1, else 0) and share an image; every pair once: a hand with those after it in the list."""
    pair = (image_index[:, None] == image_index[None]) * counted[:, None] * counted[None]
    return pair.triu(1)


def _mean_tags(tags: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Mean tag (M, T) of each hand's labelled points, and whether it has any (M,), 0 or 1."""
    num = visible.sum(-1)
    return (tags * visible[..., None]).sum(1) / num.clamp(min=1)[:, None], (num > 0).to(tags.dtype)
