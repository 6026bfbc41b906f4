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
from handnet.hand.schema import NUM_BETAS, NUM_FACES, NUM_JOINTS, NUM_POSE, NUM_VERTICES
from handnet.rotations import axis_angle_to_matrix
from handnet.skeleton import MANO_TO_STD, NUM_KEYPOINTS


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
        self._add("blend", np.concatenate([_vertex_blend(model, side) for side in (0, 1)]))  # (2 * 146, 2334)
        self._add("joint_blend", np.concatenate([_joint_blend(model, side) for side in (0, 1)]))  # (2 * 11, 48)
        self.shared_weights = bool(np.array_equal(model.weights[0], model.weights[1]))
        self._add("weights", model.weights[:1] if self.shared_weights else model.weights)  # (1 or 2, 778, 16)
        self._add("hands_mean", model.hands_mean)  # (2, 45)
        self._add("hands_components", model.hands_components)  # (2, 45, 45)
        self._add("tips", model.tips)
        self._add("both_faces", model.faces)
        self._add("std_order", MANO_TO_STD)
        self._levels: list[tuple[list[int], list[int]]] = _depth_levels(model.parents)
        order = [0, *(joint for joints, _ in self._levels for joint in joints)]
        self._add("parents", np.maximum(model.parents, 0))
        self._add("from_level_order", np.argsort(order))
        self._add("eye", np.eye(3))

    blend: Tensor
    joint_blend: Tensor
    weights: Tensor
    hands_mean: Tensor
    hands_components: Tensor
    tips: Tensor
    both_faces: Tensor
    std_order: Tensor
    parents: Tensor
    from_level_order: Tensor
    eye: Tensor

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
        self._check(root_rotation, pose, betas, side, translation, center_joint)
        if pose.ndim == 2:
            if not flat_hand_mean:
                pose = pose + self.hands_mean[side]
            rotations = axis_angle_to_matrix(pose.unflatten(1, (NUM_JOINTS - 1, 3)))
        elif flat_hand_mean:
            rotations = pose
        else:
            raise ValueError("flat_hand_mean: expected True with rotation matrices (the mean pose is added to axis-angle only), got False")
        is_right = side.to(betas.dtype)[:, None]
        shape_features = torch.cat([torch.ones_like(is_right), betas], 1)
        pose_features = (rotations - self.eye).flatten(1)
        rest_vertices = (_by_side(torch.cat([shape_features, pose_features], 1), is_right) @ self.blend).unflatten(1, (NUM_VERTICES, 3))
        rest_joints = (_by_side(shape_features, is_right) @ self.joint_blend).unflatten(1, (NUM_JOINTS, 3))
        world = self._chain(torch.cat([root_rotation[:, None], rotations], 1), rest_joints)
        vertices = self._skin(rest_vertices, rest_joints, world, side)
        tips = vertices.gather(1, self.tips[side][..., None].expand(-1, -1, 3))
        joints = torch.cat([world[..., 3], tips], 1)[:, self.std_order]
        offset = None if center_joint is None else -joints[:, center_joint]
        if translation is not None:
            offset = translation if offset is None else offset + translation
        if offset is not None:
            vertices, joints = vertices + offset[:, None], joints + offset[:, None]
        return HandOutput(vertices, joints)

    def _chain(self, rotations: Tensor, rest_joints: Tensor) -> Tensor:
        """World transforms (N, 16, 3, 4) by depth in the tree: three batched products instead of fifteen."""
        offsets = torch.cat([rest_joints[:, :1], rest_joints[:, 1:] - rest_joints[:, self.parents[1:]]], 1)
        local = torch.cat([rotations, offsets[..., None]], -1)
        worlds = [local[:, :1]]
        for joints, parent_places in self._levels:
            parent = worlds[-1][:, parent_places]
            moved = parent[..., :3] @ local[:, joints]
            worlds.append(torch.cat([moved[..., :3], moved[..., 3:] + parent[..., 3:]], -1))
        return torch.cat(worlds, 1)[:, self.from_level_order]

    def _skin(self, rest_vertices: Tensor, rest_joints: Tensor, world: Tensor, side: Tensor) -> Tensor:
        rotations, positions = world[..., :3], world[..., 3]
        # x -> R (x - rest joint) + position
        shift = positions - (rotations * rest_joints[:, :, None, :]).sum(-1)
        transforms = torch.cat([rotations, shift[..., None]], -1).flatten(2)
        weights = self.weights if self.shared_weights else self.weights[side]
        blended = (weights @ transforms).unflatten(-1, (3, 4))
        return (blended[..., :3] * rest_vertices[:, :, None, :]).sum(-1) + blended[..., 3]

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
        if side.device.type == "cpu" and bool(((side < 0) | (side > 1)).any()):  # elsewhere the check would stall the device
            raise ValueError(f"side: expected 0 (left) or 1 (right), got {sorted(set(side.tolist()))}")
        if center_joint is not None and not 0 <= center_joint < NUM_KEYPOINTS:
            raise ValueError(f"center_joint: expected a std21 index 0..20, got {center_joint}")

    def extra_repr(self) -> str:
        return f"model={self.name!r}, num_faces={NUM_FACES}"


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")


def _by_side(features: Tensor, is_right: Tensor) -> Tensor:
    """(N, F) features -> (N, 2 F): left hands fill the first half, right hands the second."""
    return torch.cat([features * (1 - is_right), features * is_right], 1)


def _vertex_blend(model: HandModel, side: int) -> NDArray[np.float64]:
    """(1 + 10 + 135, 778 * 3): template, shape directions and pose correctives as rows."""
    template = model.v_template[side].reshape(1, -1)
    shape = model.shapedirs[side].reshape(3 * NUM_VERTICES, -1).T
    pose = model.posedirs[side].reshape(3 * NUM_VERTICES, -1).T
    return np.concatenate([template, shape, pose])


def _joint_blend(model: HandModel, side: int) -> NDArray[np.float64]:
    """(1 + 10, 16 * 3): the regressor applied to the template and to every shape direction, once and for all."""
    regressor = model.J_regressor[side]
    template = (regressor @ model.v_template[side]).reshape(1, -1)
    shape = np.einsum("jv,vak->kja", regressor, model.shapedirs[side]).reshape(NUM_BETAS, -1)
    return np.concatenate([template, shape])


def _depth_levels(parents: NDArray[np.int64]) -> list[tuple[list[int], list[int]]]:
    """For each depth below the root: its joints, and the places of their parents in the level above."""
    levels: list[tuple[list[int], list[int]]] = []
    above = [0]
    while True:
        joints = [joint for joint in range(1, len(parents)) if int(parents[joint]) in above]
        if not joints:
            return levels
        levels.append((joints, [above.index(int(parents[joint])) for joint in joints]))
        above = joints
