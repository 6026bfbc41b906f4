"""Layers onto a canvas: pixels, who owns each of them, and labels that tell what can still be seen.

Later layers lie over earlier ones. A keypoint is visible if its source says so, it lies on the canvas, and the topmost
hand at its pixel is its own or none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.composition.patch import Layer, keypoint_owner
from pipelines.datasets.sample import MASK_IGNORE, MAX_HANDS, HandLabel


@dataclass(frozen=True)
class PastedHand:
    """A hand on the canvas: its owner number there, its label before occlusion, and the pixels it covered when pasted."""

    number: int
    label: HandLabel
    num_pixels: int


class Canvas:
    """A scene in the making: `image` (H,W,3) uint8 RGB and `owner` (H,W) uint8, numbers of pasted hands from 1 on."""

    def __init__(self, background: NDArray[np.uint8]) -> None:
        self.image = background.copy()
        self.owner = np.zeros(background.shape[:2], np.uint8)
        self.hands: list[PastedHand] = []

    def paste(self, layer: Layer) -> None:
        """Lay a layer over what is there. ValueError if it does not lie within the canvas."""
        height, width = layer.owner.shape
        region = (slice(layer.y, layer.y + height), slice(layer.x, layer.x + width))
        if layer.x < 0 or layer.y < 0 or self.owner[region].shape != (height, width):
            raise ValueError(f"layer at ({layer.x}, {layer.y}) of {width} x {height}: not within the canvas {self.owner.shape[::-1]}")
        if len(self.hands) + len(layer.labels) > MAX_HANDS:
            raise ValueError(f"expected at most {MAX_HANDS} hands on a canvas")
        if layer.alpha is None:
            self.image[region] = layer.color
        else:
            mixed = self.image[region].astype(np.float32)
            mixed += layer.alpha[..., None] * (layer.color - mixed)
            mixed += np.float32(0.5)
            self.image[region] = mixed.astype(np.uint8)
        first = len(self.hands) + 1
        numbers = np.zeros(256, np.uint8)
        numbers[1 : len(layer.labels) + 1] = np.arange(first, first + len(layer.labels))
        numbers[MASK_IGNORE] = MASK_IGNORE
        drawn = layer.owner != 0
        self.owner[region][drawn] = numbers[layer.owner[drawn]]
        areas = _count_values(layer.owner)
        self.hands += [PastedHand(first + i, label, int(areas[i + 1])) for i, label in enumerate(layer.labels)]

    def visible_shares(self) -> list[float]:
        """Of each pasted hand: the share of its pixels that nothing was pasted over."""
        left = _count_values(self.owner)
        return [float(left[hand.number]) / hand.num_pixels if hand.num_pixels else 0.0 for hand in self.hands]

    def finish(self, min_visible: float) -> tuple[tuple[HandLabel, ...], NDArray[np.uint8]]:
        """Labels after occlusion, and the mask (H,W): 0 background, i + 1 = labels[i], 255 = a hand without a label.

        Hands of which less than `min_visible` (or no keypoint at all) can be seen get no label. Their pixels stay in the
        image, and the mask holds 255 there, so that nobody trains on them as background.
        """
        labels: list[HandLabel] = []
        renumber = np.full(256, MASK_IGNORE, np.uint8)
        renumber[0] = 0
        for hand, share in zip(self.hands, self.visible_shares(), strict=True):
            inside, owner = keypoint_owner(self.owner, hand.label)
            visible = hand.label.visible & inside & ((owner == hand.number) | (owner == 0))
            if share < min_visible or not visible.any() or hand.num_pixels == 0:
                continue
            labels.append(replace(hand.label, visible=visible))
            renumber[hand.number] = len(labels)
        return tuple(labels), renumber[self.owner]


def _count_values(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256,) how often each value occurs."""
    return np.asarray(cv2.calcHist([image], [0], None, [256], [0, 256]), np.int64).reshape(-1)
