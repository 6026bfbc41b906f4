"""Linear blend skinning of a MANO-schema hand in torch: left and right hands of one batch in one pass.

Follows manopth's conventions (std21 joints with fingertips, flat or mean pose, centring), in metres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from handnet.hand.files import HandModel, load_hand
from handnet.hand.schema import NUM_BETAS, NUM_FACES, NUM_JOINTS, NUM_POSE, NUM_POSE_FEATURES, NUM_VERTICES
from handnet.rotations import axis_angle_to_matrix
from handnet.skeleton import MANO_TO_STD, NUM_KEYPOINTS

NUM_FINGERS = 5


class HandOutput(NamedTuple):
    """Posed hands in metres: vertices (N, 778, 3) and joints (N, 21, 3) in std21 order."""

    vertices: Float[Tensor, "n 778 3"]
    joints: Float[Tensor, "n 21 3"]


class HandLayer(nn.Module):
    """Pose and shape to vertices and joints; holds buffers only, none of which is saved in a state_dict.

    model: the hand to pose; None is the free hand. dtype: of the buffers; float64 input needs float64 (or `.double()`).
    """

    def __init__(self, model: HandModel | None = None, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._real = dtype
        model = load_hand() if model is None else model
        self.name = model.name
        # Both sides stacked along the features: a hand's features are put in its side's half, the other half is zero,
        # so one product serves a mixed batch.
        self._add("blend", np.concatenate([_blend(model, side) for side in (0, 1)]))  # (2 * 146, 3 * 778 + 2 * 48)
        shared = np.array_equal(model.weights[0], model.weights[1])
        weights = model.weights.transpose(0, 2, 1)
        self._add("weights", weights[0] if shared else weights)  # (16, 778), or (2, 16, 778) if the sides differ
        self._add("hands_mean", model.hands_mean)  # (2, 45)
        self._add("hands_components", model.hands_components)  # (2, 45, 45)
        self._add("tips", model.tips)
        self._add("both_faces", model.faces)
        self._add("joint_axes", model.joint_axes[1])  # (16, 3, 3) of the right hand: flexion, abduction and twist axes
        self._add("std_order", MANO_TO_STD)

    blend: Tensor
    weights: Tensor
    hands_mean: Tensor
    hands_components: Tensor
    tips: Tensor
    both_faces: Tensor
    joint_axes: Tensor
    std_order: Tensor

    def _add(self, name: str, array: NDArray[np.float64] | NDArray[np.int64]) -> None:
        tensor = torch.tensor(np.ascontiguousarray(array))
        self.register_buffer(name, tensor.to(self._real) if tensor.is_floating_point() else tensor, persistent=False)

    def faces(self, side: int) -> Int[Tensor, "1538 3"]:
        """Triangles of one side (0 left, 1 right), counter-clockwise from outside."""
        if side not in (0, 1):
            raise ValueError(f"side: expected 0 (left) or 1 (right), got {side!r}")
        return self.both_faces[side]

    def pose_from_components(self, coefficients: Float[Tensor, "n k"], side: Int[Tensor, " n"]) -> Float[Tensor, "n 45"]:
        """The first k principal components (k <= 45) as an axis-angle pose, without the mean pose."""
        if coefficients.ndim != 2 or not 1 <= coefficients.shape[1] <= NUM_POSE:
            raise ValueError(f"coefficients: expected shape (N, 1..{NUM_POSE}), got {tuple(coefficients.shape)}")
        components = self.hands_components[side, : coefficients.shape[1]]
        return torch.einsum("nk,nkp->np", coefficients, components)

    def forward(
        self,
        root_rotation: Float[Tensor, "n 3 3"],
        pose: Tensor,
        betas: Float[Tensor, "n 10"],
        side: Int[Tensor, " n"],
        translation: Float[Tensor, "n 3"] | None = None,
        *,
        flat_hand_mean: bool = True,
        center_joint: int | None = None,
    ) -> HandOutput:
        """Pose N hands.

        root_rotation: (N, 3, 3) rotation of the whole hand about its wrist joint.
        pose: (N, 45) axis-angle in radians, MANO's joint order, or (N, 15, 3, 3) rotation matrices.
        betas: (N, 10) shape coefficients. side: (N,) int64, 0 left, 1 right. translation: (N, 3) metres, added last.
        flat_hand_mean: False adds the model's mean pose to an axis-angle `pose`.
        center_joint: std21 index of the joint that is moved to the origin before the translation; None leaves the
            model's own origin.
        Returns vertices and joints in metres in the frame of root_rotation. Raises ValueError for wrong shapes.
        """
        if not torch.jit.is_tracing():  # a trace (ONNX) would warn about every comparison
            self._check(root_rotation, pose, betas, side, translation, center_joint)
        if pose.ndim == 2:
            if not flat_hand_mean:
                pose = pose + self.hands_mean[side]
            rotations = axis_angle_to_matrix(pose.reshape(-1, NUM_JOINTS - 1, 3))
        elif flat_hand_mean:
            rotations = pose
        else:
            raise ValueError("flat_hand_mean: expected True with rotation matrices (the mean pose is added to axis-angle only), got False")
        rest_vertices, rest_joints, offsets = self._rest(rotations, betas, side)
        world_rotations, positions = _chain(root_rotation, rotations, offsets)
        # x -> R (x - rest joint) + position, blended over the joints
        shifts = positions - (world_rotations * rest_joints[:, :, None, :]).sum(-1)
        vertices = self._skin(rest_vertices, world_rotations, shifts, side)
        tips = vertices.gather(1, self.tips[side][..., None].expand(-1, -1, 3))
        joints = torch.cat([positions, tips], 1)[:, self.std_order]
        offset = None if center_joint is None else -joints[:, center_joint]
        if translation is not None:
            offset = translation if offset is None else offset + translation
        if offset is not None:
            vertices, joints = vertices + offset[:, None], joints + offset[:, None]
        return HandOutput(vertices, joints)

    def _rest(self, rotations: Tensor, betas: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shaped and corrected vertices (N, 3, 778), joints (N, 16, 3) and joint offsets from the parents (N, 16, 3)."""
        features = torch.cat([torch.ones_like(betas[:, :1]), betas, rotations.reshape(-1, NUM_POSE_FEATURES)], 1)
        by_side = nn.functional.one_hot(side, 2).to(features.dtype)[..., None] * features[:, None]
        rest = by_side.reshape(-1, self.blend.shape[0]) @ self.blend
        vertices, joints, offsets = rest.split([3 * NUM_VERTICES, 3 * NUM_JOINTS, 3 * NUM_JOINTS], 1)
        return vertices.reshape(-1, 3, NUM_VERTICES), joints.reshape(-1, NUM_JOINTS, 3), offsets.reshape(-1, NUM_JOINTS, 3)

    def _skin(self, rest_vertices: Tensor, rotations: Tensor, shifts: Tensor, side: Tensor) -> Tensor:
        # Vertices run along the last axis, so that the sums below are long and vectorised.
        weights = self.weights if self.weights.ndim == 2 else self.weights[side]
        blended_rotations = (rotations.reshape(-1, NUM_JOINTS, 9).transpose(-1, -2) @ weights).reshape(-1, 3, 3, NUM_VERTICES)
        posed = (blended_rotations * rest_vertices[:, None]).sum(2) + shifts.transpose(-1, -2) @ weights
        return posed.transpose(-1, -2).contiguous()

    def _check(
        self, root_rotation: Tensor, pose: Tensor, betas: Tensor, side: Tensor, translation: Tensor | None, center_joint: int | None
    ) -> None:
        num = betas.shape[0] if betas.ndim else 0
        _expect("betas", betas, (num, NUM_BETAS))
        _expect("root_rotation", root_rotation, (num, 3, 3))
        if tuple(pose.shape) not in ((num, NUM_POSE), (num, NUM_JOINTS - 1, 3, 3)):
            raise ValueError(f"pose: expected shape ({num}, 45) or ({num}, 15, 3, 3), got {tuple(pose.shape)}")
        _expect("side", side, (num,))
        if translation is not None:
            _expect("translation", translation, (num, 3))
        if side.dtype != torch.int64:
            raise ValueError(f"side: expected int64 (0 left, 1 right), got {side.dtype}")
        # values can't be looked at in a compiled graph, and doing so would stall another device
        may_look = side.device.type == "cpu" and not torch.compiler.is_compiling()
        if may_look and bool(((side < 0) | (side > 1)).any()):
            raise ValueError(f"side: expected 0 (left) or 1 (right), got {sorted(set(side.tolist()))}")
        if center_joint is not None and not 0 <= center_joint < NUM_KEYPOINTS:
            raise ValueError(f"center_joint: expected a std21 index 0..20, got {center_joint}")

    def extra_repr(self) -> str:
        return f"model={self.name!r}, num_faces={NUM_FACES}"


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")


def _chain(root_rotation: Tensor, rotations: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """World rotations (N, 16, 3, 3) and positions (N, 16, 3): MANO's tree is five fingers of three joints, so three
    steps along all fingers at once instead of fifteen joint by joint."""
    local = torch.cat([rotations, offsets[:, 1:, :, None]], -1).reshape(-1, NUM_FINGERS, 3, 3, 4)
    rotation, position = root_rotation[:, None], offsets[:, :1, :, None]
    world = []
    for step in local.unbind(2):
        moved = rotation @ step
        rotation, position = moved[..., :3], moved[..., 3:] + position
        world.append(torch.cat([rotation, position], -1))
    fingers = torch.stack(world, 2).reshape(-1, NUM_JOINTS - 1, 3, 4)
    return torch.cat([root_rotation[:, None], fingers[..., :3]], 1), torch.cat([offsets[:, :1], fingers[..., 3]], 1)


def _blend(model: HandModel, side: int) -> NDArray[np.float64]:
    """(1 + 10 + 135, 3 * 778 + 2 * 48): rows for the constant 1, the betas and the entries of the pose rotations;
    columns for the vertices (coordinate by coordinate), the joints, and the joints relative to their parents."""
    posedirs = model.posedirs[side].transpose(2, 1, 0).reshape(NUM_POSE_FEATURES, -1)
    shapedirs = model.shapedirs[side].transpose(2, 1, 0)
    # MANO's pose features are R - I; the constant takes the I, so that the features can be R itself
    identity = np.tile(np.eye(3).ravel(), NUM_JOINTS - 1)
    template = model.v_template[side].T
    vertices = np.concatenate([template.reshape(1, -1) - identity @ posedirs, shapedirs.reshape(NUM_BETAS, -1), posedirs])
    joints = np.concatenate([template[None], shapedirs]) @ model.J_regressor[side].T
    joints = joints.transpose(0, 2, 1)  # (1 + 10, 16, 3)
    offsets = joints.copy()
    offsets[:, 1:] -= joints[:, model.parents[1:]]
    unposed = np.concatenate([joints.reshape(1 + NUM_BETAS, -1), offsets.reshape(1 + NUM_BETAS, -1)], 1)
    return np.concatenate([vertices, np.pad(unposed, ((0, NUM_POSE_FEATURES), (0, 0)))], 1)
