"""What the rendering functions ask of their arguments; errors say what was expected and what came.

Values are looked at on the CPU only: on another device that would stall it at every call.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_float(where: str, name: str, value: Tensor, *shape: int | str) -> None:
    """`value` must be float32 or float64 of `shape`, in which a letter stands for any length, and finite."""
    right = value.ndim == len(shape) and all(isinstance(want, str) or got == want for got, want in zip(value.shape, shape, strict=True))
    if not right or value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{where}: expected {name} {_written(shape)} float, got {tuple(value.shape)} {value.dtype}")
    if not value.is_cuda and not bool(torch.isfinite(value).all()):
        bad = (~torch.isfinite(value)).flatten(1).any(1).nonzero()[:, 0].tolist()
        raise ValueError(f"{where}: expected finite {name}, got NaN or infinity in meshes {bad[:8]}")


def drawable(*values: Tensor) -> bool:
    """Whether `check_float` takes the values as finite; False lets a caller answer NaN with NaN."""
    return all(value.is_cuda or bool(torch.isfinite(value).all()) for value in values)


def check_index(where: str, name: str, value: Tensor, limit: int, *shape: int | str) -> None:
    """`value` must be int64 of `shape` with entries in [0, limit)."""
    right = value.ndim == len(shape) and all(isinstance(want, str) or got == want for got, want in zip(value.shape, shape, strict=True))
    if not right or value.dtype != torch.int64:
        raise ValueError(f"{where}: expected {name} {_written(shape)} int64, got {tuple(value.shape)} {value.dtype}")
    if value.is_cuda or value.numel() == 0:
        return
    low, high = value.aminmax()
    if low < 0 or high >= limit:
        raise ValueError(f"{where}: expected {name} in [0, {limit}), got {int(low)}..{int(high)}")


def check_meshes(
    where: str, vertices_px: Tensor, faces: Tensor, image_index: Tensor, num_images: int, height: int, width: int, blur_px: float
) -> None:
    """The arguments that `rasterize` and the soft silhouette share."""
    if num_images < 0 or height < 1 or width < 1 or not 0 <= blur_px < float("inf"):
        raise ValueError(
            f"{where}: expected num_images >= 0, height and width >= 1 and blur_px >= 0, got {num_images}, {height}, {width}, {blur_px}"
        )
    check_float(where, "vertices_px", vertices_px, "M", "V", 3)
    num_meshes, num_vertices, _ = vertices_px.shape
    check_index(where, "faces", faces, num_vertices, num_meshes, "F", 3)
    check_index(where, "image_index", image_index, num_images, num_meshes)


def _written(shape: tuple[int | str, ...]) -> str:
    return "(" + ",".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
