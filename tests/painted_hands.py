"""Source images for composition tests: a plain hand shape with a coloured dot at every keypoint, in a ShardReader's format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from fake_samples import project

from handnet.skeleton import BONES
from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.shards.build import Plan, build_shards

SIZE = 224
SKIN = (200, 150, 120)
# 21 colours far apart from each other, from skin and from the backgrounds: found again after JPEG and blending
UNCLEAR = {(128, 128, 128), (255, 128, 128), (255, 255, 255), (0, 0, 0), (128, 128, 0), (255, 255, 128)}
CORNERS = [(r, g, b) for r in (0, 128, 255) for g in (0, 128, 255) for b in (0, 128, 255)]
DOTS = np.array([color for color in CORNERS if color not in UNCLEAR], np.uint8)
DOT_RADIUS_PX = 5.0


def skeleton_m(rng: np.random.Generator) -> np.ndarray:
    """(21,3) a flat open right hand, wrist at the origin, fingers up, bent a little and turned at random."""
    points = [(0.0, 0.0, 0.0)]
    for finger in range(5):
        angle = np.deg2rad(-55 + 27 * finger)
        base = 0.055 if finger == 0 else 0.085
        for k, step in enumerate((0, 0.036, 0.064, 0.088)):
            distance = base + step
            points.append((np.sin(angle) * distance, -np.cos(angle) * distance, 0.01 * k * rng.uniform(-1, 1)))
    turn = rng.uniform(-0.5, 0.5)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return np.array(points) @ rotation.T


@cache
def painted_sample(index: int, markers: bool = True, size: int = SIZE) -> HandSample:
    """One hand in the middle of a patterned image; with `markers`, dot k has colour DOTS[k] and lies exactly at keypoint k."""
    rng = np.random.default_rng((99, index))
    place = np.array([rng.uniform(-0.02, 0.02), 0.07 + rng.uniform(-0.02, 0.02), rng.uniform(0.75, 0.9)])
    points = skeleton_m(rng) + place
    K = np.array([[2.2 * size, 0, size / 2 + rng.uniform(-4, 4)], [0, 2.3 * size, size / 2], [0, 0, 1]])
    keypoints = project(K, points.astype(np.float32))
    big = 4  # painted at four times the size and reduced, so that dots have no bias
    image = np.zeros((size * big, size * big, 3), np.uint8)
    image[:] = rng.integers(60, 190, 3)
    mask = np.zeros((size * big, size * big), np.uint8)
    at = [tuple(int(v) for v in np.round((p * big - 0.5) * 16)) for p in keypoints]
    for parent, child in BONES:
        cv2.line(mask, at[parent], at[child], 1, 22 * big, cv2.LINE_8, 4)
    image[mask > 0] = SKIN
    if markers:
        for k, point in enumerate(at):
            cv2.circle(image, point, int(DOT_RADIUS_PX * big * 16), DOTS[k].tolist(), -1, cv2.LINE_8, 4)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    mask = (cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) >= 0.5).astype(np.uint8)
    label = HandLabel(
        side=1,
        keypoints_px=keypoints,
        visible=np.ones(21, bool),
        box_px=np.concatenate([keypoints.min(0), keypoints.max(0)]),
        K=K,
        keypoints_m=points,
        vertices_m=rng.normal(0, 0.03, (778, 3)) + points.mean(0),
        mano=rng.normal(0, 0.3, 61),
        hand_model="free",
        source_id=f"painted/{index}",
        identity=f"p{index % 4}",
    )
    return HandSample(key=f"{index:08d}", image=image, K=K, hands=(label,), mask=mask)


def find_dot(image: np.ndarray, color: np.ndarray, near: np.ndarray, radius_px: float) -> np.ndarray:
    """Centroid of a dot on skin: every pixel around `near` weighs by how far its colour is from skin towards the dot's.

    Pixels of other dots, which are no mixture of the two, count as skin.
    """
    rows = np.arange(max(0, int(near[1] - radius_px)), min(image.shape[0], int(near[1] + radius_px) + 2))
    columns = np.arange(max(0, int(near[0] - radius_px)), min(image.shape[1], int(near[0] + radius_px) + 2))
    places = np.stack(np.meshgrid(columns + 0.5, rows + 0.5), axis=-1)
    offset = image[rows[:, None], columns] - np.array(SKIN, float)
    axis = color.astype(float) - SKIN
    share = np.clip(offset @ axis / (axis @ axis), 0, 1)
    share *= np.linalg.norm(offset - share[..., None] * axis, axis=-1) < 40
    share *= np.linalg.norm(places - near, axis=-1) <= radius_px
    return (share[..., None] * places).sum((0, 1)) / max(share.sum(), 1e-9)


def dots_seen(sample: HandSample, hand: int, scale: float) -> list[int]:
    """Keypoints of a hand whose whole dot, with some skin around it, is on top and within the image."""
    seen = []
    reach = DOT_RADIUS_PX * scale + 2.5
    for k, (x, y) in enumerate(sample.hands[hand].keypoints_px):
        rows, columns = np.mgrid[int(y - reach) : int(y + reach) + 2, int(x - reach) : int(x + reach) + 2]
        if rows.min() < 0 or columns.min() < 0 or rows.max() >= sample.height_px or columns.max() >= sample.width_px:
            continue
        disc = np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= reach
        if (sample.mask[rows[disc], columns[disc]] == hand + 1).all():
            seen.append(k)
    return seen


@dataclass(frozen=True)
class PaintedSource:
    """A SampleSource of painted hands, and the call that opens it; `first` is the number of the first one."""

    first: int = 0

    def __call__(self) -> PaintedSource:
        return self

    def sample(self, index: int) -> HandSample:
        return replace(painted_sample(self.first + index), key=f"{index:08d}")

    def counts(self, index: int) -> dict[str, dict[str, int]]:
        return {}


def build_painted(data: Path, split: str, num_samples: int = 16) -> Path:
    """Shards of painted hands as the ingest stage would have written them; their folder."""
    plan = Plan(
        target=data / "ingest" / "procedural" / split,
        work=data / "ingest" / "procedural.partial" / split,
        dataset="procedural",
        split=split,
        num_samples=num_samples,
        samples_per_shard=8,
        jpeg_quality=98,
        config={},
        open_source=PaintedSource(0 if split == "train" else 1000),  # no frame is in two splits
    )
    build_shards(plan, num_workers=1, description="painted")
    return plan.target
