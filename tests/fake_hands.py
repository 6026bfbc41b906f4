"""Posed hands of the free hand model as labelled samples and as predictions: for tests of evaluation and submission."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from handnet.hand.layer import HandLayer
from handnet.skeleton import ROOT
from pipelines.config_mixture import MixturePart
from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.shards.build import Plan, build_shards
from pipelines.shards.manifest import Counts


def make_hands(num: int, rng: np.random.Generator, *, side: int | None = None, spread_deg: float = 15.0) -> tuple[np.ndarray, ...]:
    """Sides (N,), joints (N, 21, 3) and vertices (N, 778, 3) in metres, joint 9 at the origin, roughly upright."""
    sides = rng.integers(0, 2, num) if side is None else np.full(num, side)
    turns = Rotation.from_rotvec(np.radians(rng.normal(0, spread_deg, (num, 3)))).as_matrix()
    pose = rng.normal(0, 0.15, (num, 45))
    out = HandLayer()(
        torch.as_tensor(turns @ upright(), dtype=torch.float32),
        torch.as_tensor(pose, dtype=torch.float32),
        torch.as_tensor(rng.normal(0, 0.5, (num, 10)), dtype=torch.float32),
        torch.ones(num, dtype=torch.int64),
        flat_hand_mean=False,
        center_joint=ROOT,
    )
    mirror = np.where(sides == 1, 1.0, -1.0)[:, None, None] * np.array([1.0, 0, 0]) + np.array([0, 1.0, 1.0])
    return sides, out.joints.numpy() * mirror, out.vertices.numpy() * mirror


def upright() -> np.ndarray:
    """(3, 3) rotation of the right hand from its rest pose to fingers up, back of the hand to the camera."""
    fingers, back = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])  # where the model's x and y axes go
    return np.stack([fingers, back, np.cross(fingers, back)], axis=1)


def camera(size_px: int, focal_px: float) -> np.ndarray:
    return np.array([[focal_px, 0, size_px / 2], [0, focal_px, size_px / 2], [0, 0, 1.0]])


def project(K: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    pixels = points_m.astype(np.float64) @ K.T
    return pixels[..., :2] / pixels[..., 2:]


def make_label(side: int, joints: np.ndarray, vertices: np.ndarray, position_m: np.ndarray, K: np.ndarray, name: str) -> HandLabel:
    joints, vertices = (joints + position_m).astype(np.float32), (vertices + position_m).astype(np.float32)
    keypoints = project(K, joints)
    return HandLabel(
        side=int(side),
        keypoints_px=keypoints,
        visible=np.ones(21, bool),
        box_px=np.concatenate([keypoints.min(0), keypoints.max(0)]),
        K=K,
        keypoints_m=joints,
        vertices_m=vertices,
        hand_model="free",
        source_id=f"fake/{name}",
    )


def make_crops(num: int, seed: int, *, side: int | None = None, size_px: int = 96) -> list[HandSample]:
    """Single-hand images, hands near the image's middle and in the image's own camera."""
    rng = np.random.default_rng(seed)
    sides, joints, vertices = make_hands(num, rng, side=side)
    K = camera(size_px, 2.0 * size_px)
    samples = []
    for i in range(num):
        position = np.array([*rng.uniform(-0.05, 0.05, 2), rng.uniform(0.55, 0.75)])
        label = make_label(sides[i], joints[i], vertices[i], position, K, f"{seed}-{i}")
        image = np.full((size_px, size_px, 3), 128, np.uint8)
        samples.append(HandSample(key=f"{i:06d}", image=image, K=K, hands=(label,)))
    return samples


def make_scenes(num: int, seed: int, *, size_px: int = 192, max_hands: int = 3) -> list[HandSample]:
    """Images of 0 to max_hands hands well apart, all in the scene's own camera."""
    rng = np.random.default_rng(seed)
    K = camera(size_px, 256.0)
    samples = []
    for i in range(num):
        count = i % (max_hands + 1)
        sides, joints, vertices = make_hands(max(count, 1), rng)
        labels = []
        for n in range(count):
            depth = rng.uniform(0.8, 1.0)
            x_px = size_px * (n + 0.5) / max_hands
            position = np.array([(x_px - size_px / 2) / 256.0 * depth, rng.uniform(-0.05, 0.05), depth])
            labels.append(make_label(sides[n], joints[n], vertices[n], position, K, f"{seed}-{i}-{n}"))
        samples.append(HandSample(key=f"{i:06d}", image=np.full((size_px, size_px, 3), 90, np.uint8), K=K, hands=tuple(labels)))
    return samples


@dataclass(frozen=True)
class ListSource:
    """A list as the source of shards."""

    samples: list[HandSample]

    def sample(self, index: int) -> HandSample:
        return replace(self.samples[index], key=f"{index:06d}")

    def counts(self, index: int) -> Counts:
        return {}


@dataclass(frozen=True)
class OpenList:
    samples: list[HandSample]

    def __call__(self) -> ListSource:
        return ListSource(self.samples)


def write_shards(folder: Path, samples: list[HandSample]) -> Path:
    """The samples as a folder of shards."""
    plan = Plan(
        target=folder,
        work=folder.with_name(folder.name + ".partial"),
        dataset="fake",
        split="eval",
        num_samples=len(samples),
        samples_per_shard=7,
        jpeg_quality=90,
        config={"seed": 0},
        open_source=OpenList(samples),
    )
    build_shards(plan, num_workers=1, description="fake")
    return folder


def mixture_of(*folders: Path | str, **changes: float) -> dict[str, MixturePart]:
    """Folders of shards as a training stage's mixture in equal parts: `part0`, `part1`..."""
    values = {"weight": 1.0, "labels_3d": 1.0, "masks": 1.0, **changes}
    return {f"part{i}": MixturePart(path=str(folder), **values) for i, folder in enumerate(folders)}


@dataclass(frozen=True)
class FakePrediction:
    """What a predictor says of one hand; pixels of the frame it was shown."""

    side: int
    score: float
    center_px: np.ndarray
    keypoints_px: np.ndarray
    keypoints_m: np.ndarray
    vertices_m: np.ndarray
    K: np.ndarray
    albedo: np.ndarray | None = None
    light: np.ndarray | None = None


def truth(label: HandLabel, affine: np.ndarray, K: np.ndarray, *, score: float = 0.9) -> FakePrediction:
    """The label as a prediction in a frame."""
    keypoints = label.keypoints_px.astype(np.float64) @ affine[:, :2].T + affine[:, 2]
    assert label.keypoints_m is not None
    assert label.vertices_m is not None
    return FakePrediction(label.side, score, keypoints.mean(0), keypoints, label.keypoints_m, label.vertices_m, K)
