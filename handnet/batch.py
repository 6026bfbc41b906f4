"""One batch of images with all their hands in flat lists: hand m lies in image `image_index[m]`. No padding, any number of hands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HandBatch:
    """Images, cameras and labels in input pixels; B images, M hands in all.

    The 3D labels are None unless full supervision asked for them: weak supervision never even loads them.
    """

    image: Float[Tensor, "B 3 H W"]  # RGB in [0, 1]
    K: Float[Tensor, "B 3 3"]
    mask: UInt8[Tensor, "B H W"] | None  # 0 background, i + 1 = i-th hand of the image, 255 = unlabelled hand
    image_index: Int[Tensor, " M"]
    side: Int[Tensor, " M"]  # 0 left, 1 right
    keypoints_px: Float[Tensor, "M 21 2"]
    visible: Float[Tensor, "M 21"]
    window_jitter: Float[Tensor, " M"]  # factor on the true window, so that the heads meet imperfect ones
    keypoints_m: Float[Tensor, "M 21 3"] | None = None
    vertices_m: Float[Tensor, "M 778 3"] | None = None
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        m = self.image_index.shape[0]
        for name, shape in (("side", (m,)), ("keypoints_px", (m, 21, 2)), ("visible", (m, 21)), ("window_jitter", (m,))):
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(f"HandBatch.{name}: expected shape {shape}, got {got}")

    def to(self, device: torch.device | str) -> HandBatch:
        """The same batch on another device."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> HandBatch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return self._each(lambda value: value.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> HandBatch:
        moved: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in moved.items():
            if isinstance(value, Tensor):
                moved[name] = move(value)
        return HandBatch(**moved)
