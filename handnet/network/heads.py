"""Per-hand heads: window size, side, MANO parameters with optional refinement passes, texture and light.

All numbers are predicted as those of a right hand: a left hand's inputs are mirrored on the way in and its outputs on the way out, so both
sides share every weight.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from handnet.camera import decode_translation, project
from handnet.hand.layer import HandLayer
from handnet.network.sampling import LocalKeypoints
from handnet.rotations import axis_angle_to_matrix, matrix_to_axis_angle, matrix_to_rotation_6d, rotation_6d_to_matrix
from handnet.skeleton import ROOT

Rotation = Literal["6d", "axis-angle"]
BASE_WINDOW_PX = 48.0
NUM_POSE, NUM_BETAS, NUM_VERTICES, NUM_LIGHT = 45, 10, 778, 27
MEAN_ALBEDO = (0.45, 0.35, 0.30)
LOCAL_CHANNELS = 16
# fingers up (camera -y) and the back of the hand to the camera, for a rest hand whose fingers point to -x and whose back is +y
UPRIGHT = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


class HandParameters(NamedTuple):
    """MANO parameters of M hands and what follows from them, in each hand's camera frame (metres)."""

    root_rotation: Float[Tensor, "M 3 3"]
    pose: Float[Tensor, "M 45"]  # axis-angle, MANO joint order, of the hand's own side
    betas: Float[Tensor, "M 10"]
    translation: Float[Tensor, "M 3"]  # camera-frame position of the middle finger's root (std21 joint 9)
    vertices_m: Float[Tensor, "M 778 3"]
    keypoints_m: Float[Tensor, "M 21 3"]
    keypoints_px: Float[Tensor, "M 21 2"]

    def axis_angle_61(self) -> Float[Tensor, "M 61"]:
        """The paper's 61 numbers: global rotation 3, pose 45, shape 10, translation 3."""
        return torch.cat([matrix_to_axis_angle(self.root_rotation), self.pose, self.betas, self.translation], -1)


class HandHead(nn.Module):
    """Vectors of M hands -> HandParameters after every pass, albedo and light."""

    def __init__(
        self,
        *,
        feature_channels: int,
        context_channels: int,
        hidden_channels: int,
        keypoint_branch: bool,
        refinements: int,
        rotation: Rotation,
        texture: bool,
        layer: HandLayer,
    ):
        super().__init__()
        self.layer = layer
        self.rotation = rotation
        self.refinements = refinements
        base = feature_channels + context_channels
        self.window = mlp(base, 64, 1)
        self.side = mlp(base + (21 * (3 + LOCAL_CHANNELS) if keypoint_branch else 0), 128, 1)
        self.local = nn.Linear(feature_channels, LOCAL_CHANNELS) if keypoint_branch else None
        self.num_rotation = 6 if rotation == "6d" else 3
        self.num_state = self.num_rotation + NUM_POSE + NUM_BETAS + 3
        inputs = base + 1 + (21 * (3 + LOCAL_CHANNELS) if keypoint_branch else 0)
        residual = 42 if keypoint_branch else 0
        self.first = mlp(inputs, hidden_channels, self.num_state)
        more = inputs + self.num_state + residual
        self.refine = nn.ModuleList([mlp(more, hidden_channels, self.num_state) for _ in range(refinements - 1)])
        self.texture = mlp(base, 128, NUM_VERTICES * 3) if texture else None
        self.light = mlp(base, 64, NUM_LIGHT) if texture else None
        upright = torch.tensor(UPRIGHT)
        start = matrix_to_rotation_6d(upright) if rotation == "6d" else matrix_to_axis_angle(upright[None])[0]
        self.register_buffer("start", torch.cat([start, torch.zeros(self.num_state - self.num_rotation)]), persistent=False)

    def predict_log_window(self, vectors: Tensor, context: Tensor) -> Float[Tensor, " M"]:
        return self.window(torch.cat([vectors, context], -1))[:, 0]

    def predict_side(
        self, vectors: Tensor, context: Tensor, local: LocalKeypoints | None, centers_px: Tensor, window_px: Tensor
    ) -> Float[Tensor, " M"]:
        """Log odds of a right hand, from what the image shows at the hand's centre and at its keypoints."""
        parts = [vectors, context]
        if local is not None:
            parts += self._local_inputs(local, centers_px, window_px, torch.ones_like(centers_px)[:, None])
        return self.side(torch.cat([part.to(vectors.dtype) for part in parts], -1))[:, 0].float()

    def _local_inputs(self, local: LocalKeypoints, centers_px: Tensor, window_px: Tensor, flip: Tensor) -> list[Tensor]:
        """Keypoints in half sides of the window, their confidence, and the features at them; `flip` (M, 1, 2) mirrors left hands."""
        assert self.local is not None
        relative = (local.keypoints_px - centers_px[:, None]) / window_px[:, None, None] * flip
        return [relative.flatten(1), local.confidence, self.local(local.features).flatten(1)]

    @staticmethod
    def window_px(log_window: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        return BASE_WINDOW_PX * log_window.float().clamp(-math.log(16), math.log(16)).exp()

    def forward(
        self,
        vectors: Float[Tensor, "M C"],
        context: Float[Tensor, "M D"],
        local: LocalKeypoints | None,
        side: Int[Tensor, " M"],
        centers_px: Float[Tensor, "M 2"],
        window_px: Float[Tensor, " M"],
        K: Float[Tensor, "M 3 3"],
    ) -> tuple[list[HandParameters], Tensor | None, Tensor | None]:
        sign = side.to(centers_px.dtype) * 2 - 1  # +1 right, -1 left
        base = torch.cat([vectors, context], -1)
        parts = [base, sign[:, None]]
        flip = torch.stack([sign, torch.ones_like(sign)], -1)[:, None]
        if local is not None and self.local is not None:
            parts += self._local_inputs(local, centers_px, window_px, flip)
        inputs = torch.cat([p.to(base.dtype) for p in parts], -1)
        state = self.start + self.first(inputs).float()
        passes = [self.decode(state, sign, side, centers_px, window_px, K)]
        for refine in self.refine:
            more = [inputs, state.detach()]
            if local is not None:
                error = (local.keypoints_px - passes[-1].keypoints_px) / window_px[:, None, None] * flip
                more.append(error.detach().clamp(-2, 2).flatten(1))
            state = state + refine(torch.cat([m.to(base.dtype) for m in more], -1)).float()
            passes.append(self.decode(state, sign, side, centers_px, window_px, K))
        albedo = light = None
        if self.texture is not None and self.light is not None:
            mean = torch.tensor(MEAN_ALBEDO, device=base.device)
            albedo = mean + self.texture(base).float().view(-1, NUM_VERTICES, 3)
            ambient = torch.zeros(3, 9, device=base.device)
            ambient[:, 0] = 0.8
            light = ambient.flatten() + self.light(base).float()
        return passes, albedo, light

    def decode(self, state: Tensor, sign: Tensor, side: Tensor, centers_px: Tensor, window_px: Tensor, K: Tensor) -> HandParameters:
        """Unbounded right-hand numbers -> parameters of each hand's own side, mesh and projection."""
        rotation, pose, betas, raw = state.split([self.num_rotation, NUM_POSE, NUM_BETAS, 3], -1)
        right = rotation_6d_to_matrix(rotation) if self.rotation == "6d" else axis_angle_to_matrix(rotation)
        mirror = torch.stack([sign, torch.ones_like(sign), torch.ones_like(sign)], -1)
        root_rotation = right * mirror[:, :, None] * mirror[:, None, :]
        turn = torch.stack([torch.ones_like(sign), sign, sign], -1)
        pose = (pose.view(-1, 15, 3) * turn[:, None]).flatten(1)
        raw = torch.cat([raw[:, :1] * sign[:, None], raw[:, 1:]], -1)
        translation = decode_translation(raw, centers_px, window_px, K)
        out = self.layer(root_rotation, pose, betas, side, translation, center_joint=ROOT)
        return HandParameters(root_rotation, pose, betas, translation, out.vertices, out.joints, project(out.joints, K))


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers; the output starts near zero, so a new head starts at its bias."""
    last = nn.Linear(hidden, outputs)
    nn.init.normal_(last.weight, std=0.001)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last)
