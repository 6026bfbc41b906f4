"""Arrays parsed out of hand model files, kept under $XDG_CACHE_HOME/handnet (or ~/.cache/handnet) by the file's checksum.

An entry carries a checksum of its own arrays: one that is damaged, or belongs to another file, is built again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.npz import read_npz, save_arrays

Arrays = dict[str, NDArray[Any]]

# Part of an entry's name: raise it when the parser gives something else for the same file.
_FORMAT: Final = 1
_CHECKSUM: Final = "checksum"
_LOG = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where entries are kept; $XDG_CACHE_HOME counts only if it is absolute, as its specification asks."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "handnet" / "mano"


def entry_path(data: bytes) -> Path:
    """The entry of a file with this content."""
    return cache_folder() / f"{hashlib.sha256(data).hexdigest()}-{_FORMAT}.npz"


def parsed(data: bytes, parse: Callable[[bytes], Arrays]) -> Arrays:
    """`parse(data)`, or what it gave before for the same bytes.

    A cache that can't be written costs time only: it is logged, and the arrays are returned all the same.
    """
    entry = entry_path(data)
    kept = _read(entry)
    if kept is not None:
        return kept
    arrays = parse(data)
    try:
        save_arrays(entry, arrays | {_CHECKSUM: np.array(_checksum(entry.name, arrays))}, compressed=False)
    except OSError as error:
        _LOG.warning("%s: can't be written (%s): the hand model will be parsed again next time", entry, error)
    return arrays


def _read(entry: Path) -> Arrays | None:
    if not entry.is_file():
        return None
    try:
        arrays = read_npz(entry)
    except (ValueError, OSError) as error:
        _LOG.warning("%s: damaged, built again (%s)", entry, error)
        return None
    checksum = arrays.pop(_CHECKSUM, np.array(""))
    if str(checksum) != _checksum(entry.name, arrays):
        _LOG.warning("%s: damaged, built again (its checksum is another)", entry)
        return None
    return arrays


def _checksum(name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Over the entry's name too, so that a renamed entry is not taken for another file's."""
    digest = hashlib.sha256(name.encode())
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
