"""Writes a package: pred.json at the root of a zip, streamed, 5 decimals (10 um), the same bytes for the same predictions.

It takes its final name only after the checker has read it back; on failure nothing is left behind.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS
from pipelines.progress import Progress
from pipelines.submission.checking import find_problems
from pipelines.submission.layouts import NUM_VERTICES, Layout
from pipelines.submission.reading import MEMBER

DECIMALS = 5
_TIME_STAMP = (1980, 1, 1, 0, 0, 0)
_SAMPLES_A_WRITE = 64


def write_package(path: Path, joints_m: NDArray[np.floating], vertices_m: NDArray[np.floating], layout: Layout) -> list[str]:
    """Write N predictions, (N, 21, 3) std21 and (N, 778, 3), metres, OpenCV camera frame, as `path` (pred.zip).

    Returns the checker's doubts (such as hands partly behind the camera), which the server does not mind. Raises
    ValueError for wrong shapes, NaN, or a package that the checker finds not to be of the layout's form.
    """
    num = len(joints_m)
    for name, points, num_points in (("joints_m", joints_m, NUM_KEYPOINTS), ("vertices_m", vertices_m, NUM_VERTICES)):
        if points.shape != (num, num_points, 3) or num == 0:
            raise ValueError(f"{name}: expected shape (N, {num_points}, 3), the same N > 0 for joints and vertices, got {points.shape}")
        bad = ~np.isfinite(points).all(axis=(1, 2))
        if bad.any():
            raise ValueError(
                f"{name}: expected finite numbers, got NaN or infinity in {int(bad.sum())} samples, the first {int(np.argmax(bad))}"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        info = zipfile.ZipInfo(MEMBER, _TIME_STAMP)
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        with (
            Progress(f"pack {MEMBER}", 2 * num, "lists of points") as progress,
            zipfile.ZipFile(partial, "w") as archive,
            archive.open(info, "w", force_zip64=True) as stream,
        ):
            for text, num_done in _json_texts(joints_m, vertices_m, layout):
                stream.write(text)
                progress.advance(num_done)
        problems = find_problems(partial, layout, num)
        wrong = [problem.text for problem in problems if not problem.is_doubt]
        if wrong:
            raise ValueError(f"{path}: the package would not be accepted: {'; '.join(wrong)}")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return [problem.text for problem in problems]


def _json_texts(joints_m: NDArray[np.floating], vertices_m: NDArray[np.floating], layout: Layout) -> Iterator[tuple[bytes, int]]:
    """Pieces of the file, each with the number of samples it completes."""
    yield b"[", 0
    for number, (points, convert) in enumerate(((joints_m, layout.joints), (vertices_m, layout.vertices))):
        yield b",[" if number else b"[", 0
        for start in range(0, len(points), _SAMPLES_A_WRITE):
            # adding 0 turns -0.0, which rounding makes, into 0.0
            rounded = np.round(convert(points[start : start + _SAMPLES_A_WRITE]), DECIMALS) + 0.0
            text = orjson.dumps(np.ascontiguousarray(rounded), option=orjson.OPT_SERIALIZE_NUMPY)
            yield (b"," if start else b"") + text[1:-1], len(rounded)
        yield b"]", 0
    yield b"]", 0
