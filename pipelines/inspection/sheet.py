"""A contact sheet: samples in a grid with their masks, keypoints and boxes drawn, and their keys below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.sample import HandSample
from pipelines.drawing import SIDE_COLORS, blend_mask, draw_boxes, draw_skeleton, draw_text, grid
from pipelines.shards.manifest import write_atomic
from pipelines.shards.schema import encode_jpeg

CELL_PX = 320  # longer side of a picture on the sheet
COLUMNS = 4
QUALITY = 88


@dataclass(frozen=True)
class Cell:
    """A sample and the text under it."""

    sample: HandSample
    text: str


def write_sheet(path: Path, cells: Sequence[Cell]) -> None:
    """Draw the cells to a JPEG file. ValueError if there are none."""
    image = grid([draw_cell(cell) for cell in cells], COLUMNS)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_jpeg(image, QUALITY))


def draw_cell(cell: Cell) -> NDArray[np.uint8]:
    """The sample at the sheet's scale with everything that is labelled in it."""
    sample = cell.sample
    scale = CELL_PX / max(sample.height_px, sample.width_px)
    size = (max(1, round(sample.width_px * scale)), max(1, round(sample.height_px * scale)))
    image = np.asarray(cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), np.uint8)
    if sample.mask is not None:
        image = blend_mask(image, np.asarray(cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST), np.uint8), 0.35)
    factor = np.array([size[0] / sample.width_px, size[1] / sample.height_px])
    for hand in sample.hands:
        image = draw_boxes(image, hand.box_px[None] * np.tile(factor, 2), [hand.side])
        if hand.visible.sum() > 1:
            image = draw_skeleton(image, hand.keypoints_px * factor, hand.visible, hand.side, thickness_px=1.5)
        else:  # a wrist or a mask alone: the other keypoints are not known
            for point in hand.keypoints_px[hand.visible] * factor:
                cv2.circle(image, (round(float(point[0])), round(float(point[1]))), 5, SIDE_COLORS[hand.side], 2, cv2.LINE_AA)
    return draw_text(image, cell.text, (3, size[1] - 4))
