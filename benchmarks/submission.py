"""Packing, checking and scoring a whole submission: `python -m benchmarks.submission [LAYOUT] [SAMPLES]` (default ho3d, its 11,524).

Prints seconds and peak memory of each, the sizes before and after zipping, and how far the scores move by the rounding.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handnet.hand.layer import HandLayer
from pipelines.submission.checking import check_submission
from pipelines.submission.layouts import LAYOUTS
from pipelines.submission.packing import write_package
from pipelines.submission.predicting import fallback_hand
from pipelines.submission.scoring import score_submission

MIB = 1 << 20
# the peak as the process itself sees it: what the system tells of children includes the parent's memory when they were started
COMMAND = """
from pipelines.cli import app
app(standalone_mode=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
Result = TypeVar("Result")


def timed(name: str, work: Callable[[], Result]) -> Result:
    """Run once and print the seconds it took and the most memory the process has used so far."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:34s} {seconds:7.1f} s   peak {peak:6.0f} MiB   processor {processor:.1f} s", flush=True)
    return result


def make_hands(num: int, noise_m: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints and vertices of turned right hands in front of the camera, std21, OpenCV, with noise on the vertices."""
    joints, vertices = fallback_hand(HandLayer(), "ho3d")
    slowly = np.sin(np.arange(num)[:, None] / [50.0, 70.0, 90.0]) * 0.5  # neighbours are frames of one video
    turns = Rotation.from_rotvec(slowly).as_matrix().astype(np.float32)
    position = joints[9]
    rng = np.random.default_rng(seed)
    turned = [(points - position) @ turns.transpose(0, 2, 1) + position for points in (joints, vertices)]
    return tuple(points + rng.normal(0, noise_m, points.shape).astype(np.float32) for points in turned)  # type: ignore[return-value]


def measure_command(folder: Path, package: Path, truth: tuple[NDArray[np.float64], NDArray[np.float64]], name: str) -> None:
    """`handnet score` as a process of its own, with the truth in files at full precision."""
    for kind, points in zip(("xyz", "verts"), truth, strict=True):
        with (folder / f"evaluation_{kind}.json").open("wb") as file:
            for i, sample in enumerate(points):
                file.write(b"," if i else b"[")
                file.write(orjson.dumps(np.ascontiguousarray(sample), option=orjson.OPT_SERIALIZE_NUMPY))
            file.write(b"]")
    print(f"{'evaluation_verts.json':34s} {(folder / 'evaluation_verts.json').stat().st_size / MIB:7.1f} MiB")
    command = [sys.executable, "-c", COMMAND, "score", str(package), "--gt", str(folder), "--layout", name]
    start = time.perf_counter()
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]) / 1024
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime
    print(f"{'handnet score':34s} {time.perf_counter() - start:7.1f} s   peak {peak:6.0f} MiB   processor {processor:.1f} s", flush=True)


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
        measure_command(Path(folder), path, in_layout, name)
        read_back = timed("read and score", lambda: score_submission(path, *in_layout, name))
    in_memory = layout.joints(predicted[0]), layout.vertices(predicted[1])
    exact = score_submission(in_memory, *in_layout, name).server
    print(f"{'largest change of a score':34s} {max(abs(read_back.server[key] - exact[key]) for key in exact):.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *(int(argument) for argument in sys.argv[2:3]))
