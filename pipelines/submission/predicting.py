"""One hand for every sample of a folder of shards, in their order, which is the order the server expects.

A sample in which no hand is found is filled with the mean hand, so that the package stays complete, and counted. No 3D label
is read; of a test set only what its owners give to everyone: the camera, the box, the wrist, a bone's length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handnet.centers import CenterDefinition
from handnet.hand.layer import HandLayer
from handnet.skeleton import MIDDLE_FIRST_BONE, NUM_KEYPOINTS, ROOT
from pipelines.config import SubmissionConfig
from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.evaluation.frames import Frame, crop_frame, middle_frame
from pipelines.evaluation.predicted import PredictorLike
from pipelines.progress import Progress
from pipelines.shards import ShardReader

RIGHT = 1
WRIST = 0
LOWEST_SCORE = 0.05  # the server wants a hand in every image, so a doubtful one is better than none
FALLBACK_DEPTH_M = 0.7
# the right hand from its rest pose to fingers up, back of the hand to the camera
_UPRIGHT = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])

Points = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """joints_m (N, 21, 3) std21 and vertices_m (N, 778, 3), metres, camera frame; keys of the samples; keys of those filled in."""

    joints_m: Points
    vertices_m: Points
    keys: list[str]
    missing: list[str]


def predict_all(
    reader: ShardReader,
    predictor: PredictorLike,
    config: SubmissionConfig,
    input_px: int,
    definition: CenterDefinition,
    fallback: tuple[Points, Points],
    box_scale: float | None = None,
) -> Predictions:
    """Predict every sample; `fallback`, the joints and vertices of `fallback_hand`, takes the place of hands that are not found.

    ValueError for an empty folder, or for a sample without what `config.center` or `config.place` asks for.
    """
    num = len(reader)
    if num == 0:
        raise ValueError(f"{reader.folder}: expected at least one sample, got none")
    joints_m, vertices_m = (np.tile(points, (num, 1, 1)) for points in fallback)
    keys, missing = [], []
    with Progress(f"predict {config.data}", num, "images") as progress:
        for start in range(0, num, config.batch_size):
            indices = range(start, min(start + config.batch_size, num))
            samples = [reader.read(index, labels_3d=False) for index in indices]
            frames = [frame_of(sample, config, input_px, definition, box_scale) for sample in samples]
            predictions = _predict(predictor, frames, all_right=config.center in ("middle", "box"))
            for index, sample, hands in zip(indices, samples, predictions, strict=True):
                keys.append(sample.key)
                hand = best_hand(hands)
                if hand is None:
                    missing.append(sample.key)
                else:
                    joints_m[index], vertices_m[index] = hand.keypoints_m, hand.vertices_m
                joints_m[index], vertices_m[index] = placed(joints_m[index], vertices_m[index], sample, config)
            progress.advance(len(samples))
    return Predictions(joints_m=joints_m, vertices_m=vertices_m, keys=keys, missing=missing)


def frame_of(
    sample: HandSample, config: SubmissionConfig, input_px: int, definition: CenterDefinition, box_scale: float | None = None
) -> Frame:
    """What the network is shown: the whole image where it finds the hand itself, else a crop around where the hand is said to be.

    center "label": the true centre, of data of one's own; the image's middle where no hand is labelled.
    """
    if config.center == "predicted":
        return middle_frame(sample, input_px, center_given=False)
    if config.center == "middle" or (config.center == "label" and not sample.hands):
        return middle_frame(sample, input_px, center_given=True)
    hand = _only_hand(sample, f"center: {config.center}")
    if config.center == "box":
        center = (hand.box_px[:2] + hand.box_px[2:]) / 2
        hand = replace(hand, keypoints_px=np.tile(center, (NUM_KEYPOINTS, 1)), visible=np.ones(NUM_KEYPOINTS, bool))
    return crop_frame(sample, hand, input_px, definition, box_scale)


def placed(joints_m: Points, vertices_m: Points, sample: HandSample, config: SubmissionConfig) -> tuple[Points, Points]:
    """A hand, (21, 3) and (778, 3), brought to where the test set's owners say it is.

    place "scale": enlarged from the camera until the middle finger's first bone has the given length, so that it looks the
    same in the image; "wrist": moved until the wrist is where it is given; "predicted": as it is.
    """
    if config.place == "predicted":
        return joints_m, vertices_m
    hand = _only_hand(sample, f"place: {config.place}")
    given = hand.given_scale_m if config.place == "scale" else hand.given_wrist_m
    if given is None:
        raise ValueError(f"sample {sample.key}: place: {config.place}: the dataset gives none; expected shards of the evaluation split")
    if config.place == "wrist":
        offset = np.asarray(given) - joints_m[WRIST]
        return joints_m + offset, vertices_m + offset
    start, end = MIDDLE_FIRST_BONE
    factor = np.float32(given / max(float(np.linalg.norm(joints_m[end] - joints_m[start])), 1e-6))
    return joints_m * factor, vertices_m * factor


def _only_hand(sample: HandSample, purpose: str) -> HandLabel:
    if len(sample.hands) != 1:
        raise ValueError(f"sample {sample.key}: {purpose}: expected one hand, got {len(sample.hands)}")
    return sample.hands[0]


def _predict(predictor: PredictorLike, frames: list[Frame], *, all_right: bool) -> list[list[Any]]:
    """all_right: the hands are right ones, as everyone is told of the servers' test sets; else the network says it."""
    centers = [frame.centers_px for frame in frames if frame.centers_px is not None]
    return predictor.predict(
        np.stack([frame.image for frame in frames]),
        np.stack([frame.K for frame in frames]),
        centers or None,
        sides=[np.array([RIGHT])] * len(frames) if all_right else None,
        score_threshold=LOWEST_SCORE,
    )


def best_hand(hands: list[Any]) -> Any | None:
    """The best-scored right hand (the servers' hands are right ones), else the best-scored one, else None."""
    return max(hands, key=lambda hand: (hand.side == RIGHT, hand.score), default=None)


def fallback_hand(layer: HandLayer, convention: str) -> tuple[Points, Points]:
    """(21, 3) joints and (778, 3) vertices of the mean right hand, upright, 0.7 m in front of the camera."""
    with torch.no_grad():
        hand = layer(
            torch.eye(3)[None],
            torch.zeros(1, 45),
            torch.zeros(1, 10),
            torch.tensor([RIGHT]),
            flat_hand_mean=False,
            center_joint=ROOT,
            joints=convention,
        )
    position = np.array([0.0, 0.0, FALLBACK_DEPTH_M])
    joints, vertices = (points[0].double().numpy() @ _UPRIGHT.T + position for points in (hand.joints, hand.vertices))
    return joints.astype(np.float32), vertices.astype(np.float32)
