"""The matrix that takes (1, betas, rotations) to a hand's surface, joints and motions before skinning, and where one side serves both.

Shape and pose correctives are linear (MANO, Eq. 3-4), and so are the rest joints: all of them are one product.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.files import HandModel, mirrored, one_side
from handnet.hand.schema import NUM_BETAS, NUM_JOINTS, NUM_POSE_FEATURES
from handnet.hand.skinning import NUM_FINGERS

# metres; an official left hand is the mirrored right one up to the rounding of whoever mirrored it
_SAME_WITHIN: Final = 1e-9
_SKINNING_ARRAYS: Final = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")


def is_mirrored(model: HandModel) -> bool:
    """Whether the left hand is the right one's mirror image in all that skinning reads."""
    left, expected = one_side(model, 0), mirrored(one_side(model, 1))
    return all(np.abs(getattr(left, name) - getattr(expected, name)).max() <= _SAME_WITHIN for name in _SKINNING_ARRAYS)


def blend_matrix(model: HandModel, side: int) -> NDArray[np.float64]:
    """(1 + 10 + 135, 2638) of one side; columns as in `handnet.hand.skinning`: vertices, rest joints, local motions."""
    posedirs = model.posedirs[side].transpose(2, 1, 0).reshape(NUM_POSE_FEATURES, -1)
    shapedirs = model.shapedirs[side].transpose(2, 1, 0)
    # MANO's pose features are R - I; the constant takes the I, so that the features can be R itself
    identity = np.tile(np.eye(3).ravel(), NUM_JOINTS - 1)
    template = model.v_template[side].T
    vertices = np.concatenate([template.reshape(1, -1) - identity @ posedirs, shapedirs.reshape(NUM_BETAS, -1), posedirs])
    of_joints = np.concatenate([template[None], shapedirs]) @ model.J_regressor[side].T  # (1 + 10, 3, 16)
    rest_joints = np.zeros((len(vertices), 4, NUM_JOINTS))
    rest_joints[0, 0] = 1
    rest_joints[: 1 + NUM_BETAS, 1:] = -of_joints
    local = np.zeros((len(vertices), NUM_JOINTS - 1, 4, 4))
    local[0, :, 0, 0] = 1
    local[: 1 + NUM_BETAS, :, 1:, 0] = (of_joints[:, :, 1:] - of_joints[:, :, model.parents[1:]]).transpose(0, 2, 1)
    local[1 + NUM_BETAS :, :, 1:, 1:] = np.eye(NUM_POSE_FEATURES).reshape(NUM_POSE_FEATURES, NUM_JOINTS - 1, 3, 3)
    local = local.reshape(len(vertices), NUM_FINGERS, 3, 4, 4).transpose(0, 2, 1, 3, 4)
    return np.concatenate([vertices, rest_joints.reshape(len(vertices), -1), local.reshape(len(vertices), -1)], 1)
