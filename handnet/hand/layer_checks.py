"""What the hand layer is given, checked: shapes, types, sides and numbers, each error naming what was expected and what came.

Looking at values would stall another device and can't be done while a graph is made: those checks are for a CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handnet.differentiation import needs_plain_operations
from handnet.hand.schema import NUM_BETAS, NUM_JOINTS, NUM_POSE, NUM_VERTICES
from handnet.skeleton import NUM_KEYPOINTS


def check_input(
    root_rotation: Tensor,
    pose: Tensor,
    betas: Tensor,
    side: Tensor,
    translation: Tensor | None,
    *,
    use_pca: bool,
    center_joint: int | None,
    check_values: bool,
) -> None:
    """ValueError unless the arguments are as `HandLayer.forward` documents them."""
    num = betas.shape[0] if betas.ndim else 0
    _expect("betas", betas, (num, NUM_BETAS))
    _expect("root_rotation", root_rotation, (num, 3, 3), (num, 3))
    if use_pca:
        if pose.ndim != 2 or pose.shape[0] != num or not 1 <= pose.shape[1] <= NUM_POSE:
            raise ValueError(f"pose: expected shape ({num}, 1..{NUM_POSE}) with use_pca, got {tuple(pose.shape)}")
    else:
        _expect("pose", pose, (num, NUM_POSE), (num, NUM_JOINTS - 1, 3, 3))
    _expect("side", side, (num,))
    if translation is not None:
        _expect("translation", translation, (num, 3))
    if side.dtype != torch.int64:
        raise ValueError(f"side: expected int64 (0 left, 1 right), got {side.dtype}")
    if center_joint is not None and not 0 <= center_joint < NUM_KEYPOINTS:
        raise ValueError(f"center_joint: expected a std21 index 0..20, got {center_joint}")
    if check_values and side.device.type == "cpu" and not needs_plain_operations():
        _check_values(side, {"root_rotation": root_rotation, "pose": pose, "betas": betas, "translation": translation})


def check_posed(vertices: Tensor, joints: Tensor, side: Tensor) -> None:
    """ValueError unless these are posed hands of one batch."""
    num = side.shape[0] if side.ndim else 0
    _expect("vertices", vertices, (num, NUM_VERTICES, 3))
    _expect("joints", joints, (num, NUM_KEYPOINTS, 3))
    _expect("side", side, (num,))


def in_layer_dtype(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` in the layer's type; ValueError if that would lose digits."""
    if value.dtype == dtype:
        return value
    if not value.is_floating_point() or torch.finfo(value.dtype).bits > torch.finfo(dtype).bits:
        raise ValueError(f"{name}: expected {dtype} as the layer (see its dtype and .double()), got {value.dtype}")
    return value.to(dtype)


def _expect(name: str, value: Tensor, *shapes: tuple[int, ...]) -> None:
    if tuple(value.shape) not in shapes:
        raise ValueError(f"{name}: expected shape {' or '.join(map(str, shapes))}, got {tuple(value.shape)}")


def _check_values(side: Tensor, numbers: dict[str, Tensor | None]) -> None:
    if bool((side & -2).any()):
        raise ValueError(f"side: expected 0 (left) or 1 (right), got {sorted(set(side.tolist()))}")
    with torch.no_grad():  # a sum is finite only if all numbers are, and takes one look
        given = [value.flatten(1).float() for value in numbers.values() if value is not None]
        if math.isfinite(float(torch.cat(given, 1).sum())):
            return
        for name, value in numbers.items():
            if value is not None and not bool(value.isfinite().all()):
                wrong = (~value.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
                raise ValueError(f"{name}: expected finite numbers, got NaN or infinity in hands {wrong[:10]} of {len(value)}")
