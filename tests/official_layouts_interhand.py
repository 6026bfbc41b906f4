"""A tiny InterHand2.6M in the layout its owners publish: millimetres, world axes, tip before base, right before left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from official_layouts_scene import Pair, painted_pair
from scipy.spatial.transform import Rotation

from handnet.skeleton import INTERHAND_TO_STD

SEQUENCES = ("0390_dh_touchROM", "ROM01_No_Interaction_2_Hand")
FRAMES = (62275, 62278, 62281, 62284)
SIZES = {"400262": (512, 334), "410209": (334, 512)}  # camera: height, width
CAPTURE = 12


@dataclass(frozen=True)
class View:
    """What one image shows, and the pose of its camera: X_cam = rotation (X_world - position_mm)."""

    scene: Pair
    rotation: np.ndarray
    position_mm: np.ndarray


def interhand_view(number: int, height: int, width: int) -> View:
    """Frame `number`: 0 both hands, 1 right, 2 left, and so on."""
    sides = (("left", "right"), ("right",), ("left",))[number % 3]
    scene = painted_pair(300 + number, height, width, 1000.0, sides)
    rng = np.random.default_rng(width)
    return View(scene, Rotation.random(random_state=width).as_matrix(), rng.normal(0, 500, 3))


def write_interhand(folder: Path, split: str = "train", first_id: int = 0, fits: dict | None = None) -> Path:
    """One split: two sequences, two cameras, four frames each, of which every camera shows another scene at another time.

    fits: content of the MANO file, by frame and side.
    """
    images, annotations, joints = [], [], {}
    cameras: dict = {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
    for place, (camera, (height, width)) in enumerate(SIZES.items()):
        for k, frame in enumerate(FRAMES):
            # a frame has one set of world coordinates: the second camera sees the sequence's other frames
            sequence, moment = SEQUENCES[place], frame + 100000 * place
            view = interhand_view(k, height, width)
            name = f"Capture{CAPTURE}/{sequence}/cam{camera}/image{moment}.jpg"
            path = folder / "images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), view.scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 99, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111])
            world, valid = np.ones((42, 3)), np.zeros((42, 1))
            for start, side in ((0, "right"), (21, "left")):
                if side in view.scene.points_m:
                    camera_mm = view.scene.points_m[side] * 1000
                    world[INTERHAND_TO_STD + start] = camera_mm @ view.rotation + view.position_mm
                    valid[start : start + 21] = 1
            shown = list(view.scene.points_m)
            hand_type = "interacting" if len(shown) == 2 else shown[0]
            joints[str(moment)] = {
                "world_coord": world.tolist(),
                "joint_valid": valid.tolist(),
                "hand_type": hand_type,
                "hand_type_valid": True,
            }
            points = np.concatenate(list(view.scene.keypoints_px.values()))
            low, size = points.min(0) - 10, np.ptp(points, axis=0) + 20
            images.append(
                {"id": first_id + len(images), "file_name": name, "width": width, "height": height, "capture": CAPTURE, "subject": 3}
                | {"seq_name": sequence, "camera": camera, "frame_idx": moment}
            )
            annotations.append(
                {"id": first_id + len(annotations), "image_id": images[-1]["id"], "bbox": [*low, *size], "joint_valid": valid.tolist()}
                | {"hand_type": hand_type, "hand_type_valid": True}
            )
            cameras["campos"][camera], cameras["camrot"][camera] = view.position_mm.tolist(), view.rotation.tolist()
            K = view.scene.K
            cameras["focal"][camera], cameras["princpt"][camera] = [K[0, 0], K[1, 1]], [K[0, 2], K[1, 2]]
    write_json(folder, split, "data", {"images": images, "annotations": annotations[::-1]})  # joined by id, not by place
    write_json(folder, split, "camera", {str(CAPTURE): cameras})
    write_json(folder, split, "joint_3d", {str(CAPTURE): joints})
    write_json(folder, split, "MANO_NeuralAnnot", {str(CAPTURE): fits or {str(frame): {"right": None, "left": None} for frame in FRAMES}})
    (folder / "annotations" / "skeleton.txt").write_text("thumb4 0 1\n")
    return folder


def json_file(folder: Path, kind: str, split: str = "train") -> Path:
    return folder / "annotations" / split / f"InterHand2.6M_{split}_{kind}.json"


def write_json(folder: Path, split: str, kind: str, content: object) -> None:
    path = json_file(folder, kind, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
