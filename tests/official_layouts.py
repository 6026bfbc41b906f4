"""Tiny datasets in the layouts their owners publish: made-up numbers and pictures, real file names and formats."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
from fake_samples import project
from painted_hands import painted_sample, skeleton_m
from python2_pickles import python2_pickle

from handnet.skeleton import STD_TO_HO3D

FRAMES = 3


def write_freihand(folder: Path, frames: int = FRAMES) -> Path:
    """FreiHAND v2 with `frames` training frames (four images each) and two evaluation images."""
    for part, count, copies in (("training", frames, 4), ("evaluation", 2, 1)):
        (folder / part / "rgb").mkdir(parents=True)
        samples = [painted_sample(i + (100 if part == "evaluation" else 0)) for i in range(count)]
        annotations = {
            "K": [s.hands[0].K.tolist() for s in samples],
            "xyz": [s.hands[0].keypoints_m.tolist() for s in samples],
            "verts": [s.hands[0].vertices_m.tolist() for s in samples],
            "mano": [s.hands[0].mano[None].tolist() for s in samples],
            "scale": [0.03] * count,
        }
        for kind, values in annotations.items():
            (folder / f"{part}_{kind}.json").write_text(json.dumps(values))
        for i, sample in enumerate(samples):
            for k in range(copies):
                shade = np.where(sample.mask[..., None] > 0, sample.image, np.uint8(40 * k))
                cv2.imwrite(str(folder / part / "rgb" / f"{i + count * k:08d}.jpg"), shade[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
            if part == "training":
                (folder / "training/mask").mkdir(exist_ok=True)
                cv2.imwrite(str(folder / "training/mask" / f"{i:08d}.jpg"), sample.mask * 255, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return folder


def write_ho3d(folder: Path, version: str = "v2") -> Path:
    """HO3D with two training sequences and one evaluation sequence of two frames each."""
    suffix = "png" if version == "v2" else "jpg"
    K = np.array([[614.6, 0, 320.3], [0, 614.7, 241.1], [0, 0, 1]])
    lists: dict[str, list[str]] = {"train": [], "evaluation": []}
    for number, (part, sequence) in enumerate([("train", "ABF10"), ("train", "SM2"), ("evaluation", "SM1")]):
        (folder / part / sequence / "rgb").mkdir(parents=True)
        (folder / part / sequence / "meta").mkdir()
        for frame in range(2):
            rng = np.random.default_rng((number, frame))
            joints = skeleton_m(rng) + np.array([0.03, 0.05, 0.6])  # OpenCV, std21
            keypoints = project(K, joints)
            opengl = (joints * [1, -1, -1])[STD_TO_HO3D]
            image = np.full((480, 640, 3), 90, np.uint8)
            for point in keypoints:
                cv2.circle(image, (int(point[0]), int(point[1])), 6, (255, 255, 255), -1)
            cv2.imwrite(str(folder / part / sequence / "rgb" / f"{frame:04d}.{suffix}"), image)
            box = [*keypoints.min(0), *keypoints.max(0)]
            if part == "train":
                meta = {
                    "handPose": rng.normal(0, 0.3, 48),
                    "handTrans": rng.normal(0, 0.1, 3),
                    "handBeta": rng.normal(0, 1, 10),
                    "handJoints3D": opengl,
                    "objName": b"003_cracker_box",
                    "objTrans": np.zeros(3),
                    "objRot": None,  # nobody needs it here
                    "camIDList": [b"0", b"1"],
                }
                if version == "v3":
                    meta["handVertContact"] = rng.random(778) > 0.5
            else:
                meta = {"handJoints3D": opengl[0], "handBoundingBox": box}
            meta["camMat"] = K
            (folder / part / sequence / "meta" / f"{frame:04d}.pkl").write_bytes(python2_pickle(meta))
            lists[part].append(f"{sequence}/{frame:04d}")
    for part, lines in lists.items():
        (folder / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def zipped(folder: Path, target: Path, top: str = "") -> Path:
    """The folder as a zip whose names start with `top`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{top}{path.relative_to(folder)}")
    return target


def tarred(folder: Path, target: Path, top: str = "") -> Path:
    """The folder as a tar, or a tar.gz if the target's name says so, whose names start with `top`."""
    with tarfile.open(target, "w:gz" if target.suffix == ".gz" else "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, f"{top}{path.relative_to(folder)}", recursive=False)
    return target


def in_pieces(archive: Path, folder: Path, num: int = 3) -> Path:
    """The archive cut into NAME.partaa, NAME.partab, ... in a new folder."""
    data = archive.read_bytes()
    folder.mkdir()
    step = -(-len(data) // num)
    for i in range(num):
        (folder / f"{archive.name}.parta{'abcdef'[i]}").write_bytes(data[i * step : (i + 1) * step])
    return folder


FORMS = ("folder", "inner folder", "zip", "zip with top", "tar", "tar with top", "tar.gz", "pieces", "folder of zip")


def in_form(folder: Path, form: str) -> Path:
    """An extracted dataset in one of the FORMS that are accepted."""
    beside = folder.parent
    if form == "folder":
        return folder
    if form == "inner folder":
        (beside / "outer").mkdir()
        (beside / "outer" / folder.name).symlink_to(folder)
        return beside / "outer"
    if form.startswith("zip"):
        return zipped(folder, beside / "data.zip", f"{folder.name}/" if "top" in form else "")
    if form in ("tar", "tar with top"):
        return tarred(folder, beside / "data.tar", f"{folder.name}/" if "top" in form else "./")
    if form == "tar.gz":
        return tarred(folder, beside / "data.tar.gz", f"{folder.name}/")
    if form == "pieces":
        return in_pieces(tarred(folder, beside / "data.tar", f"{folder.name}/"), beside / "pieces")
    (beside / "archives").mkdir()
    zipped(folder, beside / "archives" / "data.zip")
    return beside / "archives"
