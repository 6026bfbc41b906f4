"""manopth's `ManoLayer`, where a user has it, as a hand model: its buffers are read, it is never called.

manopth gives millimetres and std21 joints; the hand layer gives the same hands in metres, both sides in one batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.files import HandModel, mirrored, one_hand, pair, with_left_shapedirs_fixed
from handnet.hand.schema import NUM_JOINTS
from handnet.skeleton import SIDES

_BUFFERS: Final = {
    "v_template": "th_v_template",
    "shapedirs": "th_shapedirs",
    "posedirs": "th_posedirs",
    "J_regressor": "th_J_regressor",
    "weights": "th_weights",
    "f": "th_faces",
}


def model_from_manopth(layer: Any, other: Any = None) -> HandModel:
    """The hand model of one `ManoLayer`, or of one for each side; without the other side, it is the mirrored one.

    A left layer of the official file carries the fault of its shapedirs, which is removed here as in `load_hand`; manopth itself
    keeps it, so left hands with betas differ from manopth's there. Raises ValueError that names the layer, the array, what was
    expected and what came.
    """
    hands = {}
    for each in (layer, other):
        if each is not None:
            side = getattr(each, "side", None)
            if side not in SIDES:
                raise ValueError(f"{type(each).__name__}: side: expected 'left' or 'right', got {side!r}")
            if side in hands:
                raise ValueError(f"{type(each).__name__}: expected layers of two sides, got {side} twice")
            hands[side] = one_hand(_arrays(each), Path(f"{type(each).__name__} ({side})"), side)
    right = hands.get("right") or mirrored(hands["left"])
    left = hands.get("left") or mirrored(right)
    return pair(with_left_shapedirs_fixed(left, right), right, "manopth")


def forward_options(layer: Any) -> dict[str, Any]:
    """The options of a `ManoLayer` as keywords of `HandLayer.forward`.

    Where manopth gets a translation it leaves out the centring that its center_idx asks for; the hand layer does both.
    """
    return {
        "use_pca": bool(layer.use_pca),
        "flat_hand_mean": bool(layer.flat_hand_mean) or not (layer.use_pca or layer.joint_rot_mode == "axisang"),
        "center_joint": layer.center_idx,
    }


def _arrays(layer: Any) -> dict[str, NDArray[Any]]:
    name = type(layer).__name__
    missing = [buffer for buffer in _BUFFERS.values() if not hasattr(layer, buffer)]
    if missing:
        raise ValueError(f"{name}: expected manopth's ManoLayer, found no {', '.join(missing)}")
    arrays = {key: getattr(layer, buffer).detach().cpu().numpy() for key, buffer in _BUFFERS.items()}
    arrays["v_template"] = arrays["v_template"].reshape(-1, 3)  # manopth keeps a batch axis
    arrays["kintree_table"] = np.stack([_parents(layer), np.arange(NUM_JOINTS)])
    # the layer's own mean is 0 where it was asked for a flat hand, and PCA and mean are left out with rotation matrices
    content = getattr(layer, "smpl_data", {})
    for key, buffer in (("hands_mean", None if layer.flat_hand_mean else "th_hands_mean"), ("hands_components", "th_comps")):
        if key in content:
            arrays[key] = np.asarray(getattr(content[key], "r", content[key]), np.float64)  # .r: the value of a chumpy array
        elif buffer is not None and hasattr(layer, buffer):
            arrays[key] = getattr(layer, buffer).detach().cpu().numpy()
        else:
            raise ValueError(f"{name}: {key}: expected it in smpl_data or th_hands_mean, th_comps, found none; is flat_hand_mean False?")
    arrays["hands_mean"] = arrays["hands_mean"].reshape(-1)
    return arrays


def _parents(layer: Any) -> NDArray[np.int64]:
    parents = np.array(layer.kintree_parents, dtype=np.int64)
    if parents.shape != (NUM_JOINTS,):
        raise ValueError(f"{type(layer).__name__}: kintree_parents: expected {NUM_JOINTS} parents, got shape {parents.shape}")
    return parents
