"""TensorBoard, for whoever watches with it: HANDNET_TENSORBOARD=1 writes logs/STAGE/tensorboard beside dvclive's files.

A fact of the watching, not of the run: it comes from the environment, so that it is in no stage's hash and in no checkpoint's fingerprint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

VARIABLE, FOLDER = "HANDNET_TENSORBOARD", "tensorboard"
FLUSH_S = 10


class Board:
    """Curves and pictures as TensorBoard's event file; those of a former start of the run are removed, for it tells them again."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(f"{VARIABLE}: expected the package tensorboard beside it: pip install tensorboard") from None
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder), flush_secs=FLUSH_S)

    def write(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Rows of named numbers, each with its `step`."""
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(row["step"]))

    def picture(self, name: str, path: Path, step: int) -> None:
        """An image file; nothing if it is not there."""
        image = cv2.imread(str(path))
        if image is not None:
            self._writer.add_image(name, np.ascontiguousarray(image[..., ::-1]), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def open_board(folder: Path) -> Board | None:
    """The board of a stage's log folder if the environment asks for one. ValueError for a value that is neither 0 nor 1."""
    value = os.environ.get(VARIABLE) or "0"
    if value not in ("0", "1"):
        raise ValueError(f"{VARIABLE}: expected 0 or 1, got {value!r}")
    return Board(folder / FOLDER) if value == "1" else None
