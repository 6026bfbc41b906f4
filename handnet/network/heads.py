"""Per-hand heads: window size, side, MANO parameters with optional refinement passes, texture and light.

All numbers are predicted as those of a right hand: a left hand's inputs are mirrored on the way in and its outputs on the way out, so both
sides share every weight.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from handnet.camera import decode_offset_translation, decode_translation, project
from handnet.hand.layer import HandLayer
from handnet.rotations import axis_angle_to_matrix, matrix_to_axis_angle, matrix_to_rotation_6d, rotation_6d_to_matrix
from handnet.skeleton import NUM_KEYPOINTS, ROOT, WRIST

Rotation = Literal["6d", "axis-angle"]
PoseOrigin = Literal["flat", "mean"]
Translation = Literal["window", "offset"]
BASE_WINDOW_PX = 48.0
NUM_POSE, NUM_BETAS, NUM_VERTICES, NUM_LIGHT = 45, 10, 778, 27
MEAN_ALBEDO = (0.45, 0.35, 0.30)
MEAN_AMBIENT = 0.8  # coefficient of the constant harmonic that light is predicted relative to
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


class KeypointView(NamedTuple):
    """What the per-hand head sees of a hand's keypoints in the image."""

    keypoints_px: Float[Tensor, "M 21 2"]
    confidence: Float[Tensor, "M 21"]
    features: Float[Tensor, "M 21 C"]


class HandHead(nn.Module):
    """Vectors of M hands -> window, side, HandParameters after every pass, albedo and light."""

    def __init__(
        self,
        *,
        vector_channels: int,
        feature_channels: int,
        hidden_channels: int,
        reads_keypoints: bool,
        refinements: int,
        rotation: Rotation,
        pose_origin: PoseOrigin,
        translation: Translation,
        side_head: bool,
        joints: str,
        texture: bool,
        layer: HandLayer,
    ):
        """vector_channels: of the gathered vectors; feature_channels: of the features sampled at keypoints."""
        super().__init__()
        self.layer = layer
        self.rotation = rotation
        self.pose_origin = pose_origin
        self.translation = translation
        self.joints = joints
        at_keypoints = 21 * (3 + LOCAL_CHANNELS) if reads_keypoints else 0
        self.window = mlp(vector_channels, 64, 1)
        self.side = mlp(vector_channels + at_keypoints, 128, 1 + (NUM_KEYPOINTS if reads_keypoints else 0)) if side_head else None
        self.local = nn.Linear(feature_channels, LOCAL_CHANNELS) if reads_keypoints else None
        self.num_rotation = 6 if rotation == "6d" else 3
        self.num_state = self.num_rotation + NUM_POSE + NUM_BETAS + 3
        inputs = vector_channels + 1 + at_keypoints
        self.first = mlp(inputs, hidden_channels, self.num_state)
        more = inputs + self.num_state + (42 if reads_keypoints else 0)
        self.refine = nn.ModuleList([mlp(more, hidden_channels, self.num_state) for _ in range(refinements - 1)])
        self.texture = mlp(vector_channels, 128, NUM_VERTICES * 3) if texture else None
        self.light = mlp(vector_channels, 64, NUM_LIGHT) if texture else None
        upright = torch.tensor(UPRIGHT)
        start = matrix_to_rotation_6d(upright) if rotation == "6d" else matrix_to_axis_angle(upright[None])[0]
        self.register_buffer("start", torch.cat([start, torch.zeros(self.num_state - self.num_rotation)]), persistent=False)
        self.register_buffer("mean_albedo", torch.tensor(MEAN_ALBEDO), persistent=False)
        ambient = torch.zeros(3, 9)
        ambient[:, 0] = MEAN_AMBIENT
        self.register_buffer("mean_light", ambient.flatten(), persistent=False)

    start: Tensor
    mean_albedo: Tensor
    mean_light: Tensor

    def predict_log_window(self, vectors: Float[Tensor, "M C"]) -> Float[Tensor, " M"]:
        """Half side of each hand's window, as log(px / BASE_WINDOW_PX)."""
        return self.window(vectors)[:, 0]

    @staticmethod
    def window_px(log_window: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        return BASE_WINDOW_PX * log_window.clamp(-math.log(16), math.log(16)).exp()

    def predict_side(
        self, vectors: Float[Tensor, "M C"], seen: KeypointView | None, centers_px: Tensor, window_px: Tensor
    ) -> Float[Tensor, " M"] | None:
        """Log odds of a right hand from what the image shows at the hand's centre and keypoints; None without this head."""
        if self.side is None:
            return None
        if seen is None:
            return self.side(vectors)[:, 0]
        parts = [vectors, *self._at_keypoints(seen, centers_px, window_px, torch.ones_like(centers_px)[:, None])]
        plain, weights = self.side(torch.cat(parts, -1)).split([1, NUM_KEYPOINTS], -1)
        # Left or right is the order of the fingers times palm or back: the first changes sign in a mirror, the second does not. A network
        # on both as mere inputs has to find that product first, and stays at chance for long; here it is given.
        across = across_hand(seen.keypoints_px / window_px[:, None, None])
        return plain[:, 0] + (weights * across).sum(-1)

    def _at_keypoints(self, seen: KeypointView, centers_px: Tensor, window_px: Tensor, flip: Tensor) -> list[Tensor]:
        """Keypoints in half sides of the window, their confidence, and the features at them; `flip` (M, 1, 2) mirrors left hands."""
        assert self.local is not None
        relative = (seen.keypoints_px - centers_px[:, None]) / window_px[:, None, None] * flip
        return [relative.flatten(1), seen.confidence, self.local(seen.features).flatten(1)]

    def forward(
        self,
        vectors: Float[Tensor, "M C"],
        seen: KeypointView | None,
        side: Int[Tensor, " M"],
        centers_px: Float[Tensor, "M 2"],
        window_px: Float[Tensor, " M"],
        K: Float[Tensor, "M 3 3"],
    ) -> tuple[list[HandParameters], Tensor | None, Tensor | None]:
        sign = side.to(vectors.dtype) * 2 - 1  # +1 right, -1 left
        flip = torch.stack([sign, torch.ones_like(sign)], -1)[:, None]
        parts = [vectors, sign[:, None]]
        if seen is not None:
            parts += self._at_keypoints(seen, centers_px, window_px, flip)
        inputs = torch.cat(parts, -1)
        state = self.start + self.first(inputs)
        passes = [self.decode(state, sign, side, centers_px, window_px, K)]
        for refine in self.refine:
            more = [inputs, state.detach()]
            if seen is not None:
                error = (seen.keypoints_px - passes[-1].keypoints_px) / window_px[:, None, None] * flip
                more.append(error.detach().clamp(-2, 2).flatten(1))
            state = state + refine(torch.cat(more, -1))
            passes.append(self.decode(state, sign, side, centers_px, window_px, K))
        if self.texture is None or self.light is None:
            return passes, None, None
        albedo = self.mean_albedo + self.texture(vectors).view(-1, NUM_VERTICES, 3)
        return passes, albedo, self.mean_light + self.light(vectors)

    def decode(self, state: Tensor, sign: Tensor, side: Tensor, centers_px: Tensor, window_px: Tensor, K: Tensor) -> HandParameters:
        """Unbounded right-hand numbers -> parameters of each hand's own side, mesh and projection."""
        rotation, pose, betas, raw = state.split([self.num_rotation, NUM_POSE, NUM_BETAS, 3], -1)
        right = rotation_6d_to_matrix(rotation) if self.rotation == "6d" else axis_angle_to_matrix(rotation)
        mirror = torch.stack([sign, torch.ones_like(sign), torch.ones_like(sign)], -1)
        root_rotation = right * mirror[:, :, None] * mirror[:, None, :]
        turn = torch.stack([torch.ones_like(sign), sign, sign], -1)
        if self.pose_origin == "mean":
            pose = pose + self.layer.hands_mean[1]
        pose = (pose.view(-1, 15, 3) * turn[:, None]).flatten(1)
        raw = torch.cat([raw[:, :1] * sign[:, None], raw[:, 1:]], -1)
        if self.translation == "window":
            translation = decode_translation(raw, centers_px, window_px, K)
        else:
            translation = decode_offset_translation(raw, centers_px, K)
        out = self.layer(root_rotation, pose, betas, side, translation, center_joint=ROOT, joints=self.joints)
        return HandParameters(root_rotation, pose, betas, translation, out.vertices, out.joints, project(out.joints, K))


def across_hand(keypoints: Float[Tensor, "M 21 2"], least_length: float = 0.1) -> Float[Tensor, "M 21"]:
    """Each keypoint's offset to the right of the line from the wrist to the middle finger's root, in the image; odd in a mirror.

    least_length: of that line, in the keypoints' unit; below it the offsets fade to 0 with the direction they are measured from.
    """
    relative = keypoints - keypoints[:, WRIST, None]
    up = F.normalize(relative[:, ROOT], dim=-1, eps=least_length)[:, None]
    return up[..., 0] * relative[..., 1] - up[..., 1] * relative[..., 0]


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers; the output starts near zero, so a new head starts at its bias."""
    last = nn.Linear(hidden, outputs)
    nn.init.normal_(last.weight, std=0.001)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last)
