"""One batch of images with all their hands in flat lists: hand m lies in image `image_index[m]`. No padding, any number of hands."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

MASK_IGNORE: Final = 255  # mask value of pixels that belong to a hand without a label: neither background nor hand

# Shape of every tensor; B images of H x W, M hands.
_SHAPES: Final[dict[str, tuple[str | int, ...]]] = {
    "image": ("B", 3, "H", "W"),
    "K": ("B", 3, 3),
    "mask": ("B", "H", "W"),
    "has_mask": ("B",),
    "image_index": ("M",),
    "side": ("M",),
    "keypoints_px": ("M", 21, 2),
    "visible": ("M", 21),
    "box_px": ("M", 4),
    "window_jitter": ("M",),
    "keypoints_m": ("M", 21, 3),
    "has_keypoints_m": ("M",),
    "vertices_m": ("M", 778, 3),
    "has_vertices_m": ("M",),
}
_DTYPES: Final = {
    "mask": torch.uint8,
    "image_index": torch.int64,
    "side": torch.int64,
    **dict.fromkeys(("has_mask", "has_keypoints_m", "has_vertices_m"), torch.bool),
}

_SMALL_BYTES: Final = 1 << 17


@dataclass(frozen=True, kw_only=True)
class HandBatch:
    """Images, cameras and labels in input pixels; B images, M hands in all, those of an image side by side.

    What an image or hand has no label of is said by visible, has_mask, has_keypoints_m and has_vertices_m; its rows hold finite
    numbers that no loss reads. mask and the 3D labels are None where nothing in the batch has them: weak supervision never even
    loads 3D ones. A loader's images are 8-bit; `to` makes them the floats that network and losses read, where it puts them.
    Raises ValueError with field, expected and got for wrong shapes and dtypes and, on the CPU, for wrong values.
    """

    image: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B 3 H W"]  # RGB in [0, 1], or in 0..255 as loaded
    K: Float[Tensor, "B 3 3"]
    mask: UInt8[Tensor, "B H W"] | None  # 0 background, i + 1 = i-th hand of the image, 255 = unlabelled hand
    has_mask: Bool[Tensor, " B"]
    counts: tuple[int, ...]  # hands of each image, known without asking the device
    image_index: Int[Tensor, " M"]
    side: Int[Tensor, " M"]  # 0 left, 1 right
    keypoints_px: Float[Tensor, "M 21 2"]
    visible: Float[Tensor, "M 21"]  # 1 where the keypoint is labelled and seen
    box_px: Float[Tensor, "M 4"]  # x0, y0, x1, y1; read where no keypoint is visible
    window_jitter: Float[Tensor, " M"]  # factor on the true window, so that the heads meet imperfect ones
    keypoints_m: Float[Tensor, "M 21 3"] | None
    has_keypoints_m: Bool[Tensor, " M"]
    vertices_m: Float[Tensor, "M 778 3"] | None
    has_vertices_m: Bool[Tensor, " M"]
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {"B": len(self.counts), "M": sum(self.counts)}
        for name, shape in _SHAPES.items():
            value = getattr(self, name)
            if value is None and name in ("mask", "keypoints_m", "vertices_m"):
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"HandBatch.{name}: expected a tensor, got {type(value).__name__}")
            _check_shape(name, value, shape, sizes)
            _check_dtype(name, value)
            if value.device.type == "cpu":
                _check_values(name, value)
        if self.image_index.device.type == "cpu":
            self._check_order()

    def _check_order(self) -> None:
        expected = np.repeat(np.arange(len(self.counts)), self.counts)
        if not np.array_equal(self.image_index.numpy(), expected):
            raise ValueError(
                f"HandBatch.image_index: expected the hands image by image, {list(self.counts)} of them, got {self.image_index.tolist()}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For another process: small tensors by value, since each one in shared memory takes a file descriptor and its hand-over."""
        return {name: value.numpy() if _travels_by_value(value) else value for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in state.items()})

    def to(self, device: torch.device | str) -> HandBatch:
        """The same batch on a device, ready for the network: 8-bit images become floats in [0, 1] there, not before."""
        moved = self._each(lambda value: value.to(device, non_blocking=True))
        if moved.image.dtype == torch.uint8:
            object.__setattr__(moved, "image", moved.image.float().div_(255))
        return moved

    def pin_memory(self) -> HandBatch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return self._each(lambda value: value.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> HandBatch:
        moved = copy.copy(self)  # what was checked once is not checked again
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                object.__setattr__(moved, field.name, move(value))
        return moved


def _travels_by_value(value: object) -> bool:
    if not isinstance(value, Tensor) or value.device.type != "cpu" or value.nbytes > _SMALL_BYTES:
        return False
    return value.is_contiguous() and value.dtype in (torch.float32, torch.int64, torch.bool, torch.uint8)


def _check_shape(name: str, value: Tensor, shape: tuple[str | int, ...], sizes: dict[str, int]) -> None:
    """`sizes` holds what the named dimensions are, and learns those it does not know yet."""
    got = tuple(value.shape)
    if len(got) == len(shape):
        for dimension, size in zip(shape, got, strict=True):
            if isinstance(dimension, str):
                sizes.setdefault(dimension, size)
    expected = tuple(sizes.get(dimension, dimension) if isinstance(dimension, str) else dimension for dimension in shape)
    if got != expected:
        raise ValueError(f"HandBatch.{name}: expected shape ({', '.join(map(str, expected))}{',' * (len(expected) == 1)}), got {got}")


def _check_dtype(name: str, value: Tensor) -> None:
    if name in _DTYPES:
        if value.dtype != _DTYPES[name]:
            raise ValueError(f"HandBatch.{name}: expected {_DTYPES[name]}, got {value.dtype}")
    elif not value.is_floating_point() and not (name == "image" and value.dtype == torch.uint8):
        raise ValueError(f"HandBatch.{name}: expected floating point numbers, got {value.dtype}")


def _check_values(name: str, value: Tensor) -> None:
    # one pass over the numbers, with nothing stored, tells whether there may be anything to count
    if value.is_floating_point() and not math.isfinite(value.sum(dtype=torch.promote_types(value.dtype, torch.float32)).item()):
        bad = int((~value.isfinite()).sum())
        if bad:
            raise ValueError(f"HandBatch.{name}: expected finite numbers, got {bad} NaN or infinite")
    if name in ("side", "visible") and value.numel():
        low, high = (bound.item() for bound in value.aminmax())
        if not 0 <= low <= high <= 1:
            if name == "side":
                raise ValueError(f"HandBatch.side: expected 0 (left) or 1 (right), got {sorted(set(value.tolist()))}")
            raise ValueError(f"HandBatch.visible: expected values in [0, 1], got {low} to {high}")
