"""Packing, checking and scoring a whole submission: `python -m benchmarks.submission [LAYOUT] [SAMPLES]` (default ho3d, its 11,524).

Prints seconds and peak memory of each, the sizes before and after zipping, and how far the scores move by the rounding.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handnet.hand.layer import HandLayer
from pipelines.submission.checking import check_submission
from pipelines.submission.layouts import LAYOUTS
from pipelines.submission.packing import write_package
from pipelines.submission.predicting import fallback_hand
from pipelines.submission.scoring import score_submission

MIB = 1 << 20
Result = TypeVar("Result")


def timed(name: str, work: Callable[[], Result]) -> Result:
    """Run once and print the seconds it took and the most memory the process has used so far."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(f"{name:34s} {seconds:7.1f} s   peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:6.0f} MiB", flush=True)
    return result


def make_hands(num: int, noise_m: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints and vertices of turned right hands in front of the camera, std21, OpenCV, with noise on the vertices."""
    joints, vertices = fallback_hand(HandLayer(), "ho3d")
    turns = Rotation.from_rotvec(np.random.default_rng(0).normal(0, 0.3, (num, 3))).as_matrix().astype(np.float32)
    position = joints[9]
    rng = np.random.default_rng(seed)
    turned = [(points - position) @ turns.transpose(0, 2, 1) + position for points in (joints, vertices)]
    return tuple(points + rng.normal(0, noise_m, points.shape).astype(np.float32) for points in turned)  # type: ignore[return-value]


def main(name: str = "ho3d", num: int | None = None) -> None:
    """Time each step on `num` hands, by default as many as the layout's server wants."""
    layout = LAYOUTS[name]
    num = num or layout.num_samples
    predicted, truth = make_hands(num, 0.002, 1), make_hands(num, 0.0, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pred.zip"
        timed(f"pack and check, {num:,} samples", lambda: write_package(path, *predicted, layout))
        with zipfile.ZipFile(path) as archive:
            print(f"{'pred.json':34s} {archive.getinfo('pred.json').file_size / MIB:7.1f} MiB, zipped {path.stat().st_size / MIB:.1f} MiB")
        problems = timed("check", lambda: check_submission(path, name, num))
        print(f"{'findings':34s} {len(problems)} {problems}")
        in_layout = layout.joints(truth[0]), layout.vertices(truth[1])
        read_back = timed("read and score", lambda: score_submission(path, *in_layout, name))
    in_memory = layout.joints(predicted[0]), layout.vertices(predicted[1])
    exact = score_submission(in_memory, *in_layout, name).server
    print(f"{'largest change of a score':34s} {max(abs(read_back.server[key] - exact[key]) for key in exact):.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *(int(argument) for argument in sys.argv[2:3]))
