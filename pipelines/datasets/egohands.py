"""EgoHands from the extracted folder or its archive: split eval. Outlines of up to four hands an image, and no keypoints.

The four are the viewer's hands and the partner's. Where they overlap the viewer's are in front, being nearer to the camera.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS
from pipelines.config_datasets import EgohandsConfig
from pipelines.datasets.masks import hand_box
from pipelines.datasets.matlab import read_mat
from pipelines.datasets.outlines import polygon_mask
from pipelines.datasets.sample import DataError, HandLabel, HandSample
from pipelines.datasets.source_files import SourceFiles
from pipelines.datasets.unknown_camera import assumed_camera

METADATA = "metadata.mat"
FRAMES = "_LABELLED_SAMPLES"
HANDS = {"myleft": (0, "ego_viewer_id"), "myright": (1, "ego_viewer_id"), "yourleft": (0, "partner_id"), "yourright": (1, "partner_id")}
BACK_TO_FRONT = ("yourleft", "yourright", "myleft", "myright")
HEIGHT_PX, WIDTH_PX = 720, 1280
FIRST_CENTER = 0.5 - 1.0  # MATLAB's first pixel has its centre at 1, ours at 0.5


class Egohands:
    """All labelled frames, video by video. Hands have sides, masks and boxes; keypoints are not known and lie at the mask's centroid."""

    def __init__(self, config: EgohandsConfig, split: str, cache: Path) -> None:
        """DataError if the data is missing or its metadata cannot be read. `cache`: folder for the archive's index."""
        if split != "eval":
            raise ValueError(f"split: expected 'eval', got {split!r}")
        self.files = SourceFiles(config.path, (METADATA,), folders=(FRAMES,), cache=cache)
        self.where_metadata = self.files.where(METADATA)
        videos = _structs(read_mat(self.files.read(METADATA), self.where_metadata).get("video"))
        self.frames = [(video, frame) for video in videos for frame in _structs(video.get("labelled_frames"))]
        if not self.frames or not all(isinstance(video.get("video_id"), str) for video in videos):
            raise DataError(f"{self.where_metadata}: video: expected structs with video_id and labelled_frames")

    def __len__(self) -> int:
        return len(self.frames)

    def where(self, index: int) -> tuple[str, str]:
        """Key and image file of sample `index`."""
        video, frame = self.frames[index]
        value = frame.get("frame_num")
        number = int(value.item()) if isinstance(value, np.ndarray) and value.size == 1 and np.isfinite(value).all() else -1
        return f"{index:08d}", f"{FRAMES}/{video['video_id']}/frame_{number:04d}.jpg"

    def sample(self, index: int) -> HandSample:
        """Sample `index`, in the metadata's order. DataError names file and field of what is missing or damaged."""
        key, name = self.where(index)
        video, frame = self.frames[index]
        image, encoded = self.files.read_published(name, shape=(HEIGHT_PX, WIDTH_PX))
        owner = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
        for number, hand in enumerate(BACK_TO_FRONT, 1):
            owner[self._outline(video, frame, hand) > 0] = number
        K = assumed_camera(HEIGHT_PX, WIDTH_PX)
        hands = []
        mask = np.zeros_like(owner)
        for hand, (side, person) in HANDS.items():
            shown = owner == BACK_TO_FRONT.index(hand) + 1
            if shown.any():
                source = f"egohands/{name.removeprefix(FRAMES + '/').removesuffix('.jpg')}"
                hands.append(outlined_hand(shown, side, K, source, identity=_text(video.get(person))))
                mask[shown] = len(hands)
        return HandSample(
            key=key, image=image, encoded=encoded, K=K, K_known=False, hands=tuple(hands), mask=mask, mask_source="published"
        )

    def _outline(self, video: dict[str, Any], frame: dict[str, Any], hand: str) -> NDArray[np.uint8]:
        polygon = frame.get(hand)
        if not isinstance(polygon, np.ndarray) or not (polygon.size == 0 or (polygon.ndim == 2 and polygon.shape[1] == 2)):
            got = polygon.shape if isinstance(polygon, np.ndarray) else type(polygon).__name__
            raise DataError(f"{self._place(video, frame)}.{hand}: expected corners of shape (N, 2), or none, got {got}")
        corners = np.asarray(polygon, np.float64).reshape(-1, 2) + FIRST_CENTER
        if not np.isfinite(corners).all():
            raise DataError(f"{self._place(video, frame)}.{hand}: expected finite numbers, got NaN or infinite ones")
        return polygon_mask([corners], (HEIGHT_PX, WIDTH_PX))

    def _place(self, video: dict[str, Any], frame: dict[str, Any]) -> str:
        return f"{self.where_metadata}: {video['video_id']}: frame {np.asarray(frame.get('frame_num')).reshape(-1).tolist()}"


def outlined_hand(mask: NDArray[np.bool_], side: int, K: NDArray[np.float64], source_id: str, identity: str | None = None) -> HandLabel:
    """A hand of which the mask (H,W) alone is known: no keypoint is visible, and all lie at the mask's centroid."""
    moments = cv2.moments(mask.astype(np.uint8), True)
    centroid = np.array([moments["m10"], moments["m01"]]) / moments["m00"] + 0.5
    return HandLabel(
        side=side,
        keypoints_px=np.tile(centroid, (NUM_KEYPOINTS, 1)).astype(np.float32),
        visible=np.zeros(NUM_KEYPOINTS, bool),
        box_px=hand_box(centroid[None], mask.astype(np.uint8)),
        K=K,
        source_id=source_id,
        identity=identity,
    )


def _structs(value: object) -> list[dict[str, Any]]:
    """The entries of a struct array; none for anything else."""
    return value if isinstance(value, list) and all(isinstance(entry, dict) for entry in value) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
