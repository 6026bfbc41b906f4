"""Global-local consistency, Eq. 11: keypoints read from local heatmaps and keypoints projected from the 3D hand should agree."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from handnet.losses.reduction import smooth_norm
from handnet.precision import full_precision


@full_precision
def consistency_loss(
    local_px: Float[Tensor, "M 21 2"], projected_px: Float[Tensor, "M 21 2"], window_px: Float[Tensor, " M"]
) -> Float[Tensor, ""]:
    """Mean distance of the two estimates in half sides of the hand's window. It needs no label, so every keypoint counts."""
    distance = smooth_norm((local_px - projected_px) / window_px[:, None, None])
    return distance.sum() / max(distance.numel(), 1)
