"""The files an evaluation leaves: metrics for DVC to compare, strata, PCK curves, some predictions to draw."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.evaluation.predicted import PredictedHands

SIGNIFICANT_DIGITS = 5


def rounded(value: float) -> float | int:
    """A number to 5 significant digits; whole numbers as int."""
    number = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return int(number) if number == value and float(value).is_integer() and abs(value) < 1e15 else number


def write_metrics(path: Path, metrics: Mapping[str, Mapping[str, float | Sequence[float]]]) -> None:
    """Nested figures and intervals as JSON, in the order given: counts whole, the rest to 5 significant digits."""
    tree = {
        group: {name: int(value) if group == "count" else _rounded_all(value) for name, value in figures.items()}  # type: ignore[arg-type]
        for group, figures in metrics.items()
    }
    write_json(path, tree)


def _rounded_all(value: float | Sequence[float]) -> float | list[float]:
    return [float(rounded(number)) for number in value] if isinstance(value, Sequence) else float(rounded(value))


def write_json(path: Path, tree: object) -> None:
    """Indented JSON, keys in the order given."""
    text = orjson.dumps(tree, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    _replace(path, lambda partial: partial.write_bytes(text))


def write_curve(path: Path, columns: Mapping[str, NDArray]) -> None:
    """Columns of one length as a CSV file with a header, 6 significant digits."""
    lines = [",".join(columns)]
    lines += [",".join(f"{value:.6g}" for value in row) for row in zip(*columns.values(), strict=True)]
    _replace(path, lambda partial: partial.write_text("\n".join(lines) + "\n"))


def write_predictions(path: Path, keys: Sequence[str], predicted: Sequence[PredictedHands], colors: Sequence[Sequence[Any]]) -> None:
    """Predictions of a few images, to be drawn: everything in the image's own pixels or in metres of its camera frame.

    One row per hand: image (its place in `keys`), side, score, center_px, keypoints_px, keypoints_m, vertices_m, K, and
    albedo (778, 3) and light (27,), NaN where the network predicts none. `keys` names the images. `colors` holds, per image
    and hand, objects with `albedo` and `light`.
    """
    flat = [color for of_image in colors for color in of_image]
    missing = {"albedo": np.full((778, 3), np.nan), "light": np.full(27, np.nan)}
    arrays: dict[str, NDArray] = {
        "keys": np.array(keys, dtype=np.str_),
        "image": np.repeat(np.arange(len(keys)), [len(p) for p in predicted]),
    }
    for name in ("side", "score", "center_px", "keypoints_px", "keypoints_m", "vertices_m", "K"):
        values = [getattr(p, name) for p in predicted]
        joined = np.concatenate(values) if values else np.zeros(0)
        arrays[name] = joined.astype(np.float32) if joined.dtype == np.float64 else joined
    for name, shape in (("albedo", (778, 3)), ("light", (27,))):
        rows = [missing[name] if getattr(color, name) is None else getattr(color, name) for color in flat]
        arrays[name] = np.array(rows, np.float32).reshape(-1, *shape)

    def save(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    _replace(path, save)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name in the same folder, then give it its own; nothing is left on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """A temporary name for `path`, beside it, so that renaming it is atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
