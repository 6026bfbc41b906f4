"""What is trained: network, hand and losses as one module whose forward gives the loss and its named terms (Eq. 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from handnet.batch import HandBatch
from handnet.centers import CenterDefinition, center_cells, gaussian_radius, gaussian_targets, hand_boxes, hand_centers
from handnet.hand.layer import HandLayer
from handnet.losses.assignment import pull_loss, push_loss
from handnet.losses.consistency import consistency_loss
from handnet.losses.localization import focal_heatmap_loss, side_loss, window_keypoint_loss, window_loss, window_map_loss
from handnet.losses.parts import BatchPart, label_counts
from handnet.losses.reconstruction import bone_loss, joints_3d_loss, reprojection_loss, root_aligned_loss
from handnet.losses.regularization import pose_limit_loss, shape_prior_loss
from handnet.losses.rendered import photometric_term, silhouette_term, view_of
from handnet.losses.weights import LossOptions, LossWeights
from handnet.network.handnet import DenseMaps, HandNet, HandOutputs, HandSites
from handnet.network.heads import BASE_WINDOW_PX, HandParameters
from handnet.network.sampling import sample_map
from handnet.rendering.checks import drawable
from handnet.skeleton import NUM_KEYPOINTS, ROOT

# The window is this much larger than the keypoints' box, so that fingertips have room around them.
WINDOW_OF_BOX = 0.62
MIN_BOX_PX = 8.0

Supervision = Literal["2d", "3d"]


class _Labels(NamedTuple):
    """What is derived from the labels of M hands."""

    labelled: Tensor  # (M,) whether any keypoint is
    centers: Tensor  # (M, 2) px
    box: Tensor  # (M, 4) px
    true_window_px: Tensor  # (M,) half side
    window_px: Tensor  # (M,) the half side that the heads are shown


class HandTask(nn.Module):
    """Training objective of one stage. `forward` is the only entry, so that a distributed wrapper sees every step.

    A batch may mix datasets: an image without a mask and a hand without visible keypoints or 3D labels add nothing to the terms that
    would read them. `supervision` "2d" reads no 3D label. Raises ValueError for terms that the network has no output for.
    """

    def __init__(
        self,
        network: HandNet,
        layer: HandLayer,
        weights: LossWeights,
        options: LossOptions | None = None,
        *,
        center: CenterDefinition = "keypoints",
        supervision: Supervision = "2d",
    ):
        super().__init__()
        if supervision not in get_args(Supervision):
            raise ValueError(f"supervision: expected one of {list(get_args(Supervision))}, got {supervision!r}")
        if supervision == "2d" and (weights.joints_3d or weights.vertices_3d):
            raise ValueError("supervision: '2d' reads no 3D label, so joints_3d and vertices_3d must have weight 0")
        _check_outputs(network, weights)
        self.network = network
        self.layer = layer
        self.weights = weights
        self.options = LossOptions() if options is None else options
        self.center: CenterDefinition = center
        self.supervision = supervision

    def forward(self, batch: HandBatch, part: BatchPart | None = None) -> dict[str, Tensor]:
        """Named terms, unweighted, and their weighted sum as "loss". The names depend on the weights only, not on the batch.

        part: what the batch is of a larger one. Each term is then its share of the larger batch's, so that the sum over the parts of a
        process, averaged over the processes, is what one forward pass of the whole batch would give, and so are the gradients.
        """
        stride = self.network.stride
        labels = self._labels(batch)
        cells = center_cells(labels.centers, stride, batch.image.shape[-2] // stride, batch.image.shape[-1] // stride)
        sites = HandSites(batch.image_index, cells, labels.centers, batch.side, labels.window_px)
        maps, out = self.network(batch.image, sites, batch.K[batch.image_index])
        with torch.autocast(batch.image.device.type, enabled=False):
            terms: dict[str, Tensor] = {}
            self._localization(terms, maps, batch, cells, labels)
            self._windows(terms, out, batch, labels)
            self._assignment(terms, maps, batch, labels.centers)
            self._reconstruction(terms, out, batch)
            self._rendered(terms, out, batch, part)
            if self.supervision == "3d":
                self._full_supervision(terms, out, batch)
            if part is not None:
                own = self.label_counts(batch, part.num_drawn)
                terms = {name: value * part.share(own[name], part.counts[name]) if name in own else value for name, value in terms.items()}
            loss = torch.stack([getattr(self.weights, name) * value for name, value in terms.items()]).sum() if terms else 0.0
            return {"loss": loss + _no_gradient(maps, out), **terms}

    def label_counts(self, batch: HandBatch, num_drawn: int) -> dict[str, Tensor]:
        """`losses.parts.label_counts` of a batch of which the first `num_drawn` images are drawn."""
        labels = self._labels(batch)
        drawn = self.weights.silhouette > 0 and batch.mask is not None and num_drawn > 0
        view = view_of(batch, self.options.render_px, num_drawn) if drawn else None
        return label_counts(batch, labels.centers, labels.window_px, view)

    def _labels(self, batch: HandBatch) -> _Labels:
        labelled = (batch.visible > 0).any(-1)
        centers = hand_centers(batch.keypoints_px, batch.visible, self.center)
        box = torch.where(labelled[:, None], hand_boxes(batch.keypoints_px, batch.visible), batch.box_px)
        true_window = (box[:, 2:] - box[:, :2]).amax(-1).clamp(min=MIN_BOX_PX) * WINDOW_OF_BOX
        return _Labels(labelled, centers, box, true_window, true_window * batch.window_jitter)

    def _localization(self, terms: dict[str, Tensor], maps: DenseMaps, batch: HandBatch, cells: Tensor, labels: _Labels) -> None:
        """Eq. 2 and 3. The keypoint maps say nothing of hands whose keypoints nobody labelled."""
        weights, stride, num = self.weights, self.network.stride, len(batch.side)
        box, labelled = labels.box, labels.labelled
        b, _, h, w = maps.center.shape
        radius = gaussian_radius((box[:, 2:] - box[:, :2]) / stride)
        if weights.center:
            target = gaussian_targets(cells, radius, batch.image_index, torch.zeros_like(batch.side), b, 1, h, w)
            terms["center"] = focal_heatmap_loss(maps.center, target, num)
        if weights.hand_type:
            target = gaussian_targets(cells, radius, batch.image_index, batch.side, b, 2, h, w)
            terms["hand_type"] = focal_heatmap_loss(maps.hand_type, target, num)
        if weights.heatmap and maps.keypoints is not None:
            points = center_cells(batch.keypoints_px.flatten(0, 1), stride, h, w)
            joint = torch.arange(NUM_KEYPOINTS, device=cells.device).repeat(num)
            # a keypoint that is not visible goes to an image of its own, which is dropped
            image = torch.where(batch.visible > 0, batch.image_index[:, None], b).flatten()
            spread = radius.repeat_interleave(NUM_KEYPOINTS) * 0.5
            target = gaussian_targets(points, spread, image, joint, b + 1, NUM_KEYPOINTS, h, w)[:b]
            known = 1 - _covered(box / stride, batch.image_index, ~labelled, b, h, w)
            terms["heatmap"] = focal_heatmap_loss(maps.keypoints, target, labelled.sum(), known)

    def _windows(self, terms: dict[str, Tensor], out: HandOutputs, batch: HandBatch, labels: _Labels) -> None:
        """Side, window, and what is read from the keypoint maps inside it."""
        weights, local = self.weights, out.local
        if weights.side:
            terms["side"] = side_loss(out.side_logit, batch.side)
        if weights.window:
            terms["window"] = window_loss(out.log_window, (labels.true_window_px / BASE_WINDOW_PX).log())
        if local is None:
            return
        target, visible = batch.keypoints_px, batch.visible
        if weights.keypoints:
            terms["keypoints"] = window_keypoint_loss(local.keypoints_px, target, visible, out.window_px)
        if weights.keypoint_maps:
            terms["keypoint_maps"] = window_map_loss(local.log_probability, target, visible, labels.centers, out.window_px)
        if weights.consistency:
            terms["consistency"] = consistency_loss(local.keypoints_px, out.passes[-1].keypoints_px, out.window_px)

    def _assignment(self, terms: dict[str, Tensor], maps: DenseMaps, batch: HandBatch, centers: Tensor) -> None:
        """Tags at the labelled keypoints and at the centre, which stands for the hand when its keypoints are read."""
        weights = self.weights
        if maps.tags is None or not (weights.pull or weights.push):
            return
        points = torch.cat([batch.keypoints_px, centers[:, None]], 1)
        visible = torch.cat([batch.visible, torch.ones_like(batch.visible[:, :1])], 1)
        tags = sample_map(maps.tags, batch.image_index, points, self.network.stride)
        if weights.pull:
            terms["pull"] = pull_loss(tags, visible)
        if weights.push:
            terms["push"] = push_loss(tags, visible, batch.image_index)

    def _reconstruction(self, terms: dict[str, Tensor], out: HandOutputs, batch: HandBatch) -> None:
        """Eq. 8 and 10 on every refinement pass; earlier ones count half."""
        share = [0.5] * (len(out.passes) - 1) + [1.0]
        target, visible = batch.keypoints_px, batch.visible
        form, limits, axes = self.options.reprojection_form, self.options.limits, self.layer.joint_axes
        every: dict[str, Callable[[HandParameters], Tensor]] = {
            "reprojection": lambda hands: reprojection_loss(hands.keypoints_px, target, visible, form),
            "bones": lambda hands: bone_loss(hands.keypoints_px, target, visible),
            "pose_limits": lambda hands: pose_limit_loss(hands.pose, batch.side, axes, limits),
            "shape_prior": lambda hands: shape_prior_loss(hands.betas),
        }
        for name, term in every.items():
            if getattr(self.weights, name):
                terms[name] = torch.stack([s * term(hands) for s, hands in zip(share, out.passes, strict=True)]).sum()

    def _rendered(self, terms: dict[str, Tensor], out: HandOutputs, batch: HandBatch, part: BatchPart | None) -> None:
        """Eq. 9 and the silhouette on the first images of the batch, at the rendering size."""
        weights = self.weights
        names = [name for name in ("photometric", "silhouette") if getattr(weights, name)]
        num_drawn = self.options.render_images if part is None else part.num_drawn
        terms.update({name: batch.image.new_zeros(()) for name in names})
        compared = batch.image.new_zeros(())
        if names and batch.mask is not None and num_drawn:  # else there is nothing to compare with
            view = view_of(batch, self.options.render_px, num_drawn)
            vertices = out.passes[-1].vertices_m[: view.num_hands]
            faces = self.layer.both_faces[batch.side[: view.num_hands]]
            if weights.photometric and out.albedo is not None and out.light is not None:
                albedo, light = out.albedo[: view.num_hands], out.light[: view.num_hands]
                if drawable(vertices, albedo, light):
                    terms["photometric"], compared = photometric_term(view, vertices, faces, albedo, light)
                else:
                    terms["photometric"] = vertices.new_tensor(torch.nan)
            if weights.silhouette:
                can_draw = drawable(vertices)
                terms["silhouette"] = silhouette_term(view, vertices, faces) if can_draw else vertices.new_tensor(torch.nan)
        if weights.photometric and part is not None and part.first:  # all processes ask, whether they draw or not
            terms["photometric"] = terms["photometric"] * part.share(compared, part.sum_over_processes(compared))

    def _full_supervision(self, terms: dict[str, Tensor], out: HandOutputs, batch: HandBatch) -> None:
        """The 3D terms over the hands that have such labels: 0 where none in the batch has."""
        hands = out.passes[-1]
        joints = torch.zeros_like(hands.keypoints_m) if batch.keypoints_m is None else batch.keypoints_m
        available = batch.has_keypoints_m.float()
        if self.weights.joints_3d:
            terms["joints_3d"] = joints_3d_loss(hands.keypoints_m, joints, available)
        if self.weights.vertices_3d:
            vertices = torch.zeros_like(hands.vertices_m) if batch.vertices_m is None else batch.vertices_m
            available = available * batch.has_vertices_m  # they are measured from the labelled root
            terms["vertices_3d"] = root_aligned_loss(hands.vertices_m, hands.keypoints_m[:, ROOT], vertices, joints[:, ROOT], available)


def _check_outputs(network: HandNet, weights: LossWeights) -> None:
    config = network.config
    with_maps = config.keypoint_branch != "none"
    needs = {
        **dict.fromkeys(("heatmap", "keypoints", "keypoint_maps", "consistency"), ("keypoint_branch", with_maps)),
        **dict.fromkeys(("pull", "push"), ("tag_channels", config.tag_channels > 0)),
        "photometric": ("texture", config.texture),
    }
    for name, (option, there) in needs.items():
        if getattr(weights, name) and not there:
            got = getattr(config, option)
            raise ValueError(f"loss {name}: expected weight 0 for a network with {option} {got!r}, got {getattr(weights, name)}")


def _covered(box_cells: Tensor, image_index: Tensor, chosen: Tensor, num_images: int, height: int, width: int) -> Tensor:
    """(B, 1, h, w): 1 in the cells that the boxes (M, 4) of the chosen hands touch, else 0."""
    low, high = box_cells[:, :2].floor(), box_cells[:, 2:].ceil()

    def along(axis: int, size: int) -> Tensor:
        steps = torch.arange(size, device=box_cells.device)
        return (steps >= low[:, axis, None]) & (steps < high[:, axis, None])

    touched = along(1, height)[:, :, None] & along(0, width)[:, None, :] & chosen[:, None, None]
    covered = box_cells.new_zeros(num_images, height * width)
    index = image_index[:, None].expand(-1, height * width)
    covered = covered.scatter_reduce(0, index, touched.flatten(1).to(covered.dtype), "amax", include_self=True)
    return covered.view(num_images, 1, height, width)


def _no_gradient(maps: DenseMaps, out: HandOutputs) -> Tensor:
    """0, tied to every output: a term that is switched off leaves parameters with a zero gradient, not without one.

    A distributed wrapper waits for the gradient of each of its parameters.
    """
    outputs = [maps.center, maps.hand_type, maps.keypoints, maps.tags, out.log_window, out.side_logit, out.albedo, out.light]
    outputs += [hands.keypoints_px for hands in out.passes]
    return torch.stack([output[:0].float().sum() for output in outputs if output is not None]).sum()
