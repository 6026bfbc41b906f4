"""Made-up hand labels and samples for the tests of the data path: random numbers, but 2D and 3D agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.shards.build import Plan


def project(K: np.ndarray, points_m: np.ndarray) -> np.ndarray:
    out = []
    for point in points_m.astype(np.float64):
        x, y, z = K @ point
        out.append((x / z, y / z))
    return np.array(out)


def make_label(seed: int = 0, side: int = 1) -> HandLabel:
    rng = np.random.default_rng(seed)
    K = np.array([[400.0, 0, 112], [0, 410, 110], [0, 0, 1]])
    points = (rng.normal(0, 0.04, (21, 3)) + np.array([0.02, -0.01, 0.7])).astype(np.float32)
    keypoints = project(K, points)
    return HandLabel(
        side=side,
        keypoints_px=keypoints,
        visible=rng.random(21) > 0.2,
        box_px=np.concatenate([keypoints.min(0), keypoints.max(0)]),
        K=K,
        keypoints_m=points,
        vertices_m=rng.normal(0, 0.04, (778, 3)) + np.array([0, 0, 0.7]),
        mano=rng.normal(0, 0.3, 61),
        hand_model="free",
        source_id="test/0",
        identity="p1",
    )


def make_sample(seed: int = 0, num_hands: int = 1, size: tuple[int, int] = (48, 64), with_3d: bool = True, mask: bool = True) -> HandSample:
    rng = np.random.default_rng(seed)
    hands = [make_label(seed * 100 + i, side=int(rng.integers(2))) for i in range(num_hands)]
    hands = [replace(hand, source_id=f"fake/{seed}-{i}", identity=f"p{seed % 3}") for i, hand in enumerate(hands)]
    return HandSample(
        key=f"{seed:08d}",
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        K=np.array([[60.0, 0, 32], [0, 61, 24], [0, 0, 1]]),
        hands=tuple(hands if with_3d else [hand.without_3d() for hand in hands]),
        mask=rng.integers(0, num_hands + 1, size).astype(np.uint8) if mask else None,
    )


class FakeSource:
    """A SampleSource of `make_sample`s with 0 to 2 hands."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def sample(self, index: int) -> HandSample:
        return replace(make_sample(index + self.offset, num_hands=(index + self.offset) % 3), key=f"{index:08d}")

    def counts(self, index: int) -> dict[str, dict[str, int]]:
        return {"parity": {str(index % 2): 1}}


def make_plan(folder: Path, **changes: object) -> Plan:
    values: dict = {
        "target": folder / "set",
        "work": folder / "set.partial",
        "dataset": "fake",
        "split": "train",
        "num_samples": 10,
        "samples_per_shard": 4,
        "jpeg_quality": 90,
        "config": {"seed": 0},
        "open_source": FakeSource,
    }
    return Plan(**{**values, **changes})


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
