"""HO3D v2 and v3 as their owners publish them: splits train, val (held-out sequences) and eval.

All hands are right hands. Published coordinates are OpenGL's (y up, z back) and become OpenCV's here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handnet.hand.plain_pickle import parse_plain_pickle
from handnet.skeleton import HO3D_TO_STD
from pipelines.config_datasets import Ho3dConfig
from pipelines.datasets.masks import hand_box, mesh_mask, skeleton_mask
from pipelines.datasets.sample import NUM_KEYPOINTS, DataError, HandLabel, HandSample, SplitNotThereError, check_camera
from pipelines.datasets.source_files import SourceFiles

MARKERS = ("train.txt", "evaluation.txt")
FOLDERS = ("train", "evaluation")
PARTS = ("train", "evaluation")
SUFFIXES = {"v2": "png", "v3": "jpg"}  # of the images
HEIGHT_PX, WIDTH_PX = 480, 640
FLIP_YZ = np.array([1.0, -1.0, -1.0])  # OpenGL <-> OpenCV: half a turn about x


class Ho3d:
    """One split. Masks are not published: they are filled in from the hand's mesh, or from its skeleton without a MANO file.

    An object in front of the hand counts as hand in them. Evaluation frames know the wrist and a box only: there the
    wrist is the one visible keypoint, the others lie at the box's centre, and in metres the wrist alone is given.
    """

    def __init__(self, config: Ho3dConfig, split: str, cache: Path) -> None:
        """DataError if the data is missing or a list of frames cannot be read. `cache`: folder for the archives' indices."""
        if split not in ("train", "val", "eval"):
            raise ValueError(f"split: expected 'train', 'val' or 'eval', got {split!r}")
        self.files = SourceFiles(config.path, MARKERS, folders=FOLDERS, cache=cache)
        self.part = "evaluation" if split == "eval" else "train"
        self.version = config.version
        frames = read_frames(self.files, self.part)
        if split != "eval":
            known = {frame.split("/")[0] for frame in frames}
            if unknown := sorted(set(config.val_sequences) - known):
                where = self.files.where(f"{self.part}.txt")
                raise DataError(f"{where}: val_sequences: no sequence called {unknown}; there are {sorted(known)}")
            frames = [frame for frame in frames if (frame.split("/")[0] in config.val_sequences) == (split == "val")]
        self.frames = frames
        self.fit = None
        if config.mano_model is not None:
            from pipelines.datasets.mano_fit import ManoFit  # brings in torch

            self.fit = ManoFit(config.mano_model)

    def __len__(self) -> int:
        return len(self.frames)

    def where(self, index: int) -> tuple[str, str]:
        """Key and image file of sample `index`."""
        sequence, frame = self.frames[index].split("/")
        return f"{index:08d}", f"{self.part}/{sequence}/rgb/{frame}.{SUFFIXES[self.version]}"

    def sample(self, index: int) -> HandSample:
        """Sample `index`, in the order of the list of frames. DataError names file and field of what is wrong."""
        sequence, frame = self.frames[index].split("/")
        meta = self._meta(index)
        key, name = self.where(index)
        image, encoded = self.files.read_published(name, shape=(HEIGHT_PX, WIDTH_PX))
        source_id = f"ho3d-{self.version}/{self.part}/{sequence}/{frame}"
        hand, mask = self._root_only(meta, source_id) if self.part == "evaluation" else self._annotated(meta, source_id)
        filled = None if mask is None else "skeleton" if self.fit is None else "mano"
        return HandSample(key=key, image=image, K=hand.K, hands=(hand,), mask=mask, mask_source=filled, encoded=encoded)

    def published_box(self, index: int) -> NDArray[np.float64] | None:
        """(4,) x0, y0, x1, y1 of an evaluation frame; training frames have none."""
        return self._meta(index).array("handBoundingBox", (4,)) if self.part == "evaluation" else None

    def _meta(self, index: int) -> Meta:
        sequence, frame = self.frames[index].split("/")
        return Meta(self.files, f"{self.part}/{sequence}/meta/{frame}.pkl")

    def _annotated(self, meta: Meta, source_id: str) -> tuple[HandLabel, NDArray[np.uint8]]:
        K = meta.camera()
        joints = meta.array("handJoints3D", (21, 3))[HO3D_TO_STD] * FLIP_YZ
        pose, betas = meta.array("handPose", (48,)), meta.array("handBeta", (10,))
        keypoints = meta.project(K, joints)
        vertices = None
        if self.fit is not None:
            vertices = (self.fit.pose(pose, betas)[0] + meta.array("handTrans", (3,))) * FLIP_YZ
            mask = mesh_mask(meta.project(K, vertices), self.fit.model.faces[1], (HEIGHT_PX, WIDTH_PX))
        else:
            mask = skeleton_mask(keypoints, joints[:, 2], float(K[0, 0]), (HEIGHT_PX, WIDTH_PX))
        # F (R (x - wrist) + wrist + trans) with F = FLIP_YZ, a rotation: the pose in OpenCV's frame, about the wrist
        turned = Rotation.from_matrix(np.diag(FLIP_YZ) @ Rotation.from_rotvec(pose[:3]).as_matrix()).as_rotvec()
        hand = HandLabel(
            side=1,
            keypoints_px=keypoints.astype(np.float32),
            visible=np.all((keypoints >= 0) & (keypoints < (WIDTH_PX, HEIGHT_PX)), axis=1),
            box_px=hand_box(keypoints, mask),
            K=K,
            keypoints_m=joints.astype(np.float32),
            vertices_m=None if vertices is None else vertices.astype(np.float32),
            mano=np.concatenate([turned, pose[3:], betas, joints[0]]).astype(np.float32),
            hand_model="mano",
            joint_convention="lbs",
            source_id=source_id,
        )
        return hand, mask

    def _root_only(self, meta: Meta, source_id: str) -> tuple[HandLabel, None]:
        K = meta.camera()
        wrist = meta.array("handJoints3D", (3,)) * FLIP_YZ
        box = meta.array("handBoundingBox", (4,))
        keypoints = np.tile((box[:2] + box[2:]) / 2, (NUM_KEYPOINTS, 1))
        keypoints[0] = meta.project(K, wrist[None])[0]
        visible = np.zeros(NUM_KEYPOINTS, bool)
        visible[0] = True
        hand = HandLabel(
            side=1,
            keypoints_px=keypoints.astype(np.float32),
            visible=visible,
            box_px=box.astype(np.float32),
            K=K,
            hand_model="mano",
            source_id=source_id,
            given_wrist_m=wrist,
        )
        return hand, None


def read_frames(files: SourceFiles, part: str) -> list[str]:
    """The part's list of frames, "SEQUENCE/FRAME". DataError names the line that is none, SplitNotThereError a list that is missing."""
    listing = f"{part}.txt"
    if not files.exists(listing):
        raise SplitNotThereError(f"{files.path}: {listing}: not found")
    lines = [line.strip() for line in files.read(listing).decode("utf-8", "replace").splitlines()]
    for number, frame in enumerate(lines, 1):
        if frame and (frame.count("/") != 1 or ".." in frame):
            raise DataError(f"{files.where(listing)}: line {number}: expected SEQUENCE/FRAME, got {frame[:60]!r}")
    return [frame for frame in lines if frame]


class Meta:
    """One frame's annotation: a pickle of plain numbers, read without running it."""

    def __init__(self, files: SourceFiles, name: str) -> None:
        self.where = files.where(name)
        try:
            content: Any = parse_plain_pickle(files.read(name), self.where)
        except DataError:
            raise
        except ValueError as error:
            raise DataError(str(error)) from None
        if not isinstance(content, dict):
            raise DataError(f"{self.where}: expected a dictionary, got {type(content).__name__}")
        self.content = content

    def array(self, field: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """A field as finite float64 numbers of `shape`; DataError names file and field."""
        value = self.content.get(field)
        if value is None:
            state = "None: this frame has no annotation" if field in self.content else "missing"
            raise DataError(f"{self.where}: {field}: expected {shape} numbers, got {state}")
        try:
            array = np.asarray(value, np.float64)
        except (ValueError, TypeError):
            raise DataError(f"{self.where}: {field}: expected {shape} numbers, got {type(value).__name__}") from None
        if array.shape != shape:
            raise DataError(f"{self.where}: {field}: expected shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise DataError(f"{self.where}: {field}: expected finite numbers, got {int((~np.isfinite(array)).sum())} NaN or infinite")
        return array

    def camera(self) -> NDArray[np.float64]:
        """(3,3) camMat. DataError if it is none."""
        K = self.array("camMat", (3, 3))
        check_camera(K, f"{self.where}: camMat")
        return K

    def project(self, K: NDArray[np.float64], points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,3) OpenCV camera frame -> (N,2) pixels; DataError for points behind the camera."""
        if (points_m[:, 2] <= 0).any():
            raise DataError(f"{self.where}: expected points in front of the camera, got depth {float(points_m[:, 2].min()):.3f} m")
        projected = points_m @ K.T
        pixels: NDArray[np.float64] = projected[:, :2] / projected[:, 2:]
        return pixels
