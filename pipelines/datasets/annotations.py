"""Large JSON lists of numbers as arrays: read as a stream, one entry at a time, and kept as npy files beside the shards.

FreiHAND's training vertices are more than a gigabyte of text; parsed at once they would take several times that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.datasets.sample import DataError
from pipelines.datasets.source_files import SourceFiles
from pipelines.shards.manifest import whole_file

CHUNK = 1 << 22
_OPEN, _CLOSE, _COMMA, _QUOTE = (ord(c) for c in '[],"')


def iter_entries(stream: BinaryIO, where: str) -> Iterator[bytes]:
    """The entries of a JSON list of (nested lists of) numbers, as bytes, without holding the whole text.

    DataError, naming `where` and the entry, for text that is no such list or ends too early.
    """
    depth = 0
    rest = b""
    count = 0
    started = ended = False
    while chunk := stream.read(CHUNK):
        if not started:
            chunk = chunk.lstrip()
            if not chunk:
                continue
            if chunk[0] != _OPEN:
                raise DataError(f"{where}: expected a JSON list, got {chunk[:20]!r}")
            started, depth, chunk = True, 1, chunk[1:]
        if ended and chunk.strip():
            raise DataError(f"{where}: text after the end of the list")
        codes = np.frombuffer(chunk, np.uint8)
        if (codes == _QUOTE).any():
            raise DataError(f"{where}: after entry {count - 1}: expected numbers only, got text")
        depths = depth + np.cumsum((codes == _OPEN).astype(np.int32) - (codes == _CLOSE))
        cuts = np.flatnonzero(((codes == _COMMA) & (depths == 1)) | ((codes == _CLOSE) & (depths == 0)))
        begin = 0
        for cut in cuts:
            entry = (rest + chunk[begin:cut]).strip()
            rest, begin = b"", int(cut) + 1
            if depths[cut] == 0:
                ended = True
                if entry:
                    yield entry
                    count += 1
                break
            yield entry
            count += 1
        rest += chunk[begin:]
        depth = int(depths[-1]) if len(depths) else depth
    if not ended:
        raise DataError(f"{where}: truncated after entry {count - 1}")
    if rest.strip():
        raise DataError(f"{where}: text after the end of the list")


def load_annotations(files: SourceFiles, name: str, shape: tuple[int, ...], cache: Path, *, dtype: type = np.float32) -> NDArray:
    """The list in JSON file `name` as (N, *shape), memory-mapped from an npy in folder `cache` that is made when missing.

    Entries that are null are NaN in the result. DataError names file and entry for other shapes and for what is not JSON.
    """
    where = files.where(name)
    key = hashlib.sha256(f"{where} {files.stamp(name)} {shape} {dtype}".encode()).hexdigest()[:16]
    path = cache / f"{Path(name).stem}-{key}.npy"
    if not path.is_file():
        rows = []
        with files.open(name) as stream:
            for number, text in enumerate(iter_entries(stream, where)):
                rows.append(_parse(text, shape, dtype, f"{where}: entry {number}"))
        cache.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as out:
            np.save(out, np.stack(rows) if rows else np.empty((0, *shape), dtype), allow_pickle=False)
    array: NDArray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _parse(text: bytes, shape: tuple[int, ...], dtype: type, where: str) -> NDArray:
    try:
        # Python's writers put NaN where JSON has no word for it
        tree = orjson.loads(text.replace(b"NaN", b"null"))
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    if tree is None:
        return np.full(shape, np.nan, dtype)
    try:
        array: NDArray = np.array(tree, dtype)  # a null inside becomes NaN
    except (ValueError, TypeError):
        raise DataError(f"{where}: expected numbers of shape {shape}, got rows of different lengths") from None
    if array.shape != shape:
        raise DataError(f"{where}: expected numbers of shape {shape}, got shape {array.shape}")
    return array


def checked(array: NDArray, entry: int, where: str) -> NDArray:
    """Entry `entry` of an annotation array. DataError if it is missing or holds NaN or infinities."""
    if entry >= len(array):
        raise DataError(f"{where}: entry {entry}: missing; the file has {len(array)}")
    values: NDArray = np.array(array[entry])
    if not np.isfinite(values).all():
        raise DataError(f"{where}: entry {entry}: expected finite numbers, got {int((~np.isfinite(values)).sum())} null, NaN or infinite")
    return values
