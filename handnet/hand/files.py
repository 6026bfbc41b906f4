"""Hand models from files: the free hand shipped with the package, or a user's files with MANO's schema.

Right-hand frame at rest: fingers along -x, back of the hand +y, thumb side +z, metres; a left hand is its mirror in x.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.frames import anatomical_frames
from handnet.hand.mano_pickle import parse_mano_pickle
from handnet.hand.npz import read_npz
from handnet.hand.parsed_cache import parsed
from handnet.hand.schema import NUM_JOINTS, check_arrays
from handnet.skeleton import FINGERTIP_VERTICES, MANO_JOINT_NAMES, MANO_PARENTS, SIDES

FREE_HAND_FILE: Final = Path(__file__).with_name("free_hand.npz")
# where a folder's MANO_RIGHT is looked for: the folder itself, then as the archives hold it or manopth wants it
SUBFOLDERS: Final = ("", "models", "mano/models", "mano_v1_2/models")
# what mirroring in x does to a vector, to a rotation vector, and to the entries of R - I
_VECTOR = np.array([-1.0, 1.0, 1.0])
_ROTATION = np.array([1.0, -1.0, -1.0])
_FEATURE = np.tile(np.outer(_VECTOR, _VECTOR).ravel(), NUM_JOINTS - 1)


@dataclass(frozen=True, kw_only=True)
class HandModel:
    """A hand's arrays for both sides (index 0 left, 1 right): float64 in metres and radians, int64 ids, read-only."""

    name: str
    v_template: NDArray[np.float64]  # (2, 778, 3)
    shapedirs: NDArray[np.float64]  # (2, 778, 3, 10)
    posedirs: NDArray[np.float64]  # (2, 778, 3, 135)
    J_regressor: NDArray[np.float64]  # (2, 16, 778)
    weights: NDArray[np.float64]  # (2, 778, 16)
    hands_mean: NDArray[np.float64]  # (2, 45)
    hands_components: NDArray[np.float64]  # (2, 45, 45), rows are components
    faces: NDArray[np.int64]  # (2, 1538, 3)
    parents: NDArray[np.int64]  # (16,)
    joint_axes: NDArray[np.float64]  # (2, 16, 3, 3), rows: flexion axis, dorsal (abduction) axis, bone (twist) axis
    tips: NDArray[np.int64]  # (2, 5), thumb to little

    @cached_property
    def sha256(self) -> str:
        """Names the model by its arrays, whatever file or machine they come from: hex over their values as float32."""
        digest = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                plain = np.ascontiguousarray(value, "<f4" if value.dtype.kind == "f" else "<i4")
                digest.update(f"{field.name}{plain.shape}".encode() + (plain + 0).tobytes())  # -0 and 0 are the same number
        return digest.hexdigest()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)


@dataclass(frozen=True, kw_only=True)
class OneHand:
    """The arrays of one side, as they come from one file; shapes as in HandModel without the first axis."""

    v_template: NDArray[np.float64]
    shapedirs: NDArray[np.float64]
    posedirs: NDArray[np.float64]
    J_regressor: NDArray[np.float64]
    weights: NDArray[np.float64]
    hands_mean: NDArray[np.float64]
    hands_components: NDArray[np.float64]
    faces: NDArray[np.int64]
    joint_axes: NDArray[np.float64]
    tips: NDArray[np.int64]


def mirrored(hand: OneHand) -> OneHand:
    """The other side of `hand`: reflected in x, vertex i staying vertex i, faces turned round."""
    pose_sign = np.tile(_ROTATION, NUM_JOINTS - 1)
    return replace(
        hand,
        v_template=hand.v_template * _VECTOR,
        shapedirs=hand.shapedirs * _VECTOR[:, None],
        posedirs=hand.posedirs * _VECTOR[:, None] * _FEATURE,
        hands_mean=hand.hands_mean * pose_sign,
        hands_components=hand.hands_components * pose_sign,
        faces=hand.faces[:, ::-1].copy(),
        joint_axes=hand.joint_axes * _ROTATION,
    )


def one_side(model: HandModel, side: int) -> OneHand:
    """The arrays of one side (0 left, 1 right)."""
    return OneHand(**{field.name: getattr(model, field.name)[side] for field in fields(OneHand)})


def pair(left: OneHand, right: OneHand, name: str) -> HandModel:
    """Both sides as one HandModel."""
    arrays: dict[str, Any] = {f.name: np.stack([getattr(left, f.name), getattr(right, f.name)]) for f in fields(OneHand)}
    return HandModel(name=name, parents=np.array(MANO_PARENTS, dtype=np.int64), **arrays)


def load_hand(source: str | Path | None = None) -> HandModel:
    """The hand model at `source`; None is the free hand of this package.

    source: a .npz with MANO's keys (v_template, f, shapedirs, posedirs, J_regressor, weights, hands_mean,
        hands_components, kintree_table) or an official MANO .pkl, both for a right hand unless the file name has the
        word "left" (the other side is mirrored), or a folder with MANO_RIGHT and optionally MANO_LEFT as .npz or .pkl,
        itself or in one of the subfolders that MANO is published or usually kept in (`SUBFOLDERS`).
    Raises FileNotFoundError, or ValueError that names file, key, what was expected and what came.
    """
    if source is None:
        return _load_free_hand()
    path = Path(source)
    if path.is_dir():
        return _load_folder(path)
    side = side_of_name(path)
    one = read_one(path, side)
    other = mirrored(one)
    left, right = (one, other) if side == "left" else (other, one)
    return pair(left, right, path.stem)


def side_of_name(path: Path) -> str:
    """Which hand a file is expected to hold: "left" if its name has that word, else "right"."""
    return "left" if re.search(r"(?<![a-z])left(?![a-z])", path.stem.lower()) else "right"


def file_of_side(folder: Path, side: str) -> Path | None:
    """MANO_RIGHT or MANO_LEFT of a folder; an .npz goes before a .pkl."""
    found = (folder / f"MANO_{side.upper()}{suffix}" for suffix in (".npz", ".pkl"))
    return next((path for path in found if path.is_file()), None)


def mano_folder(folder: Path) -> Path | None:
    """The first of `folder` and its `SUBFOLDERS` that has a MANO_RIGHT, or None."""
    return next((place for place in (folder / name for name in SUBFOLDERS) if file_of_side(place, "right")), None)


@lru_cache(maxsize=1)
def load_free_arrays() -> Mapping[str, NDArray[Any]]:
    """All arrays of the free right hand, beyond MANO's schema too, read-only.

    gestures (22, 45) axis-angle, gesture_names, theta_min/theta_max (45,), hands_std (45,), part (778,) finger of each
    vertex (0 index, 1 middle, 2 little, 3 ring, 4 thumb, -1 palm), shape_names (10,), joint_axes (16, 3, 3).
    """
    arrays = read_npz(FREE_HAND_FILE)
    for array in arrays.values():
        array.setflags(write=False)
    return MappingProxyType(arrays)


@lru_cache(maxsize=1)
def _load_free_hand() -> HandModel:
    right = one_hand(load_free_arrays(), FREE_HAND_FILE, "right")
    return pair(mirrored(right), right, "free")


def _load_folder(folder: Path) -> HandModel:
    place = mano_folder(folder)
    if place is None:
        raise FileNotFoundError(f"{folder}: expected MANO_RIGHT.npz or MANO_RIGHT.pkl (and MANO_LEFT beside it), found neither")
    hands = {side: read_one(path, side) for side in SIDES if (path := file_of_side(place, side)) is not None}
    right = hands["right"]
    left = mirrored(right) if "left" not in hands else with_left_shapedirs_fixed(hands["left"], right)
    return pair(left, right, "mano")


def with_left_shapedirs_fixed(left: OneHand, right: OneHand) -> OneHand:
    """`left` with the known fault of the official left file removed, if it has it.

    There the x coordinate of shapedirs has the right hand's sign instead of the mirrored one.
    """
    if not has_left_shapedirs_fault(left, right):
        return left
    return replace(left, shapedirs=left.shapedirs * _VECTOR[:, None])


def has_left_shapedirs_fault(left: OneHand, right: OneHand) -> bool:
    """Whether shapedirs move both hands' vertices to the same side."""
    return bool(np.abs(left.shapedirs[:, 0] - right.shapedirs[:, 0]).sum() < 1)


def read_one(path: Path, side: str) -> OneHand:
    """One file as the hand of one side ("left" or "right"); errors as of `load_hand`."""
    readers: dict[str, Callable[[Path], dict[str, NDArray[Any]]]] = {".npz": read_npz, ".pkl": _read_pickle}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: expected a hand model as .npz or .pkl, or a folder with MANO_RIGHT.*, got suffix {path.suffix!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such hand model file")
    return one_hand(readers[path.suffix.lower()](path), path, side)


def _read_pickle(path: Path) -> dict[str, NDArray[Any]]:
    return parsed(path.read_bytes(), lambda data: parse_mano_pickle(data, path))


def one_hand(arrays: Mapping[str, NDArray[Any]], path: Path, side: str) -> OneHand:
    """Checked arrays of one file as a OneHand; `path` is named in errors."""
    checked = check_arrays(arrays, path)
    real = {key: checked[key].astype(np.float64) for key in checked if checked[key].dtype.kind == "f"}
    found = _side(real["v_template"], real["J_regressor"])
    if found != side:
        raise ValueError(f"{path}: v_template: expected a {side} hand (fingers to {'+x' if side == 'left' else '-x'}), got a {found} one")
    tips = FINGERTIP_VERTICES[SIDES.index(side)].copy()
    axes = real.get("joint_axes")
    if axes is None:
        template = real["v_template"]
        axes = anatomical_frames(real["J_regressor"] @ template, template[tips], left=side == "left")
    return OneHand(
        v_template=real["v_template"],
        shapedirs=real["shapedirs"],
        posedirs=real["posedirs"],
        J_regressor=real["J_regressor"],
        weights=real["weights"] / real["weights"].sum(1, keepdims=True),
        hands_mean=real["hands_mean"],
        hands_components=real["hands_components"],
        faces=checked["f"].astype(np.int64),
        joint_axes=axes,
        tips=tips,
    )


def _side(template: NDArray[np.float64], regressor: NDArray[np.float64]) -> str:
    """Which hand a template is: MANO's right hand points to -x, its mirror image to +x."""
    wrist, middle = (regressor @ template)[[0, MANO_JOINT_NAMES.index("middle1")]]
    return "left" if middle[0] > wrist[0] else "right"
