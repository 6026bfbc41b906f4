"""Stage entry point: python -m pipelines.speed. Time against the number of hands in an image (the paper's Fig. 9).

Writes results/speed.json: ours in one pass over the whole image, beside the same trunk run over a crop of every hand.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from handnet.centers import find_peaks
from handnet.predict import Predictor
from pipelines.augment import warp_image
from pipelines.config import SpeedConfig, load_params
from pipelines.evaluation.frames import Frame, middle_frame
from pipelines.shards import ShardReader
from pipelines.shards.manifest import write_atomic
from pipelines.stage_command import run_stage, usage_error

DATA, MODELS, RESULTS = Path("data"), Path("models"), Path("results")
SPEED = RESULTS / "speed.json"
SERIES = ("one_pass_ms", "crop_loop_ms", "crop_batch_ms")
HAND_FRACTION = 0.25  # side of a hand's crop as a share of the frame; the time does not depend on it
WARM_UP = 1

Image = NDArray[np.uint8]
Key = TypeVar("Key")


def measure_speed(config: SpeedConfig, device: str) -> dict[str, Any]:
    """Milliseconds per image for each number of hands, and what they were measured on. ValueError for unusable data or models.

    one_pass_ms: models/multi finds that many hands in the image (its highest peaks) and reconstructs them. crop_loop_ms and
    crop_batch_ms: models/crop on a crop of each, one after the other or in one batch; the boxes are given, so the detector that
    such a pipeline needs beside it is not counted.
    """
    multi, crop = Predictor.load(MODELS / "multi", device), Predictor.load(MODELS / "crop", device)
    frame = middle_frame(ShardReader(DATA / config.data).read(0, labels_3d=False), multi.description.input_px, center_given=False)
    centers = peaks_px(multi, frame.image, max(config.hands))
    counts = [num for num in config.hands if num <= len(centers)]
    if not counts:
        raise ValueError(f"models/multi: expected {min(config.hands)} peaks or more in its centre map, got {len(centers)}")
    runs = {(num, name): run for num in counts for name, run in _runs(multi, crop, frame, centers[:num]).items()}
    best = best_ms(runs, config.repeats)
    return {
        "machine": machine(multi.device),
        "models": {name: _model(predictor) for name, predictor in (("multi", multi), ("crop", crop))},
        "repeats": config.repeats,
        "hands": counts,
        **{name: [round(best[num, name], 3) for num in counts] for name in SERIES},
    }


def peaks_px(predictor: Predictor, image: Image, num: int) -> NDArray[np.float32]:
    """(n, 2) the `num` highest peaks of the centre map, however low, in pixels of `image`; fewer if the map has no more."""
    pixels = torch.from_numpy(image).to(predictor.device).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        heatmap = predictor.network.dense(pixels).center.float().sigmoid()
    peaks: NDArray[np.float32] = find_peaks(heatmap, predictor.network.stride, 0.0, num).centers_px.cpu().numpy()
    return peaks


def best_ms(runs: Mapping[Key, Callable[[], object]], repeats: int) -> dict[Key, float]:
    """Least milliseconds of each, taken in turns so that a disturbance meets them all."""
    best = dict.fromkeys(runs, float("inf"))
    for repeat in range(WARM_UP + repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat >= WARM_UP:
                best[name] = min(best[name], 1000 * (time.perf_counter() - started))
    return best


def machine(device: torch.device) -> dict[str, Any]:
    """What the times were taken on: processor, CPUs that this process may use, threads, device, version of torch."""
    on_gpu = device.type == "cuda"
    return {
        "cpu": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "torch": torch.__version__,
    }


def _runs(multi: Predictor, crop: Predictor, frame: Frame, centers_px: NDArray[np.float32]) -> dict[str, Callable[[], object]]:
    num, side = len(centers_px), frame.image.shape[0] * HAND_FRACTION
    input_px = crop.description.input_px
    zoom = input_px / side
    K = frame.K[None].astype(np.float32)
    middle = [np.full((1, 2), input_px / 2, np.float32)] * num

    def crops() -> tuple[Image, NDArray[np.float32]]:
        affines = [np.array([[zoom, 0, input_px / 2 - zoom * x], [0, zoom, input_px / 2 - zoom * y]]) for x, y in centers_px]
        images = [warp_image(frame.image, affine, input_px) for affine in affines]
        cameras = [np.vstack([affine, [0, 0, 1]]) @ frame.K for affine in affines]
        return np.stack(images), np.stack(cameras).astype(np.float32)

    def loop() -> None:
        images, cameras = crops()
        for i in range(num):
            crop.predict(images[i : i + 1], cameras[i : i + 1], middle[:1])

    return {
        "one_pass_ms": lambda: multi.predict(frame.image[None], K, score_threshold=0.0, max_hands=num),
        "crop_loop_ms": loop,
        "crop_batch_ms": lambda: crop.predict(*crops(), middle),
    }


def _model(predictor: Predictor) -> dict[str, Any]:
    description = predictor.description
    return {"fingerprint": description.fingerprint, "backbone": description.network.backbone, "input_px": description.input_px}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def speed() -> Path:
    """Measure and write; the file."""
    measured = measure_speed(load_params().speed, "cuda" if torch.cuda.is_available() else "cpu")
    SPEED.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(SPEED, orjson.dumps(measured, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return SPEED


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if arguments:
        return usage_error("python -m pipelines.speed")
    return run_stage(speed, interrupted="nothing was measured to the end, run it again")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
