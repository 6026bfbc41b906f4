"""The single-stage network of Fig. 2: one trunk, dense centre / hand-type / keypoint maps, and per-hand heads on gathered vectors.

The MANO, texture and light heads run on the k gathered hands only, so their cost does not depend on the size of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from handnet.hand.layer import HandLayer
from handnet.network.backbone import Backbone, BatchNorm, Pretrained
from handnet.network.heads import HandHead, HandParameters, Rotation
from handnet.network.sampling import LocalKeypoints, gather_cells, local_keypoints

FOCAL_PRIOR = -4.59  # sigmoid(-4.59) = 0.01: a heatmap starts as background


@dataclass(frozen=True, kw_only=True)
class HandNetConfig:
    """Architecture of a network; stored in model.json so that weights can be loaded without anything else."""

    backbone: str = "resnet50"
    pretrained: Pretrained = "none"
    batch_norm: BatchNorm = "train"
    frozen_levels: int = 0
    feature_channels: int = 256
    output_stride: int = 8
    keypoint_branch: bool = True
    hidden_channels: int = 1024
    refinements: int = 1
    rotation: Rotation = "axis-angle"
    texture: bool = True


class DenseMaps(NamedTuple):
    """Maps over the whole image, h = H / stride, w = W / stride; logits, before the sigmoid."""

    features: Float[Tensor, "B C h w"]
    center: Float[Tensor, "B 1 h w"]
    hand_type: Float[Tensor, "B 2 h w"]
    keypoints: Float[Tensor, "B 21 h w"] | None
    context: Float[Tensor, "B D h2 w2"]


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
        if config.output_stride not in (4, 8):
            raise ValueError(f"output_stride: expected 4 or 8, got {config.output_stride}")
        self.config = config
        self.backbone = Backbone(config.backbone, config.pretrained, config.batch_norm, config.frozen_levels)
        used = [i for i, r in enumerate(self.backbone.reductions) if r >= config.output_stride]
        self.levels = used
        c = config.feature_channels
        self.lateral = nn.ModuleList([nn.Sequential(nn.Conv2d(self.backbone.channels[i], c, 1), nn.GroupNorm(8, c)) for i in used])
        self.fuse = nn.Sequential(nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU())
        self.center_head = dense_head(c, 1, FOCAL_PRIOR)
        self.type_head = dense_head(c, 2, FOCAL_PRIOR)
        self.keypoint_head = dense_head(c, 21, 0.0) if config.keypoint_branch else None
        self.hands = HandHead(
            feature_channels=c,
            context_channels=c,
            hidden_channels=config.hidden_channels,
            keypoint_branch=config.keypoint_branch,
            refinements=config.refinements,
            rotation=config.rotation,
            texture=config.texture,
            layer=layer,
        )

    @property
    def stride(self) -> int:
        return self.config.output_stride

    def dense(self, image: Float[Tensor, "B 3 H W"]) -> DenseMaps:
        """The maps of a batch; H and W must be multiples of 32."""
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % 32 or image.shape[3] % 32:
            raise ValueError(f"image: expected (B, 3, H, W) with H and W multiples of 32, got {tuple(image.shape)}")
        if not image.is_floating_point():
            raise ValueError(f"image: expected floating point values in [0, 1], got {image.dtype}")
        levels = self.backbone(image)
        projected = [lateral(levels[i]) for lateral, i in zip(self.lateral, self.levels, strict=True)]
        size = projected[0].shape[-2:]
        # a 1x1 convolution of concatenated, upsampled levels equals the sum of the upsampled projections, and is cheaper
        fused = projected[0]
        for level in projected[1:]:
            fused = fused + F.interpolate(level, size=size, mode="bilinear", align_corners=False)
        features = self.fuse(fused)
        keypoints = self.keypoint_head(features) if self.keypoint_head is not None else None
        return DenseMaps(features, self.center_head(features), self.type_head(features), keypoints, projected[-1])

    def reconstruct(self, maps: DenseMaps, sites: HandSites, K: Float[Tensor, "M 3 3"]) -> HandOutputs:
        """Per-hand parameters at the given sites; K is each hand's camera in input pixels."""
        vectors = gather_cells(maps.features, sites.image_index, sites.cells)
        context = gather_cells(maps.context, sites.image_index, sites.cells * self.stride // 32)
        log_window = self.hands.predict_log_window(vectors, context)
        window_px = sites.window_px if sites.window_px is not None else self.hands.window_px(log_window.detach())
        local = None
        if maps.keypoints is not None:
            local = local_keypoints(maps.keypoints, maps.features, sites.image_index, sites.centers_px, window_px, self.stride)
        # the map says what the neighbourhood of the centre shows, the head what the keypoints show; both are learnt as one decision
        types = gather_cells(maps.hand_type, sites.image_index, sites.cells).float()
        side_logit = self.hands.predict_side(vectors, context, local, sites.centers_px, window_px) + types[:, 1] - types[:, 0]
        side = sites.side if sites.side is not None else (side_logit > 0).long()
        passes, albedo, light = self.hands(vectors, context, local, side, sites.centers_px, window_px, K)
        return HandOutputs(passes, side, side_logit, local, window_px, log_window, albedo, light)

    def forward(self, image: Tensor, sites: HandSites, K: Tensor) -> tuple[DenseMaps, HandOutputs]:
        maps = self.dense(image)
        return maps, self.reconstruct(maps, sites, K)


def dense_head(channels: int, outputs: int, bias: float) -> nn.Sequential:
    """Two 1x1 convolutions whose output starts near `bias` everywhere; the neighbourhood is the shared fusion's part."""
    last = nn.Conv2d(channels, outputs, 1)
    nn.init.normal_(last.weight, std=0.001)
    assert last.bias is not None
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), last)
