"""A tiny EgoHands in the layout its owners publish: frames in folders by video, outlines in a MATLAB file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import scipy.io

VIDEOS = ("CARDS_COURTYARD_B_T", "CHESS_OFFICE_S_H")
FRAME_NUMBERS = (11, 2605)
HEIGHT, WIDTH = 720, 1280
HANDS = ("myleft", "myright", "yourleft", "yourright")
COLORS = {"myleft": (220, 60, 60), "myright": (60, 220, 60), "yourleft": (60, 60, 220), "yourright": (220, 220, 60)}
FRAME_TYPE = [(name, "O") for name in ("frame_num", *HANDS)]


def outline(video: int, frame: int, hand: str) -> np.ndarray:
    """(N,2) corners in continuous pixels; none where the hand is absent. The viewer's right hand lies over the partner's left."""
    if (video + frame) % 2 and hand in ("myleft", "yourright"):
        return np.zeros((0, 2))
    x, y = {"myleft": (250, 480), "myright": (700, 430), "yourleft": (760, 330), "yourright": (1000, 200)}[hand]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = 70 + 25 * np.cos(3 * angles) + 10 * frame
    return np.stack([x + 20 * video + radii * np.cos(angles), y + radii * np.sin(angles)], 1)


def write_egohands(folder: Path) -> Path:
    """egohands_data with two videos of two labelled frames."""
    videos = np.zeros((1, len(VIDEOS)), [(name, "O") for name in ("video_id", "ego_viewer_id", "partner_id", "labelled_frames")])
    for v, name in enumerate(VIDEOS):
        frames = np.zeros((1, len(FRAME_NUMBERS)), FRAME_TYPE)
        (folder / "_LABELLED_SAMPLES" / name).mkdir(parents=True)
        for f, number in enumerate(FRAME_NUMBERS):
            image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
            for hand in ("yourleft", "yourright", "myleft", "myright"):
                corners = outline(v, f, hand)
                if len(corners):
                    cv2.fillPoly(image, [np.round((corners - 0.5) * 16).astype(np.int32)], COLORS[hand], cv2.LINE_8, 4)
                # MATLAB counts pixels' centres from 1
                frames[0, f][hand] = corners + 0.5 if len(corners) else np.zeros((0, 0))
            frames[0, f]["frame_num"] = number
            path = folder / "_LABELLED_SAMPLES" / name / f"frame_{number:04d}.jpg"
            cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        _, _, viewer, partner = name.split("_")
        videos[0, v] = (name, viewer, partner, frames)
    save_metadata(folder, videos)
    return folder


def save_metadata(folder: Path, videos: np.ndarray, **options) -> None:
    scipy.io.savemat(str(folder / "metadata.mat"), {"video": videos}, do_compression=True, **options)
