"""MANO's schema as a table: the shape and kind of every array, and the checks a file has to pass.

Errors name file, key, what was expected and what came, because users bring their own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import MANO_PARENTS

NUM_VERTICES: Final = 778
NUM_FACES: Final = 1538
NUM_JOINTS: Final = 16
NUM_BETAS: Final = 10
NUM_POSE: Final = 3 * (NUM_JOINTS - 1)
NUM_POSE_FEATURES: Final = 9 * (NUM_JOINTS - 1)

SCHEMA: Final[Mapping[str, tuple[tuple[int, ...], str]]] = {
    "v_template": ((NUM_VERTICES, 3), "real"),
    "f": ((NUM_FACES, 3), "integer"),
    "shapedirs": ((NUM_VERTICES, 3, NUM_BETAS), "real"),
    "posedirs": ((NUM_VERTICES, 3, NUM_POSE_FEATURES), "real"),
    "J_regressor": ((NUM_JOINTS, NUM_VERTICES), "real"),
    "weights": ((NUM_VERTICES, NUM_JOINTS), "real"),
    "hands_mean": ((NUM_POSE,), "real"),
    "hands_components": ((NUM_POSE, NUM_POSE), "real"),
    "kintree_table": ((2, NUM_JOINTS), "integer"),
    "joint_axes": ((NUM_JOINTS, 3, 3), "real"),
}
OPTIONAL: Final = frozenset({"joint_axes"})
_KINDS: Final = {"real": "f", "integer": "iu"}


def check_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of MANO's schema out of `arrays`, checked; `path` is only named in errors.

    Raises ValueError for a missing key, a wrong shape or dtype, non-finite numbers, vertex ids out of range, weights
    that don't sum to 1, another kinematic tree, or a template that can't be in metres.
    """
    checked = {key: _check_array(arrays, key, path) for key in SCHEMA if key in arrays or key not in OPTIONAL}
    _check_values(checked, path)
    return checked


def _check_array(arrays: Mapping[str, NDArray[Any]], key: str, path: Path) -> NDArray[Any]:
    shape, kind = SCHEMA[key]
    if key not in arrays:
        raise ValueError(f"{path}: {key}: expected an array of shape {shape}, found no such key among {sorted(arrays)}")
    array = arrays[key]
    if array.shape != shape:
        raise ValueError(f"{path}: {key}: expected shape {shape}, got {array.shape}")
    if array.dtype.kind not in _KINDS[kind]:
        raise ValueError(f"{path}: {key}: expected {kind} numbers, got dtype {array.dtype}")
    if kind == "real" and not np.isfinite(array).all():
        raise ValueError(f"{path}: {key}: expected finite numbers, got {int((~np.isfinite(array)).sum())} that are not")
    return array


def _check_values(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    faces = arrays["f"]
    if int(faces.min()) < 0 or int(faces.max()) >= NUM_VERTICES:
        raise ValueError(f"{path}: f: expected vertex ids 0..{NUM_VERTICES - 1}, got {int(faces.min())}..{int(faces.max())}")
    weights = arrays["weights"]
    sums = weights.sum(1)
    if weights.min() < -1e-6 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError(
            f"{path}: weights: expected rows >= 0 that sum to 1, "
            f"got values from {weights.min():.4g} and sums {sums.min():.4g}..{sums.max():.4g}"
        )
    parents = arrays["kintree_table"][0].astype(np.int64).tolist()
    if tuple(parents[1:]) != MANO_PARENTS[1:]:  # the root's own entry is -1 or 2**32 - 1, depending on the writer
        raise ValueError(f"{path}: kintree_table: expected the parents {list(MANO_PARENTS[1:])} of joints 1..15, got {parents[1:]}")
    extent = float(np.ptp(arrays["v_template"], axis=0).max())
    if not 0.05 < extent < 0.5:
        raise ValueError(f"{path}: v_template: expected a hand in metres (extent 0.05 to 0.5), got an extent of {extent:.4g}")
