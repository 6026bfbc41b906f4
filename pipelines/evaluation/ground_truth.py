"""Labels that a test set's owners publish apart from its images: HO3D's evaluation_xyz.json and evaluation_verts.json.

A hand is shown as a participant sees it, by its given box, and measured against the published truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.config import GroundTruthConfig
from pipelines.datasets.sample import NUM_KEYPOINTS, HandLabel, HandSample
from pipelines.submission.layouts import find_layout
from pipelines.submission.reading import read_truth


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """keypoints_m (N, 21, 3) std21 and vertices_m (N, 778, 3), OpenCV's camera frame, in the order of the samples."""

    folder: Path
    keypoints_m: NDArray[np.float32]
    vertices_m: NDArray[np.float32]

    @classmethod
    def load(cls, config: GroundTruthConfig, num_samples: int) -> GroundTruth:
        """ValueError names a file that is missing or damaged, or says how many samples were expected."""
        folder, layout = Path(config.folder), find_layout(config.layout)
        xyz, verts = read_truth(folder)
        if len(xyz) != num_samples:
            raise ValueError(f"{folder}: expected the truth of {num_samples} samples, as the shards hold, got {len(xyz)}")
        return cls(
            folder=folder, keypoints_m=layout.to_std21(xyz).astype(np.float32), vertices_m=layout.vertices(verts).astype(np.float32)
        )

    def label(self, sample: HandSample, number: int) -> HandLabel:
        """The only hand of sample `number` with the published truth, in 3D and projected. ValueError for another number of hands."""
        hand = _only_hand(sample, self.folder)
        points = self.keypoints_m[number].astype(np.float64) @ hand.K.T
        if (points[:, 2] <= 0).any():
            raise ValueError(f"{self.folder}: sample {number} ({sample.key}): expected points in front of the camera, got z <= 0")
        return replace(
            hand,
            keypoints_px=points[:, :2] / points[:, 2:],
            visible=np.ones(NUM_KEYPOINTS, bool),
            keypoints_m=self.keypoints_m[number],
            vertices_m=self.vertices_m[number],
        )

    def shown(self, sample: HandSample) -> HandLabel:
        """The hand as it is given: all that is known of its place is the box, whose middle is taken for the centre."""
        hand = _only_hand(sample, self.folder)
        center = (hand.box_px[:2] + hand.box_px[2:]) / 2
        return replace(hand, keypoints_px=np.tile(center, (NUM_KEYPOINTS, 1)), visible=np.ones(NUM_KEYPOINTS, bool))


def _only_hand(sample: HandSample, folder: Path) -> HandLabel:
    if len(sample.hands) != 1:
        raise ValueError(f"{folder}: expected samples of one hand, got {len(sample.hands)} in {sample.key}")
    return sample.hands[0]
