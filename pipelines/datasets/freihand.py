"""FreiHAND v2 as its owners publish it: splits train, val (held-out training frames) and eval.

All hands are right hands; joints are regressed from the posed vertices; the poses published are relative to the mean pose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import MIDDLE_FIRST_BONE
from pipelines.config_datasets import FreihandConfig
from pipelines.datasets.annotations import checked, load_annotations
from pipelines.datasets.masks import hand_box
from pipelines.datasets.sample import NUM_VERTICES, DataError, HandLabel, HandSample, SplitNotThereError, check_camera
from pipelines.datasets.source_files import SourceFiles
from pipelines.datasets.splits import held_out

MARKERS = ("training_K.json", "evaluation_K.json")
FOLDERS = ("training", "evaluation")
IMAGE_PX = 224
NUM_TRAINING, NUM_EVALUATION = 32_560, 3_960  # frames, as published
NUM_BACKGROUNDS = 4  # every training frame with the green screen and with three kinds of other backgrounds
SHAPES = {"K": (3, 3), "xyz": (21, 3), "verts": (NUM_VERTICES, 3), "mano": (1, 61)}


class Freihand:
    """One split. Image i + frames * k of the training set shows frame i before background k: the four share labels and split,
    and follow each other as samples "i-k".
    """

    def __init__(self, config: FreihandConfig, split: str, cache: Path) -> None:
        """DataError if its files are missing or disagree in length, SplitNotThereError if only the split's are missing.

        `cache`: folder for converted annotations.
        """
        if split not in ("train", "val", "eval"):
            raise ValueError(f"split: expected 'train', 'val' or 'eval', got {split!r}")
        self.files = SourceFiles(config.path, MARKERS, folders=FOLDERS, cache=cache)
        self.part = "evaluation" if split == "eval" else "training"
        kinds = [kind for kind in SHAPES if kind != "mano" or config.mano_model is not None]
        for kind in kinds:
            if not self.files.exists(self._json(kind)):
                hint = "; its owners publish it since 2022 in a separate zip" if split == "eval" and kind != "K" else ""
                not_there = SplitNotThereError if split == "eval" or kind == "K" else DataError
                raise not_there(f"{self.files.path}: {self._json(kind)}: not found{hint}")
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
        self.num_copies = 1 if split == "eval" else NUM_BACKGROUNDS
        every = np.arange(self.num_frames)
        self.frames = every if split == "eval" else held_out(self.num_frames, config.val_fraction, config.seed)[split == "val"]
        self._last: tuple[int, HandLabel, NDArray[np.uint8] | None] | None = None
        self.fit = None
        if config.mano_model is not None:
            from pipelines.datasets.mano_fit import ManoFit  # brings in torch

            self.fit = ManoFit(config.mano_model)

    def __len__(self) -> int:
        return len(self.frames) * self.num_copies

    def where(self, index: int) -> tuple[str, str]:
        """Key and image file of sample `index`."""
        frame, copy = self._place(index)
        key = f"{frame:08d}" if self.num_copies == 1 else f"{frame:08d}-{copy}"
        return key, f"{self.part}/rgb/{frame + self.num_frames * copy:08d}.jpg"

    def sample(self, index: int) -> HandSample:
        """Sample `index`. DataError names file and field of whatever is missing, truncated or not a number."""
        key, name = self.where(index)
        hand, mask = self._labels(self._place(index)[0])
        image, encoded = self.files.read_published(name, shape=(IMAGE_PX, IMAGE_PX))
        source = None if mask is None else "published"
        return HandSample(key=key, image=image, K=hand.K, hands=(hand,), mask=mask, mask_source=source, encoded=encoded)

    def _labels(self, frame: int) -> tuple[HandLabel, NDArray[np.uint8] | None]:
        """Label and mask of a frame, kept for its next image."""
        if self._last is not None and self._last[0] == frame:
            return self._last[1:]
        values = {kind: checked(array, frame, self.files.where(self._json(kind))) for kind, array in self.annotations.items()}
        mask = None
        if self.part == "training":
            # saved as JPEG: values between 0 and 255 ring around the edges
            mask = (self.files.read_image(f"training/mask/{frame:08d}.jpg", color=False, shape=(IMAGE_PX, IMAGE_PX)) > 127).astype(np.uint8)
            mask.flags.writeable = False  # the frame's four samples share it
        K, points = values["K"], values["xyz"]
        check_camera(K, f"{self.files.where(self._json('K'))}: entry {frame}")
        if (points[:, 2] <= 0).any():
            raise DataError(f"{self.files.where(self._json('xyz'))}: entry {frame}: expected depths > 0 m, got {float(points[:, 2].min())}")
        projected = points.astype(np.float64) @ K.T
        keypoints = projected[:, :2] / projected[:, 2:]
        bone_start, bone_end = MIDDLE_FIRST_BONE
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
            # evaluation_scale.json, which everyone gets, holds the same length
            given_scale_m=float(np.linalg.norm(points[bone_end] - points[bone_start])) if self.part == "evaluation" else None,
        )
        self._last = (frame, hand, mask)
        return hand, mask

    def _place(self, index: int) -> tuple[int, int]:
        """Frame of sample `index`, and before which of its backgrounds."""
        return int(self.frames[index // self.num_copies]), index % self.num_copies

    def _json(self, kind: str) -> str:
        return f"{self.part}_{kind}.json"
