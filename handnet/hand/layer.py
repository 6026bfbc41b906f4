"""The hand layer: pose and shape of MANO-schema hands to vertices and joints, left and right hands of one batch in one pass.

Follows manopth's conventions (std21 joints with fingertips, PCA or full pose, flat or mean pose, centring), in metres.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from handnet.hand.blending import blend_matrix, is_mirrored
from handnet.hand.files import HandModel, load_hand
from handnet.hand.layer_checks import check_input, check_posed, in_layer_dtype
from handnet.hand.posing import pose_hands
from handnet.hand.schema import NUM_FACES, NUM_JOINTS, NUM_POSE
from handnet.hand.skinning import Rig
from handnet.skeleton import JOINT_CONVENTIONS, MANO_TO_STD, STD_TO_MANO, JointConvention, convention_index

_MIRROR: Final = np.array([[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
_MANO_OF_STD: Final = tuple(MANO_TO_STD.tolist())


class HandOutput(NamedTuple):
    """Posed hands in metres: vertices (N, 778, 3) and joints (N, 21, 3) in std21 order."""

    vertices: Float[Tensor, "n 778 3"]
    joints: Float[Tensor, "n 21 3"]


MAX_TIP_GAP_M = 0.02


def tip_vertices(model: HandModel, convention: JointConvention) -> NDArray[np.int64]:
    """(2, 5) vertex ids of the fingertips by side.

    The conventions' ids are MANO's: where a model's vertex of that number is not at its fingertip (the free hand numbers
    the ring and the little finger otherwise), the model's own id takes its place.
    """
    if convention.tips is None:
        return model.tips
    sides = np.arange(2)[:, None]
    gap_m = np.linalg.norm(model.v_template[sides, convention.tips] - model.v_template[sides, model.tips], axis=2)
    return np.where(gap_m > MAX_TIP_GAP_M, model.tips, convention.tips)


class HandLayer(nn.Module):
    """Pose and shape to vertices and joints; holds buffers only, none of which is saved in a state_dict.

    model: the hand to pose; None is the free hand. dtype: of the buffers; float64 input needs float64 (or `.double()`).
    check_values: on a CPU, outside of graphs and transforms, NaN, infinite numbers and unknown sides are refused.

    Computes in `dtype` under autocast too. First derivatives are fast (see posing.py); higher ones, torch.func's transforms,
    forward-mode derivatives, torch.compile and traces (ONNX) work too.
    """

    def __init__(self, model: HandModel | None = None, *, dtype: torch.dtype = torch.float32, check_values: bool = True) -> None:
        super().__init__()
        self._real = dtype
        self.check_values = check_values
        model = load_hand() if model is None else model
        self.name = model.name
        self.sha256 = model.sha256
        # One matrix if the left hand is the mirrored right one; else both sides are stacked along the features: a hand's
        # features are put in its side's half, the other half is zero, so that one product serves a mixed batch all the same.
        self.mirrored = is_mirrored(model)
        sides = (1,) if self.mirrored else (0, 1)
        self._add("blend", np.concatenate([blend_matrix(model, side) for side in sides]))
        self.own_weights = not self.mirrored and not np.array_equal(model.weights[0], model.weights[1])
        self._add("weights", np.concatenate([model.weights[side].T for side in (sides if self.own_weights else (1,))]))
        self._add("still", np.eye(4)[1:, :, None])
        self._add("side_table", _MIRROR if self.mirrored else np.eye(2))
        self._add("turn_table", (_MIRROR[:, :, None] * _MIRROR[:, None])[:, None])
        regressor = model.J_regressor
        self._add("J_regressor", regressor[:1] if np.array_equal(*regressor) else regressor)  # (1 or 2, 16, 778)
        self._add("hands_mean", model.hands_mean)  # (2, 45)
        self._add("hands_components", model.hands_components)  # (2, 45, 45)
        self._add("tips", np.stack([tip_vertices(model, c) for c in JOINT_CONVENTIONS.values()]))
        self._add("regressed", np.array([c.regressed for c in JOINT_CONVENTIONS.values()]))
        self._add("both_faces", model.faces)
        self._add("joint_axes", model.joint_axes[1])  # (16, 3, 3) of the right hand: flexion, abduction and twist axes
        self._add("std_order", MANO_TO_STD)
        self._add("mano_order", STD_TO_MANO)

    blend: Tensor
    weights: Tensor
    still: Tensor
    side_table: Tensor
    turn_table: Tensor
    J_regressor: Tensor
    hands_mean: Tensor
    hands_components: Tensor
    tips: Tensor
    regressed: Tensor
    both_faces: Tensor
    joint_axes: Tensor
    std_order: Tensor
    mano_order: Tensor

    def _add(self, name: str, array: NDArray) -> None:
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
        return (coefficients.to(components.dtype)[:, :, None] * components).sum(1)

    def forward(
        self,
        root_rotation: Tensor,
        pose: Tensor,
        betas: Float[Tensor, "n 10"],
        side: Int[Tensor, " n"],
        translation: Float[Tensor, "n 3"] | None = None,
        *,
        use_pca: bool = False,
        flat_hand_mean: bool = True,
        center_joint: int | None = None,
        joints: str = "model",
    ) -> HandOutput:
        """Pose N hands.

        root_rotation: rotation of the whole hand about its wrist joint, (N, 3, 3) matrices or (N, 3) axis-angle in radians.
        pose: (N, 45) axis-angle in radians, MANO's joint order, or (N, 15, 3, 3) rotation matrices, or with use_pca the
            coefficients (N, k) of the first k <= 45 principal components.
        betas: (N, 10) shape coefficients. side: (N,) int64, 0 left, 1 right. translation: (N, 3) metres, added last.
        flat_hand_mean: False adds the model's mean pose to axis-angle or PCA `pose`.
        center_joint: std21 index of the joint that is moved to the origin before the translation; None leaves the
            model's own origin.
        joints: which joints are returned and centred on, a name of `handnet.skeleton.JOINT_CONVENTIONS`.
        Returns vertices and joints in metres in the frame of root_rotation. Raises ValueError for wrong shapes, types and
        values, naming what was expected.
        """
        if not torch.jit.is_tracing():  # a trace (ONNX) would warn about every comparison
            check_input(
                root_rotation, pose, betas, side, translation, use_pca=use_pca, center_joint=center_joint, check_values=self.check_values
            )
        convention_index(joints)  # an error that lists the names, for an unknown one
        regressed = JOINT_CONVENTIONS[joints].regressed
        dtype = self.blend.dtype
        with torch.autocast(betas.device.type, enabled=False):
            root_rotation, betas = in_layer_dtype("root_rotation", root_rotation, dtype), in_layer_dtype("betas", betas, dtype)
            shift = torch.zeros_like(betas[:, :3]) if translation is None else in_layer_dtype("translation", translation, dtype)
            pose = self._absolute(in_layer_dtype("pose", pose, dtype), side, use_pca, flat_hand_mean)
            center = None if center_joint is None else _MANO_OF_STD[center_joint]
            if center is None or (center < NUM_JOINTS and not regressed):
                out = HandOutput(*pose_hands(self._rig(side), root_rotation, pose, betas, shift, center))
                return out if joints == "model" else out._replace(joints=self.joints_as(joints, out, side))
            # centred on a joint that is known only when the hand is posed
            out = HandOutput(*pose_hands(self._rig(side), root_rotation, pose, betas, torch.zeros_like(shift), None))
            found = self.joints_as(joints, out, side)
            offset = (shift - found[:, center_joint])[:, None]
            return HandOutput(out.vertices + offset, found + offset)

    def joints_as(self, convention: str | Int[Tensor, " n"], out: HandOutput, side: Int[Tensor, " n"]) -> Float[Tensor, "n 21 3"]:
        """std21 joints of posed hands under another convention of `handnet.skeleton.JOINT_CONVENTIONS`.

        convention: one name for all, or a `convention_index` per hand, for batches out of several datasets.
        out: what `forward` returned with joints="model", before or after any rigid motion.
        """
        if not torch.jit.is_tracing():
            check_posed(*out, side)
        with torch.autocast(out.vertices.device.type, enabled=False):
            name = convention if isinstance(convention, str) else None
            index = torch.full_like(side, convention_index(convention)) if isinstance(convention, str) else convention
            tips = out.vertices.gather(1, self.tips[index, side][..., None].expand(-1, -1, 3))
            joints = out.joints[:, self.mano_order][:, :NUM_JOINTS]
            if name is None or JOINT_CONVENTIONS[name].regressed:
                regressor = self.J_regressor[side] if self.J_regressor.shape[0] == 2 else self.J_regressor
                regressed = regressor @ out.vertices
                joints = torch.where(self.regressed[index, None, None], regressed, joints) if name is None else regressed
            return torch.cat([joints, tips], 1)[:, self.std_order]

    def _absolute(self, pose: Tensor, side: Tensor, use_pca: bool, flat_hand_mean: bool) -> Tensor:
        """The pose without components and mean: (N, 45) axis-angle or (N, 15, 3, 3) matrices."""
        if use_pca:
            pose = self.pose_from_components(pose, side)
        if flat_hand_mean:
            return pose
        if pose.ndim == 4:
            raise ValueError(
                "flat_hand_mean: expected True with rotation matrices (the mean pose is added to axis-angle only: "
                "see handnet.rotations.matrix_to_axis_angle), got False"
            )
        return pose + self.hands_mean[side]

    def _rig(self, side: Tensor) -> Rig:
        of_side = self.side_table[side]
        return Rig(
            blend=self.blend,
            weights=self.weights,
            own_weights=self.own_weights,
            tips=self.tips[0][side],
            still=self.still,
            order=self.std_order,
            inverse=self.mano_order,
            mirror=of_side if self.mirrored else None,
            turn=self.turn_table[side] if self.mirrored else None,
            of_side=None if self.mirrored else of_side,
        )

    def extra_repr(self) -> str:
        return f"model={self.name!r}, num_faces={NUM_FACES}"
