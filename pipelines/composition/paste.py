"""Patches onto a canvas: pixels, who owns each of them, and labels that tell what can still be seen.

Later patches lie over earlier ones. A keypoint is visible if its source says so, it lies on the canvas, and the topmost
hand at its pixel is its own or none.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.composition.kernels import lay_over, look_up
from pipelines.composition.patch import Patch, WholeImage
from pipelines.datasets.sample import MASK_IGNORE, MAX_HANDS, HandLabel


@dataclass(frozen=True)
class PastedHand:
    """A hand on the canvas: its owner number there, its label before occlusion, and the pixels it covered when pasted."""

    number: int
    label: HandLabel
    num_pixels: int


class Canvas:
    """A scene in the making: `image` (H,W,3) uint8 RGB and `owner` (H,W) uint8, numbers of its `hands` from 1 on, bottom to top."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        """Begin with a background, which the canvas takes over and changes."""
        self.image = np.ascontiguousarray(image)
        self.owner: NDArray[np.uint8] = np.zeros(image.shape[:2], np.uint8)
        self.hands: list[PastedHand] = []
        self.shown = np.zeros(256, np.int64)  # pixels of each owner that nothing lies over

    @classmethod
    def of_image(cls, layer: WholeImage) -> Canvas:
        """Begin with a whole source image and the hands in it."""
        canvas = cls(layer.image)
        canvas.owner = np.ascontiguousarray(layer.owner)
        for number, label in enumerate(layer.labels, 1):
            num_pixels = int(np.count_nonzero(canvas.owner == number))
            canvas.shown[number] = num_pixels
            canvas.hands.append(PastedHand(number, label, num_pixels))
        return canvas

    def paste(self, patch: Patch) -> None:
        """Lay a patch over what is there. ValueError if it does not lie within the canvas."""
        height, width = patch.pixels.shape[:2]
        if patch.x < 0 or patch.y < 0 or patch.x + width > self.owner.shape[1] or patch.y + height > self.owner.shape[0]:
            raise ValueError(f"patch at ({patch.x}, {patch.y}) of {width} x {height}: not within the canvas {self.owner.shape[::-1]}")
        number = len(self.hands) + 1
        if number > MAX_HANDS:
            raise ValueError(f"expected at most {MAX_HANDS} hands on a canvas")
        lay_over(self.image, self.owner, patch.pixels, patch.x, patch.y, patch.part, patch.gain, number, self.shown)
        self.hands.append(PastedHand(number, patch.label, int(self.shown[number])))

    def visible_shares(self) -> list[float]:
        """Of each pasted hand: the share of its pixels that nothing was pasted over."""
        return [float(self.shown[hand.number]) / hand.num_pixels if hand.num_pixels else 0.0 for hand in self.hands]

    def finish(self, min_visible: float) -> tuple[tuple[HandLabel, ...], NDArray[np.uint8]]:
        """Labels after occlusion, bottom to top, and the mask (H,W): 0 background, i + 1 = labels[i], 255 = a hand without a label.

        Hands of which less than `min_visible` (or no keypoint at all) can be seen get no label. Their pixels stay in the
        image, and the mask holds 255 there, so that nobody trains on them as background.
        """
        labels: list[HandLabel] = []
        renumber = np.full(256, MASK_IGNORE, np.uint8)
        renumber[0] = 0
        for hand, share in zip(self.hands, self.visible_shares(), strict=True):
            inside, owner = look_up(self.owner, hand.label.keypoints_px)
            visible = hand.label.visible & inside & ((owner == hand.number) | (owner == 0))
            if share < min_visible or not visible.any() or hand.num_pixels == 0:
                continue
            labels.append(hand.label if np.array_equal(visible, hand.label.visible) else hand.label.seen(visible))
            renumber[hand.number] = len(labels)
        if len(labels) == len(self.hands):
            return tuple(labels), self.owner
        return tuple(labels), np.asarray(cv2.LUT(self.owner, renumber), np.uint8)
