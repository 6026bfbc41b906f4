"""Named arrays in .npz files: read without unpickling anything, written whole or not at all."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of an .npz, without unpickling anything; ValueError names the file and the array that can't be read."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected a readable .npz archive, got a file that is not a zip, or only part of one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = {}
            for key in file.files:
                try:
                    arrays[key] = file[key]
                except ValueError as error:
                    raise ValueError(f"{path}: {key}: expected a plain array, got a pickled object or a damaged one ({error})") from error
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: expected a readable .npz archive, got {error}") from error


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, compressed: bool = True) -> None:
    """Write an .npz under a temporary name, then rename it; the same arrays give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, allow_pickle=False, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
