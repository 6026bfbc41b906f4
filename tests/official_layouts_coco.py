"""A tiny hand keypoint set in COCO's JSON format, and one of persons in COCO-WholeBody's."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from official_layouts_scene import Pair, painted_pair

HEIGHT, WIDTH = 240, 360
CATEGORIES = [{"id": 4, "name": "right_hand", "supercategory": "hand"}, {"id": 9, "name": "Left hand", "supercategory": "hand"}]
CATEGORY = {"right": 4, "left": 9}


def coco_scene(number: int) -> Pair:
    return painted_pair(500 + number, HEIGHT, WIDTH, 400.0, ("right",) if number % 3 == 1 else ("left", "right"))


def write_images(folder: Path, first: int, count: int) -> list[dict]:
    """Images in `folder`, as JPEG and every second as PNG; their entries."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(first, first + count):
        name = f"{number:06d}.{'png' if number % 2 else 'jpg'}"
        options = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
        cv2.imwrite(str(folder / name), coco_scene(number).image[..., ::-1], options if name.endswith("jpg") else [])
        entries.append({"id": 1000 + number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    return entries


def keypoint_values(keypoints_px: np.ndarray, order: np.ndarray | None = None) -> list[float]:
    """x, y, v as COCO has them: whole numbers are the centres of pixels."""
    placed = (keypoints_px - 0.5 if order is None else (keypoints_px - 0.5)[order]).round(3)
    return np.concatenate([placed, np.full((len(placed), 1), 2.0)], 1).reshape(-1).tolist()


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a mask, through the centres of its rim's pixels, in continuous pixels."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [(contour.reshape(-1, 2) + 0.5).reshape(-1).tolist() for contour in contours if len(contour) > 2]


def write_coco(folder: Path, count: int = 6, num_eval: int = 2, order: np.ndarray | None = None) -> Path:
    """annotations/{train,eval}.json with images in {train,eval}; `order`: their keypoint i is std21's order[i]."""
    (folder / "annotations").mkdir(parents=True)
    for split, first, number in (("train", 0, count), ("eval", 100, num_eval)):
        images = write_images(folder / split, first, number)
        annotations = []
        for entry in images:
            scene = coco_scene(entry["id"] - 1000)
            for side in scene.points_m:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": entry["id"], "category_id": CATEGORY[side], "iscrowd": 0, "num_keypoints": 21}
                    | {"keypoints": keypoint_values(scene.keypoints_px[side], order), "segmentation": polygons_of(scene.masks[side])}
                )
        content = {"info": {"year": 2024}, "images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def write_whole_body(folder: Path, count: int = 3) -> Path:
    """annotations/train.json of persons, each with the body's keypoints and those of the hands."""
    images = write_images(folder / "train", 0, count)
    annotations = []
    for entry in images:
        scene = coco_scene(entry["id"] - 1000)
        person = {"id": entry["id"] * 10, "image_id": entry["id"], "category_id": 1, "iscrowd": 0, "keypoints": [1.0, 2.0, 2.0] * 17}
        for side in ("left", "right"):
            person[f"{side}hand_valid"] = side in scene.points_m
            person[f"{side}hand_kpts"] = keypoint_values(scene.keypoints_px[side]) if side in scene.points_m else [0.0] * 63
        annotations.append(person)
    (folder / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "annotations/train.json").write_text(json.dumps(content))
    return folder
