"""Means over a batch that is computed in parts, by several processes or one after another: what each term of a part counts for.

A term is a sum over what is labelled, divided by how much that is; its mean over parts would weigh a part with few labels too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from handnet.batch import HandBatch
from handnet.losses.assignment import hand_pairs
from handnet.losses.localization import in_window
from handnet.losses.reconstruction import target_bones
from handnet.losses.rendered import View


@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """What one forward pass needs to know of the larger batch that its images are a part of.

    counts: `label_counts` of the whole batch. num_drawn: images of this part, its first, that photometric and silhouette compare.
    first: whether this is the process's first part, which must hold all images that it draws: what `photometric` divides by is known
    only when they are drawn. num_processes: gradients are averaged over them afterwards, so that a part counts this much more.
    sum_over_processes: a number's sum over the first parts of all processes.
    """

    counts: Mapping[str, Tensor]
    num_drawn: int
    first: bool = True
    num_processes: int = 1
    sum_over_processes: Callable[[Tensor], Tensor] = torch.clone

    def share(self, count: Tensor, whole: Tensor) -> Tensor:
        """The factor that makes this part's mean its part of the whole batch's; counts are taken as at least 1, as the terms do."""
        return self.num_processes * count.clamp(min=1) / whole.clamp(min=1)


def label_counts(
    batch: HandBatch, centers_px: Float[Tensor, "M 2"], window_px: Float[Tensor, " M"], view: View | None
) -> dict[str, Tensor]:
    """What each term but `photometric` divides by, up to a constant factor: known from the labels alone.

    centers_px and window_px: the hands' centres and the half sides of the windows that the heads are shown.
    """
    hands = batch.visible.new_tensor(float(len(batch.side)))
    points, labelled = batch.visible.sum(), (batch.visible > 0).any(-1)
    inside = (in_window(batch.keypoints_px, centers_px, window_px).abs() <= 1).all(-1)
    no_view = hands.new_zeros(())
    wanted = no_view if view is None else ((view.hand_share * view.known).sum((1, 2)) > 0).sum()
    with_joints = batch.has_keypoints_m
    return {
        **dict.fromkeys(("center", "hand_type", "side", "window", "consistency", "pose_limits", "shape_prior"), hands),
        **dict.fromkeys(("keypoints", "reprojection"), points),
        "heatmap": labelled.sum().to(hands),
        "keypoint_maps": (batch.visible * inside).sum(),
        "bones": target_bones(batch.keypoints_px, batch.visible)[1].sum(),
        # the centre counts as a labelled point, so every hand has one
        "pull": hands,
        "push": hand_pairs(torch.ones_like(batch.visible[:, 0]), batch.image_index).sum(),
        "silhouette": wanted.to(hands),
        "joints_3d": with_joints.sum().to(hands),
        "vertices_3d": (with_joints & batch.has_vertices_m).sum().to(hands),
    }
