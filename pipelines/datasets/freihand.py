"""FreiHAND v2 from the extracted folder or its owners' zips: splits train, val (held-out training frames) and eval.

All hands are right hands; joints are regressed from the posed vertices; the poses published are relative to the mean pose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.config import FreihandConfig
from pipelines.datasets.annotations import checked, load_annotations
from pipelines.datasets.sample import NUM_VERTICES, DataError, HandLabel, HandSample
from pipelines.datasets.source_files import SourceFiles

MARKERS = ("training_K.json", "evaluation_K.json")
IMAGE_PX = 224
NUM_BACKGROUNDS = 4  # every training frame with the green screen and with three kinds of other backgrounds
SHAPES = {"K": (3, 3), "xyz": (21, 3), "verts": (NUM_VERTICES, 3), "mano": (1, 61)}


class Freihand:
    """One split. Image i + frames * k of the training set shows frame i before background k, so the four share a split."""

    def __init__(self, config: FreihandConfig, split: str, cache: Path) -> None:
        """DataError if the data is missing or its files disagree in length. `cache`: folder for converted annotations."""
        if split not in ("train", "val", "eval"):
            raise ValueError(f"split: expected 'train', 'val' or 'eval', got {split!r}")
        self.files = SourceFiles(config.path, MARKERS)
        self.part = "evaluation" if split == "eval" else "training"
        kinds = [kind for kind in SHAPES if kind != "mano" or config.mano_model is not None]
        for kind in kinds:
            if not self.files.exists(self._json(kind)):
                hint = "; its owners publish it since 2022 in a separate zip" if split == "eval" else ""
                raise DataError(f"{config.path}: {self._json(kind)}: not found{hint}")
        self.annotations = {
            kind: load_annotations(self.files, self._json(kind), SHAPES[kind], cache, dtype=np.float64 if kind == "K" else np.float32)
            for kind in kinds
        }
        self.num_frames = len(self.annotations["K"])
        for kind, array in self.annotations.items():
            if len(array) != self.num_frames:
                raise DataError(
                    f"{self.files.where(self._json(kind))}: expected {self.num_frames} entries as {self._json('K')} has, got {len(array)}"
                )
        self.images = self._images(config, split)
        self.fit = None
        if config.mano_model is not None:
            from pipelines.datasets.mano_fit import ManoFit  # brings in torch

            self.fit = ManoFit(config.mano_model)

    def __len__(self) -> int:
        return len(self.images)

    def where(self, index: int) -> tuple[str, str]:
        """Key and image file of sample `index`."""
        number = int(self.images[index])
        return f"{number:08d}", f"{self.part}/rgb/{number:08d}.jpg"

    def sample(self, index: int) -> HandSample:
        """Sample `index`. DataError names file and field of whatever is missing, truncated or not a number."""
        number = int(self.images[index])
        frame = number % self.num_frames
        values = {kind: checked(array, frame, self.files.where(self._json(kind))) for kind, array in self.annotations.items()}
        image = self.files.read_image(f"{self.part}/rgb/{number:08d}.jpg", shape=(IMAGE_PX, IMAGE_PX))
        mask = None
        if self.part == "training":
            # saved as JPEG: values between 0 and 255 ring around the edges
            mask = (self.files.read_image(f"training/mask/{frame:08d}.jpg", color=False, shape=(IMAGE_PX, IMAGE_PX)) > 127).astype(np.uint8)
        K, points = values["K"], values["xyz"]
        if (points[:, 2] <= 0).any():
            raise DataError(f"{self.files.where(self._json('xyz'))}: entry {frame}: expected depths > 0 m, got {float(points[:, 2].min())}")
        projected = points.astype(np.float64) @ K.T
        keypoints = projected[:, :2] / projected[:, 2:]
        hand = HandLabel(
            side=1,
            keypoints_px=keypoints,
            visible=((keypoints >= 0) & (keypoints < IMAGE_PX)).all(1),
            box_px=hand_box(keypoints, mask),
            K=K,
            keypoints_m=points,
            vertices_m=values["verts"],
            mano=self.fit.from_mean_pose(values["mano"][0], values["verts"]) if self.fit else None,
            hand_model="mano",
            joint_convention="regressed",
            source_id=f"freihand/{self.part}/{frame:08d}",
        )
        return HandSample(key=f"{number:08d}", image=image, K=K, hands=(hand,), mask=mask)

    def _json(self, kind: str) -> str:
        return f"{self.part}_{kind}.json"

    def _images(self, config: FreihandConfig, split: str) -> NDArray[np.int64]:
        """Numbers of the split's images, ascending."""
        if split == "eval":
            return np.arange(self.num_frames)
        order = np.random.default_rng(config.seed).permutation(self.num_frames)
        num_val = round(config.val_fraction * self.num_frames)
        frames = np.sort(order[:num_val] if split == "val" else order[num_val:])
        return np.concatenate([frames + self.num_frames * k for k in range(NUM_BACKGROUNDS)])


def hand_box(keypoints_px: NDArray, mask: NDArray[np.uint8] | None) -> NDArray[np.float32]:
    """(4,) x0, y0, x1, y1 around the keypoints (21,2) and the mask's pixels."""
    low, high = keypoints_px.min(0), keypoints_px.max(0)
    if mask is not None and mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        low = np.minimum(low, (columns[0], rows[0]))
        high = np.maximum(high, (columns[-1] + 1, rows[-1] + 1))
    return np.concatenate([low, high]).astype(np.float32)
