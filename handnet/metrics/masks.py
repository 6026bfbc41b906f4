"""Overlap of predicted and true masks of hands: intersection over union, per image and over a set.

EgoHands publishes masks of visible hands and nothing else, so this and detection are what can be measured there.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int


def mask_overlap(
    predicted: Bool[np.ndarray, "n h w"], target: Bool[np.ndarray, "n h w"], counted: Bool[np.ndarray, "n h w"] | None = None
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Pixels in both masks and in either one, per image; pixels that are not `counted` (default: all are) are in neither.

    The sums of both over a set give its pooled IoU. Raises ValueError for other shapes or for masks that are not bool.
    """
    masks = {"predicted": np.asarray(predicted), "target": np.asarray(target)}
    if counted is not None:
        masks["counted"] = np.asarray(counted)
    for name, mask in masks.items():
        if mask.dtype != np.bool_ or mask.ndim != 3:
            raise ValueError(f"{name}: expected a bool array (images, height, width), got {mask.dtype} of shape {mask.shape}")
        if mask.shape != masks["predicted"].shape:
            raise ValueError(f"{name}: expected the predicted masks' shape {masks['predicted'].shape}, got {mask.shape}")
    both, either = masks["predicted"] & masks["target"], masks["predicted"] | masks["target"]
    if counted is not None:
        both, either = both & masks["counted"], either & masks["counted"]
    return both.sum(axis=(1, 2)), either.sum(axis=(1, 2))


def mask_iou(
    predicted: Bool[np.ndarray, "n h w"], target: Bool[np.ndarray, "n h w"], counted: Bool[np.ndarray, "n h w"] | None = None
) -> Float[np.ndarray, " n"]:
    """Intersection over union of each image's masks; NaN where both are empty, since there is nothing to overlap."""
    both, either = mask_overlap(predicted, target, counted)
    return np.divide(both, either, out=np.full(len(either), np.nan), where=either > 0)
