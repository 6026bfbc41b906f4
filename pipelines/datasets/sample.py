"""HandSample: the one record every dataset adapter yields and everything after ingest knows.

Pixels are continuous image coordinates (the centre of pixel (row i, col j) is (j + 0.5, i + 0.5)); the camera frame
is OpenCV's (x right, y down, z forward) in metres; keypoints are in `std21` order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS, SIDES

__all__ = [
    "JOINT_CONVENTIONS",
    "MASK_IGNORE",
    "MASK_SOURCES",
    "MAX_HANDS",
    "NUM_KEYPOINTS",
    "NUM_MANO",
    "NUM_VERTICES",
    "SIDES",
    "DataError",
    "HandLabel",
    "HandSample",
    "SplitNotThereError",
    "affine_matrix",
    "as_affine",
    "check_camera",
    "mirror_affine",
    "transform_box",
    "transform_points",
]

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

NUM_VERTICES = 778
NUM_MANO = 61  # root rotation 3, pose 45, betas 10, translation 3
JOINT_CONVENTIONS = ("lbs", "regressed")
MASK_SOURCES = ("published", "mano", "skeleton")  # as the owners have it, or filled in from the MANO fit or around the bones
MASK_IGNORE = 255  # mask value of pixels that belong to a hand without a label: neither background nor hand
MAX_HANDS = MASK_IGNORE - 1

_MIRROR_ROTATION = np.array([1.0, -1.0, -1.0], np.float32)
_MIRROR_POINT = np.array([-1.0, 1.0, 1.0], np.float32)
_MIRROR_MANO = np.concatenate([np.tile(_MIRROR_ROTATION, 16), np.ones(10, np.float32), _MIRROR_POINT])
_MIRROR_CAMERA = np.diag([-1.0, 1.0, 1.0])
_IDENTITY = np.eye(3)


class DataError(ValueError):
    """Data that cannot be used: the message names the file (and the field or member), what was expected and what came."""


class SplitNotThereError(DataError):
    """A split of which this copy has nothing; the others can be used without it."""


def _array(name: str, value: object, shape: tuple[int, ...], dtype: type) -> NDArray:
    """`value` as a finite array of `shape`. ValueError names the field, what was expected and what came."""
    array = np.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected numbers, got dtype {array.dtype}")
    # the product is finite where all numbers are, unless they are huge, and takes a third of the time
    if array.dtype.kind == "f" and not math.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {int((~np.isfinite(array)).sum())} NaN or infinite")
    return np.asarray(array, dtype)


def check_camera(K: DoubleArray, where: str) -> None:
    """DataError, naming `where`, for a finite (3,3) matrix that is no camera: focal lengths > 0 px, last row 0, 0, 1."""
    if min(K[0, 0], K[1, 1]) <= 0 or not np.allclose(K[2], (0, 0, 1)):
        raise DataError(f"{where}: expected a camera matrix with focal lengths > 0 and last row 0, 0, 1, got {K.tolist()}")


def as_affine(matrix: object) -> DoubleArray:
    """(2,3) float64 affine in continuous image coordinates, dst = A @ [x, y, 1]; ValueError if it is not one."""
    affine: DoubleArray = _array("affine", matrix, (2, 3), np.float64)
    return affine


def affine_matrix(affine: DoubleArray) -> DoubleArray:
    """(2,3) affine -> (3,3) homogeneous matrix."""
    matrix = _IDENTITY.copy()
    matrix[:2] = affine
    return matrix


def mirror_affine(width_px: float) -> DoubleArray:
    """(2,3) affine of the horizontal flip of an image `width_px` wide: x -> width_px - x."""
    return np.array([[-1.0, 0.0, float(width_px)], [0.0, 1.0, 0.0]])


def transform_points(affine: DoubleArray, points_px: NDArray) -> FloatArray:
    """(...,2) pixels under a (2,3) affine -> (...,2) float32, computed in float64."""
    moved: FloatArray = (np.asarray(points_px, np.float64) @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
    return moved


def _mirror_points(points_m: FloatArray) -> FloatArray:
    """(...,3) metres x -> -x; a product with (-1, 1, 1) takes several times as long."""
    mirrored = points_m.copy()
    np.negative(mirrored[..., 0], out=mirrored[..., 0])
    return mirrored


def transform_box(affine: DoubleArray, box_px: NDArray) -> FloatArray:
    """(4,) box x0, y0, x1, y1 under a (2,3) affine -> (4,) upright box around the moved corners."""
    x0, y0, x1, y1 = box_px.tolist()
    (a, b, c), (d, e, f) = affine.tolist()
    x = [a * u + b * v + c for u in (x0, x1) for v in (y0, y1)]
    y = [d * u + e * v + f for u in (x0, x1) for v in (y0, y1)]
    return np.array([min(x), min(y), max(x), max(y)], np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class HandLabel:
    """One hand in one image. Arrays are converted to the dtypes below; a wrong shape or NaN is a ValueError.

    side: 0 left, 1 right. keypoints_px (21,2) float32, std21. visible (21,) bool: labelled and not occluded.
    box_px (4,) float32 x0, y0, x1, y1 around the keypoints and the mask. K (3,3) float64: the camera under which
    keypoints_m projects to keypoints_px. keypoints_m (21,3), vertices_m (778,3) float32, camera frame, or None.
    mano (61,) float32 or None: root rotation 3, pose 45 (axis-angle, relative to the flat hand), betas 10,
    translation 3 of the wrist-origin model in the camera frame. hand_model: the model mano and vertices belong to.
    joint_convention: "lbs" (kinematic joints) or "regressed" (regressor on posed vertices). source_id: identity of the
    source frame, for leak checks. affine (2,3) float64 or None: source image px -> this image px (None: identity).
    given_wrist_m (3,), given_scale_m: what an evaluation split's owners give to everyone, or None: the wrist in the camera
    frame (HO3D), the length of the middle finger's first bone (FreiHAND). They are no labels, and stay where labels are left out.
    """

    side: int
    keypoints_px: FloatArray
    visible: NDArray[np.bool_]
    box_px: FloatArray
    K: DoubleArray
    keypoints_m: FloatArray | None = None
    vertices_m: FloatArray | None = None
    mano: FloatArray | None = None
    hand_model: str | None = None
    joint_convention: str = "lbs"
    source_id: str
    identity: str | None = None
    affine: DoubleArray | None = None
    given_wrist_m: FloatArray | None = None
    given_scale_m: float | None = None

    def __post_init__(self) -> None:
        if self.side not in (0, 1):
            raise ValueError(f"side: expected 0 (left) or 1 (right), got {self.side!r}")
        if self.joint_convention not in JOINT_CONVENTIONS:
            raise ValueError(f"joint_convention: expected one of {list(JOINT_CONVENTIONS)}, got {self.joint_convention!r}")
        if not isinstance(self.source_id, str) or not self.source_id or not self.source_id.isprintable():
            raise ValueError(f"source_id: expected a line of text, got {self.source_id!r}")
        for name, value in (("hand_model", self.hand_model), ("identity", self.identity)):
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name}: expected a string or None, got {type(value).__name__}")
        store = object.__setattr__
        store(self, "side", int(self.side))
        store(self, "keypoints_px", _array("keypoints_px", self.keypoints_px, (NUM_KEYPOINTS, 2), np.float32))
        store(self, "visible", _array("visible", self.visible, (NUM_KEYPOINTS,), np.bool_))
        store(self, "box_px", _array("box_px", self.box_px, (4,), np.float32))
        store(self, "K", _array("K", self.K, (3, 3), np.float64))
        x0, y0, x1, y1 = self.box_px.tolist()
        if x0 > x1 or y0 > y1:
            raise ValueError(f"box_px: expected x0 <= x1 and y0 <= y1, got {self.box_px.tolist()}")
        if self.keypoints_m is not None:
            store(self, "keypoints_m", _array("keypoints_m", self.keypoints_m, (NUM_KEYPOINTS, 3), np.float32))
        if self.vertices_m is not None:
            store(self, "vertices_m", _array("vertices_m", self.vertices_m, (NUM_VERTICES, 3), np.float32))
        if self.mano is not None:
            store(self, "mano", _array("mano", self.mano, (NUM_MANO,), np.float32))
        if self.affine is not None:
            store(self, "affine", as_affine(self.affine))
        if self.given_wrist_m is not None:
            store(self, "given_wrist_m", _array("given_wrist_m", self.given_wrist_m, (3,), np.float32))
        if self.given_scale_m is not None:
            if not 0 < self.given_scale_m < math.inf:
                raise ValueError(f"given_scale_m: expected a length > 0 m, got {self.given_scale_m}")
            store(self, "given_scale_m", float(self.given_scale_m))

    def moved(self, affine: object, *, flip_width_px: float | None = None) -> HandLabel:
        """The same hand after its image was flipped, if its width is given, and then moved by `affine` (2,3), px -> px.

        A move changes the pixels and the camera only (K = A3x3 @ K); everything in metres stays in the same camera frame.
        A horizontal flip makes a left hand of a right one: keypoints x -> W - x; points in metres x -> -x with cx -> W - cx;
        axis-angles x (1, -1, -1).
        """
        move = affine_matrix(as_affine(affine))
        if flip_width_px is not None:
            move = move @ affine_matrix(mirror_affine(flip_width_px))
        changes: dict[str, Any] = {
            "keypoints_px": transform_points(move[:2], self.keypoints_px),
            "box_px": transform_box(move[:2], self.box_px),
            "K": move @ self.K,
            "affine": move[:2] if self.affine is None else move[:2] @ affine_matrix(self.affine),
        }
        if flip_width_px is not None:
            changes |= {"side": 1 - self.side, "K": changes["K"] @ _MIRROR_CAMERA}
            if self.keypoints_m is not None:
                changes["keypoints_m"] = _mirror_points(self.keypoints_m)
            if self.vertices_m is not None:
                changes["vertices_m"] = _mirror_points(self.vertices_m)
            if self.mano is not None:
                changes["mano"] = self.mano * _MIRROR_MANO
            if self.given_wrist_m is not None:
                changes["given_wrist_m"] = _mirror_points(self.given_wrist_m)
        return self._changed(changes)

    def _changed(self, changes: dict[str, Any]) -> HandLabel:
        """`replace` without checking anew: for changes that keep shapes, dtypes and finite numbers as they are."""
        other = object.__new__(HandLabel)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def seen(self, visible: NDArray[np.bool_]) -> HandLabel:
        """The same hand with other keypoints visible: (21,) bool."""
        return self._changed({"visible": _array("visible", visible, (NUM_KEYPOINTS,), np.bool_)})

    def without_3d(self) -> HandLabel:
        """The same hand as a weakly supervised reader sees it: no keypoints_m, vertices_m or mano."""
        return self._changed({"keypoints_m": None, "vertices_m": None, "mano": None})


@dataclass(frozen=True, kw_only=True, eq=False)
class HandSample:
    """One image with all its labelled hands.

    image (H,W,3) uint8 RGB. K (3,3) float64: the camera of the image as a whole; K_known is False where it is an assumed
    one. mask (H,W) uint8 or None: 0 background, i + 1 = hands[i], 255 (MASK_IGNORE) = a hand that carries no label;
    mask_source, one of MASK_SOURCES or None, says where it comes from. encoded: the JPEG that `image` was decoded from,
    byte for byte, where nothing has changed its pixels since; shards then store it as it is.
    """

    key: str
    image: NDArray[np.uint8]
    K: DoubleArray
    hands: tuple[HandLabel, ...]
    mask: NDArray[np.uint8] | None = None
    K_known: bool = True
    mask_source: str | None = None
    encoded: bytes | None = None

    def __post_init__(self) -> None:
        if not self.key or any(c in self.key for c in "./\\") or not self.key.isprintable():
            # webdataset splits member names at the first dot, and a key must not reach out of its folder
            raise ValueError(f"key: expected a non-empty name without '.', '/' or '\\', got {self.key!r}")
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"image: expected (H, W, 3) uint8, got {self.image.shape} {self.image.dtype}")
        object.__setattr__(self, "K", _array("K", self.K, (3, 3), np.float64))
        object.__setattr__(self, "hands", tuple(self.hands))
        if len(self.hands) > MAX_HANDS:
            raise ValueError(f"hands: expected at most {MAX_HANDS}, got {len(self.hands)}")
        if self.mask is not None:
            _check_mask(self.mask, self.image.shape[:2], self.hands)
        if self.mask_source is not None and (self.mask is None or self.mask_source not in MASK_SOURCES):
            raise ValueError(f"mask_source: expected one of {list(MASK_SOURCES)} beside a mask, got {self.mask_source!r}")

    @property
    def height_px(self) -> int:
        return int(self.image.shape[0])

    @property
    def width_px(self) -> int:
        return int(self.image.shape[1])


def _check_mask(mask: NDArray, shape: tuple[int, ...], hands: Sequence[HandLabel]) -> None:
    if mask.shape != tuple(shape) or mask.dtype != np.uint8:
        raise ValueError(f"mask: expected {tuple(shape)} uint8, got {mask.shape} {mask.dtype}")
    if mask.max(initial=0) <= len(hands):
        return
    value = int(np.where(mask == MASK_IGNORE, 0, mask).max())
    if value > len(hands):
        raise ValueError(f"mask: expected values 0..{len(hands)} or {MASK_IGNORE}, got {value}")
