"""What is trained: network, hand and losses as one module whose forward gives the loss and its named terms (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handnet.batch import HandBatch
from handnet.centers import CenterDefinition, center_cells, gaussian_radius, gaussian_targets, hand_boxes, hand_centers
from handnet.hand.layer import HandLayer
from handnet.losses.consistency import consistency_loss
from handnet.losses.localization import focal_heatmap_loss, side_loss, window_keypoint_loss, window_loss, window_map_loss
from handnet.losses.reconstruction import bone_loss, joints_3d_loss, photometric_loss, reprojection_loss, root_aligned_loss
from handnet.losses.regularization import pose_limit_loss, shape_prior_loss
from handnet.network.handnet import DenseMaps, HandNet, HandOutputs, HandSites
from handnet.network.heads import BASE_WINDOW_PX
from handnet.rendering.render import render_hands
from handnet.rendering.shading import shade, vertex_normals
from handnet.skeleton import ROOT

# The window is this much larger than the keypoints' box, so that fingertips have room around them.
WINDOW_OF_BOX = 0.62


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the named terms; a term of weight 0 is not computed."""

    center: float = 1.0
    hand_type: float = 1.0
    side: float = 1.0
    window: float = 1.0
    heatmap: float = 0.0
    keypoints: float = 0.0
    keypoint_maps: float = 0.0
    reprojection: float = 1.0
    bones: float = 1.0
    photometric: float = 0.0
    pose_limits: float = 1.0
    shape_prior: float = 0.1
    consistency: float = 0.0
    joints_3d: float = 0.0
    vertices_3d: float = 0.0


class HandTask(nn.Module):
    """Training objective of one stage. `forward` is the only entry, so that a distributed wrapper sees every step."""

    def __init__(
        self,
        network: HandNet,
        layer: HandLayer,
        weights: LossWeights,
        *,
        center: CenterDefinition = "keypoints",
        supervision: Literal["2d", "3d"] = "2d",
        render_px: int = 64,
        render_images: int = 8,
    ):
        super().__init__()
        if supervision == "2d" and (weights.joints_3d or weights.vertices_3d):
            raise ValueError("supervision: '2d' reads no 3D label, so joints_3d and vertices_3d must have weight 0")
        self.network = network
        self.layer = layer
        self.weights = weights
        self.center: CenterDefinition = center
        self.supervision = supervision
        self.render_px = render_px
        self.render_images = render_images

    def forward(self, batch: HandBatch) -> dict[str, Tensor]:
        """Named terms, unweighted, and their weighted sum as "loss"; "num_hands" for logging."""
        w = self.weights
        height, width = batch.image.shape[-2:]
        stride = self.network.stride
        centers = hand_centers(batch.keypoints_px, batch.visible, self.center)
        box = hand_boxes(batch.keypoints_px, batch.visible)
        true_window = (box[:, 2:] - box[:, :2]).amax(-1).clamp(min=8.0) * WINDOW_OF_BOX
        cells = center_cells(centers, stride, height // stride, width // stride)
        sites = HandSites(batch.image_index, cells, centers, batch.side, true_window * batch.window_jitter)
        maps, out = self.network(batch.image, sites, batch.K[batch.image_index])

        terms: dict[str, Tensor] = {}
        if w.center or w.hand_type or w.heatmap:
            self._localization(terms, maps, batch, cells, box, stride)
        if w.side:
            terms["side"] = side_loss(out.side_logit, batch.side)
        if w.window:
            terms["window"] = window_loss(out.log_window, (true_window / BASE_WINDOW_PX).log())
        if out.local is not None:
            if w.keypoints:
                terms["keypoints"] = window_keypoint_loss(out.local.keypoints_px, batch.keypoints_px, batch.visible, out.window_px)
            if w.keypoint_maps:
                terms["keypoint_maps"] = window_map_loss(
                    out.local.log_probability, batch.keypoints_px, batch.visible, centers, out.window_px
                )
            if w.consistency:
                terms["consistency"] = consistency_loss(out.local.keypoints_px, out.passes[-1].keypoints_px, out.window_px)
        self._reconstruction(terms, out, batch)
        if w.photometric and out.albedo is not None and batch.mask is not None:
            terms["photometric"] = self._photometric(out, batch)
        if self.supervision == "3d":
            self._full_supervision(terms, out, batch)
        loss = torch.stack([getattr(w, name) * value for name, value in terms.items()]).sum()
        return {"loss": loss, **terms}

    def _localization(self, terms: dict[str, Tensor], maps: DenseMaps, batch: HandBatch, cells: Tensor, box: Tensor, stride: int) -> None:
        b, _, h, w = maps.center.shape
        radius = gaussian_radius((box[:, 2:] - box[:, :2]) / stride)
        if self.weights.center:
            target = gaussian_targets(cells, radius, batch.image_index, torch.zeros_like(batch.side), b, 1, h, w)
            terms["center"] = focal_heatmap_loss(maps.center.float(), target)
        if self.weights.hand_type:
            target = gaussian_targets(cells, radius, batch.image_index, batch.side, b, 2, h, w)
            terms["hand_type"] = focal_heatmap_loss(maps.hand_type.float(), target)
        if self.weights.heatmap and maps.keypoints is not None:
            shown = (batch.visible > 0).flatten()
            points = center_cells(batch.keypoints_px.flatten(0, 1), stride, h, w)[shown]
            image = batch.image_index.repeat_interleave(21)[shown]
            joint = torch.arange(21, device=image.device).repeat(len(batch.side))[shown]
            target = gaussian_targets(points, radius.repeat_interleave(21)[shown] * 0.5, image, joint, b, 21, h, w)
            terms["heatmap"] = focal_heatmap_loss(maps.keypoints.float(), target)

    def _reconstruction(self, terms: dict[str, Tensor], out: HandOutputs, batch: HandBatch) -> None:
        w = self.weights
        passes = out.passes
        # every pass is supervised; earlier ones count half
        share = [0.5] * (len(passes) - 1) + [1.0]
        target, visible = batch.keypoints_px, batch.visible

        def over_passes(term: object) -> Tensor:
            return torch.stack([s * term(p) for s, p in zip(share, passes, strict=True)]).sum()  # type: ignore[operator]

        if w.reprojection:
            terms["reprojection"] = over_passes(lambda p: reprojection_loss(p.keypoints_px, target, visible))
        if w.bones:
            terms["bones"] = over_passes(lambda p: bone_loss(p.keypoints_px, target, visible))
        if w.pose_limits:
            terms["pose_limits"] = over_passes(lambda p: pose_limit_loss(p.pose, batch.side))
        if w.shape_prior:
            terms["shape_prior"] = over_passes(lambda p: shape_prior_loss(p.betas))

    def _photometric(self, out: HandOutputs, batch: HandBatch) -> Tensor:
        """Eq. 9 on the first images of the batch, at the rendering size."""
        assert out.albedo is not None
        assert out.light is not None
        assert batch.mask is not None
        num = min(self.render_images, batch.image.shape[0])
        chosen = (batch.image_index < num).nonzero()[:, 0]
        hands = out.passes[-1]
        vertices = hands.vertices_m[chosen]
        faces = self.layer.both_faces[batch.side[chosen]]
        colors = shade(out.albedo[chosen], vertex_normals(vertices, faces), out.light[chosen])
        scale = self.render_px / batch.image.shape[-1]
        height = round(batch.image.shape[-2] * scale)
        zoom = torch.tensor([scale, scale, 1.0], device=vertices.device)
        K = batch.K[batch.image_index[chosen]] * zoom[:, None]
        rendering = render_hands(vertices, faces, colors, K, batch.image_index[chosen], num, height, self.render_px)
        image = F.interpolate(batch.image[:num], size=(height, self.render_px), mode="area").permute(0, 2, 3, 1)
        skin = ((batch.mask[:num] > 0) & (batch.mask[:num] < 255)).float()
        skin = (F.interpolate(skin[:, None], size=(height, self.render_px), mode="area")[:, 0] > 0.75).float()
        return photometric_loss(rendering.image, image, skin * rendering.silhouette.detach())

    def _full_supervision(self, terms: dict[str, Tensor], out: HandOutputs, batch: HandBatch) -> None:
        if batch.keypoints_m is None or batch.vertices_m is None:
            raise ValueError("supervision: '3d' expects batches with keypoints_m and vertices_m, got none")
        hands = out.passes[-1]
        if self.weights.joints_3d:
            terms["joints_3d"] = joints_3d_loss(hands.keypoints_m, batch.keypoints_m)
        if self.weights.vertices_3d:
            terms["vertices_3d"] = root_aligned_loss(
                hands.vertices_m, hands.keypoints_m[:, ROOT], batch.vertices_m, batch.keypoints_m[:, ROOT]
            )
