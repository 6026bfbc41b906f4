"""Time and memory of measuring beside predicting: `python -m benchmarks.evaluation [IMAGES] [--whole]` (default 3,960 images of one hand).

Prints processor seconds of everything that an evaluation does after the network (matching, alignments, the table, intervals,
strata), the memory each part added to the peak, and the seconds that the demo's network alone takes for as many crops.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from handnet.hand.layer import HandLayer
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.skeleton import ROOT
from pipelines.config import load_params
from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.matching import match_given, match_keypoints
from pipelines.evaluation.mean_hand import MeanHand, posed_mean_hand
from pipelines.evaluation.predicted import PredictedHands
from pipelines.evaluation.runner import EvaluatedImage
from pipelines.evaluation.table import HandColumns, HandTable
from pipelines.preset import preset_path

NUM_POSES, IMAGE_PX, INPUT_PX, BATCH = 64, 224, 128, 32


def labels() -> list[HandLabel]:
    """Random hands in front of one camera."""
    rng = np.random.default_rng(0)
    layer = HandLayer()
    angles, betas = (
        torch.from_numpy(rng.normal(0, 0.3, (NUM_POSES, 48))).float(),
        torch.from_numpy(rng.normal(0, 1, (NUM_POSES, 10))).float(),
    )
    with torch.no_grad():
        out = layer(angles[:, :3], angles[:, 3:], betas, torch.ones(NUM_POSES, dtype=torch.int64), center_joint=ROOT)
    K = np.array([[450.0, 0, IMAGE_PX / 2], [0, 450.0, IMAGE_PX / 2], [0, 0, 1]])
    hands = []
    for joints, vertices in zip(out.joints.numpy() + [0, 0, 0.6], out.vertices.numpy() + [0, 0, 0.6], strict=True):
        pixels = joints @ K.T
        keypoints = pixels[:, :2] / pixels[:, 2:]
        box = np.concatenate([keypoints.min(0), keypoints.max(0)])
        hands.append(
            HandLabel(
                side=1,
                keypoints_px=keypoints,
                visible=np.ones(21, bool),
                box_px=box,
                K=K,
                keypoints_m=joints,
                vertices_m=vertices,
                source_id="made up",
            )
        )
    return hands


def predicted(hand: HandLabel, rng: np.random.Generator) -> PredictedHands:
    """The label with noise."""
    assert hand.keypoints_m is not None
    assert hand.vertices_m is not None
    keypoints = hand.keypoints_px.astype(np.float64) + rng.normal(0, 4, (21, 2))
    return PredictedHands(
        side=np.array([1]),
        score=rng.uniform(0.3, 1, 1),
        center_px=keypoints.mean(0)[None],
        keypoints_px=keypoints[None],
        keypoints_m=(hand.keypoints_m + rng.normal(0, 0.01, (21, 3)))[None].astype(np.float32),
        vertices_m=(hand.vertices_m + rng.normal(0, 0.01, (778, 3)))[None].astype(np.float32),
        K=hand.K[None],
        frame_px=np.array([float(IMAGE_PX)]),
    )


def measure(hands: list[HandLabel], num: int, whole: bool, folder: Path) -> tuple[list[float], list[float]]:
    """Processor seconds and MB of memory added by each half of the images, and by the figures at the end."""
    config = load_params(preset_path("demo")).evaluate["multi" if whole else "crop"]
    joints, vertices = posed_mean_hand(HandLayer())
    mean_hand = MeanHand(in_crop=np.zeros((21, 2)), in_box=np.random.default_rng(0).random((21, 2)), joints_m=joints, vertices_m=vertices)
    rng = np.random.default_rng(1)
    seconds, megabytes = [], []
    spent, before = 0.0, peak_mb()
    with HandTable(folder / "hands.parquet") as table:
        evaluator = Evaluator(mean_hand, config, input_px=INPUT_PX, definition="keypoints", table=table)
        for number in range(num):
            hand = hands[number % NUM_POSES]
            found = predicted(hand, rng)
            started = time.process_time()
            match = match_keypoints(found.keypoints_px, found.score, [hand], config.min_similarity) if whole else match_given(1)
            evaluator.add(
                EvaluatedImage(
                    key=f"{number:06d}",
                    number=number,
                    size_px=(IMAGE_PX, IMAGE_PX),
                    hands=(replace(hand),),
                    predicted=found,
                    match=match,
                    raw=[],
                )
            )
            spent += time.process_time() - started
            if number == num // 2:
                seconds.append(spent)
                megabytes.append(peak_mb() - before)
                spent, before = 0.0, peak_mb()
        started = time.process_time()
        evaluator.finish()
    seconds.append(spent + time.process_time() - started)
    megabytes.append(peak_mb() - before)
    started, before = time.process_time(), peak_mb()
    evaluator.results(HandColumns(folder / "hands.parquet"))
    seconds.append(time.process_time() - started)
    megabytes.append(peak_mb() - before)
    return seconds, megabytes


def network_seconds(num_images: int) -> float:
    """Processor seconds of the demo's trunk and dense heads for `num_images` crops: least of some batches, times their number."""
    model = load_params(preset_path("demo")).train.model.model_dump(exclude={"hand"}) | {"pretrained": "none", "batch_norm": "train"}
    network = HandNet(HandNetConfig(**model), HandLayer()).eval()
    images = torch.rand(BATCH, 3, INPUT_PX, INPUT_PX)
    times = []
    with torch.inference_mode():
        for _ in range(5):
            started = time.process_time()
            network.dense(images)
            times.append(time.process_time() - started)
    return min(times) * num_images / BATCH


def peak_mb() -> float:
    """The process's largest memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str]) -> None:
    whole = "--whole" in arguments
    numbers = [int(argument) for argument in arguments if not argument.startswith("-")]
    num = numbers[0] if numbers else 3960
    hands = labels()
    with tempfile.TemporaryDirectory() as folder:
        measure(hands, 2 * NUM_POSES, whole, Path(folder))  # compiles what is compiled
        seconds, megabytes = measure(hands, num, whole, Path(folder))
    network = network_seconds(num)
    for name, second, megabyte in zip(("first half", "second half", "figures"), seconds, megabytes, strict=True):
        print(f"{name:12s} of {num} images: {second:6.2f} s, {megabyte:+.0f} MB")
    print(f"measuring {sum(seconds):.1f} s, the demo's network alone {network:.1f} s: {sum(seconds) / network:.2f} of it")


if __name__ == "__main__":
    main(sys.argv[1:])
