"""The single-stage network of Fig. 2: one trunk, dense centre / hand-type / keypoint maps, and per-hand heads on gathered vectors.

The MANO, texture and light heads run on the k gathered hands only, so their cost does not depend on the size of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from handnet.hand.layer import HandLayer
from handnet.network.backbone import Backbone, BatchNorm, Pretrained
from handnet.network.heads import HandHead, HandParameters, KeypointView, PoseOrigin, Rotation, Translation
from handnet.network.sampling import LocalKeypoints, gather_cells, local_keypoints, sample_map, tag_penalty
from handnet.precision import at_least_float32
from handnet.skeleton import convention_index

NUM_GROUPS = 8
FOCAL_PRIOR = -4.59  # sigmoid(-4.59) = 0.01: a heatmap starts as background

KeypointBranch = Literal["none", "fused", "window"]


@dataclass(frozen=True, kw_only=True)
class HandNetConfig:
    """Architecture of a network; stored in model.json so that weights can be loaded without anything else. Defaults are the paper's.

    keypoint_branch: "fused" concatenates the keypoint maps with the first layer's features (Fig. 2); "window" reads them in each hand's
        window and gives the per-hand head what it finds there; "none" has no maps and costs nothing.
    tag_channels: length of the tags of joint assignment, 0 for none; they need keypoint maps.
    pose_origin: the predicted pose is relative to the "flat" hand or to the model's "mean" pose.
    translation: "window" decodes it as apparent scale in the hand's window, "offset" as the paper's released code does.
    side_head: whether the keypoints, beside the hand-type map, decide between left and right.
    joints: what the labels call the joints of a hand, a name of `handnet.skeleton.JOINT_CONVENTIONS`.
    """

    backbone: str = "resnet50"
    pretrained: Pretrained = "none"
    batch_norm: BatchNorm = "train"
    frozen_levels: int = 0
    feature_channels: int = 256
    output_stride: int = 8
    keypoint_branch: KeypointBranch = "fused"
    tag_channels: int = 0
    hidden_channels: int = 1024
    refinements: int = 1
    rotation: Rotation = "axis-angle"
    pose_origin: PoseOrigin = "flat"
    translation: Translation = "window"
    side_head: bool = False
    joints: str = "model"
    texture: bool = True

    def __post_init__(self) -> None:
        choices = (
            ("output_stride", (4, 8)),
            ("keypoint_branch", get_args(KeypointBranch)),
            ("rotation", get_args(Rotation)),
            ("pose_origin", get_args(PoseOrigin)),
            ("translation", get_args(Translation)),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {list(allowed)}, got {getattr(self, name)!r}")
        convention_index(self.joints)
        if self.feature_channels % NUM_GROUPS or self.feature_channels < NUM_GROUPS:
            raise ValueError(f"feature_channels: expected a multiple of {NUM_GROUPS}, got {self.feature_channels}")
        if self.refinements < 1:
            raise ValueError(f"refinements: expected 1 or more, got {self.refinements}")
        if self.tag_channels < 0 or (self.tag_channels and self.keypoint_branch == "none"):
            given = f"{self.tag_channels} and {self.keypoint_branch!r}"
            raise ValueError(f"tag_channels: expected 0, or more with a keypoint branch; got {given}")


class DenseMaps(NamedTuple):
    """Maps over the whole image, h = H / stride, w = W / stride; heatmaps are logits, before the sigmoid."""

    features: Float[Tensor, "B C h w"]
    center: Float[Tensor, "B 1 h w"]
    hand_type: Float[Tensor, "B 2 h w"]
    keypoints: Float[Tensor, "B 21 h w"] | None
    tags: Float[Tensor, "B T h w"] | None
    context: Float[Tensor, "B D h2 w2"]  # the trunk's coarsest level, projected


class HandSites(NamedTuple):
    """Where the hands of a batch are: M hands in all, any number per image."""

    image_index: Int[Tensor, " M"]
    cells: Int[Tensor, "M 2"]
    centers_px: Float[Tensor, "M 2"]
    side: Int[Tensor, " M"] | None  # 0 left, 1 right; None: as the network predicts it
    window_px: Float[Tensor, " M"] | None  # half side of the hand's window; None: as the network predicts it


class HandOutputs(NamedTuple):
    """Everything predicted for M hands; `passes` holds the parameters after every refinement pass, the last one is the result."""

    passes: list[HandParameters]
    side: Int[Tensor, " M"]  # the side used
    side_logit: Float[Tensor, " M"]  # log odds of a right hand, map and per-hand evidence together
    local: LocalKeypoints | None
    window_px: Float[Tensor, " M"]  # the half side used
    log_window: Float[Tensor, " M"]  # the half side predicted, as log(px / BASE_WINDOW_PX)
    albedo: Float[Tensor, "M 778 3"] | None
    light: Float[Tensor, "M 27"] | None


class HandNet(nn.Module):
    """One image batch in, dense maps and per-hand parameters out."""

    def __init__(self, config: HandNetConfig, layer: HandLayer):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, config.pretrained, config.batch_norm, config.frozen_levels)
        reductions = self.backbone.reductions
        if config.output_stride not in reductions:
            raise ValueError(f"output_stride: expected one of the strides of {config.backbone} {reductions}, got {config.output_stride}")
        self.levels = [i for i, reduction in enumerate(reductions) if reduction >= config.output_stride]
        self.context_stride = reductions[-1]
        c = config.feature_channels
        self.lateral = nn.ModuleList([lateral(self.backbone.channels[i], c) for i in self.levels])
        self.fuse = nn.Sequential(nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU())
        self.center_head = dense_head(c, 1, FOCAL_PRIOR)
        self.type_head = dense_head(c, 2, FOCAL_PRIOR)
        fused, with_maps = config.keypoint_branch == "fused", config.keypoint_branch != "none"
        self.keypoint_head = dense_head(c, 21, FOCAL_PRIOR if fused else 0.0) if with_maps else None
        self.keypoint_fusion = nn.Conv2d(21, c, 1, bias=False) if fused else None
        self.tag_head = dense_head(c, config.tag_channels, 0.0) if config.tag_channels else None
        self.hands = HandHead(
            vector_channels=2 * c,
            feature_channels=c,
            hidden_channels=config.hidden_channels,
            reads_keypoints=config.keypoint_branch == "window",
            refinements=config.refinements,
            rotation=config.rotation,
            pose_origin=config.pose_origin,
            translation=config.translation,
            side_head=config.side_head,
            joints=config.joints,
            texture=config.texture,
            layer=layer,
        )

    @property
    def stride(self) -> int:
        return self.config.output_stride

    def dense(self, image: Float[Tensor, "B 3 H W"]) -> DenseMaps:
        """The maps of a batch of RGB images in [0, 1]; H and W must be multiples of 32."""
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % 32 or image.shape[3] % 32:
            raise ValueError(f"image: expected (B, 3, H, W) with H and W multiples of 32, got {tuple(image.shape)}")
        if not image.is_floating_point():
            raise ValueError(f"image: expected floating point values in [0, 1], got {image.dtype}")
        levels = self.backbone(image)
        projected = [project(levels[i]) for project, i in zip(self.lateral, self.levels, strict=True)]
        size = projected[0].shape[-2:]
        # a 1x1 convolution of concatenated, upsampled levels equals the sum of the upsampled projections, and is cheaper
        total = projected[0]
        for level in projected[1:]:
            total = total + F.interpolate(level, size=size, mode="bilinear", align_corners=False)
        keypoints = None
        if self.keypoint_head is not None and self.keypoint_fusion is not None:
            # likewise: concatenating the maps with the first layer and projecting both is adding the maps' projection
            keypoints = self.keypoint_head(total.relu())
            total = total + self.keypoint_fusion(keypoints.sigmoid())
        features = self.fuse(total)
        if self.keypoint_head is not None and self.keypoint_fusion is None:
            keypoints = self.keypoint_head(features)
        tags = self.tag_head(features) if self.tag_head is not None else None
        return DenseMaps(features, self.center_head(features), self.type_head(features), keypoints, tags, projected[-1])

    def reconstruct(self, maps: DenseMaps, sites: HandSites, K: Float[Tensor, "M 3 3"]) -> HandOutputs:
        """Per-hand parameters at the given sites; K is each hand's camera in input pixels. In float32, whatever autocast says."""
        with torch.autocast(maps.features.device.type, enabled=False):
            return self._reconstruct(maps, sites, K)

    def _reconstruct(self, maps: DenseMaps, sites: HandSites, K: Tensor) -> HandOutputs:
        vectors = torch.cat(
            [
                at_least_float32(gather_cells(maps.features, sites.image_index, sites.cells)),
                at_least_float32(gather_cells(maps.context, sites.image_index, sites.cells * self.stride // self.context_stride)),
            ],
            -1,
        )
        log_window = self.hands.predict_log_window(vectors)
        window_px = sites.window_px if sites.window_px is not None else self.hands.window_px(log_window.detach())
        local = self._local_keypoints(maps, sites, window_px)
        seen = None
        if local is not None and self.config.keypoint_branch == "window":
            # where to look is learnt from the labels, not from what the features there would like to be
            features = sample_map(maps.features, sites.image_index, local.keypoints_px.detach(), self.stride)
            seen = KeypointView(local.keypoints_px, local.confidence, features)
        # the map says what the neighbourhood of the centre shows, the head what the keypoints show; both are learnt as one decision
        types = at_least_float32(gather_cells(maps.hand_type, sites.image_index, sites.cells))
        side_logit = types[:, 1] - types[:, 0]
        more = self.hands.predict_side(vectors, seen, sites.centers_px, window_px)
        if more is not None:
            side_logit = side_logit + more
        side = sites.side if sites.side is not None else (side_logit > 0).long()
        passes, albedo, light = self.hands(vectors, seen, side, sites.centers_px, window_px, K)
        return HandOutputs(passes, side, side_logit, local, window_px, log_window, albedo, light)

    def _local_keypoints(self, maps: DenseMaps, sites: HandSites, window_px: Tensor) -> LocalKeypoints | None:
        if maps.keypoints is None:
            return None
        where = (sites.centers_px, window_px, self.stride)
        penalty = None if maps.tags is None else tag_penalty(maps.tags, sites.image_index, sites.cells, *where)
        return local_keypoints(maps.keypoints, sites.image_index, *where, penalty)

    def forward(self, image: Tensor, sites: HandSites, K: Tensor) -> tuple[DenseMaps, HandOutputs]:
        maps = self.dense(image)
        return maps, self.reconstruct(maps, sites, K)


def lateral(inputs: int, outputs: int) -> nn.Sequential:
    """A level of the trunk, brought to the common number of channels and a common scale."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.GroupNorm(NUM_GROUPS, outputs))


def dense_head(channels: int, outputs: int, bias: float) -> nn.Sequential:
    """Two 1x1 convolutions whose output starts near `bias` everywhere; the neighbourhood is the shared fusion's part."""
    last = nn.Conv2d(channels, outputs, 1)
    nn.init.normal_(last.weight, std=0.001)
    assert last.bias is not None
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), last)
