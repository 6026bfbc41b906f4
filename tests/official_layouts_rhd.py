"""A tiny RHD in the layout its owners publish."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
from official_layouts_scene import Pair, painted_pair
from python2_pickles import python2_pickle

from handnet.skeleton import RHD_TO_STD

PX = 320


def rhd_scene(index: int) -> Pair:
    """What image `index` shows: both hands; the right one alone in every third image."""
    return painted_pair(index, PX, PX, 280.0, ("right",) if index % 3 == 2 else ("left", "right"))


def write_rhd(folder: Path, num_train: int = 6, num_eval: int = 2) -> Path:
    """RHD_published_v2. Hands that an image does not show have coordinates too, outside the image and not visible."""
    for part, first, count in (("training", 0, num_train), ("evaluation", 100, num_eval)):
        annotations = {}
        for kind in ("color", "mask"):
            (folder / part / kind).mkdir(parents=True)
        for number in range(count):
            scene = rhd_scene(first + number)
            xyz, uv_vis = np.zeros((42, 3), np.float32), np.zeros((42, 3), np.float32)
            parts = np.zeros((PX, PX), np.uint8)
            parts[:40, :40] = 1  # the person
            for start, side in ((0, "left"), (21, "right")):
                rows = slice(start, start + 21)
                if side not in scene.points_m:
                    xyz[rows], uv_vis[rows] = (-5, 0, 1), (-1000, 160, 0)
                    continue
                xyz[rows] = scene.points_m[side][RHD_TO_STD]  # the order is its own inverse
                uv_vis[rows, :2] = scene.keypoints_px[side][RHD_TO_STD]
                uv_vis[rows, 2] = 1
                first_part = 2 if side == "left" else 18
                mask = scene.masks[side]
                parts[mask] = (first_part + (np.arange(mask.sum()) % 16)).astype(np.uint8)
            annotations[number] = {"K": scene.K.astype(np.float32), "xyz": xyz, "uv_vis": uv_vis}
            cv2.imwrite(str(folder / part / "color" / f"{number:05d}.png"), scene.image[..., ::-1])
            cv2.imwrite(str(folder / part / "mask" / f"{number:05d}.png"), parts)
        write_annotations(folder, part, annotations)
    return folder


def annotation_file(folder: Path, part: str = "training") -> Path:
    return folder / part / f"anno_{part}.pickle"


def write_annotations(folder: Path, part: str, annotations: dict) -> None:
    """As Python 2 pickled it: the fields' names are byte strings."""
    tree = {number: entry and {str(field).encode(): value for field, value in entry.items()} for number, entry in annotations.items()}
    annotation_file(folder, part).write_bytes(python2_pickle(tree))


def read_annotations(folder: Path, part: str = "training") -> dict:
    return pickle.loads(annotation_file(folder, part).read_bytes(), encoding="latin1")
