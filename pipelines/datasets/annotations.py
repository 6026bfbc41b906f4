"""Large JSON lists of numbers as arrays: read as a stream, one entry at a time, and kept as npy files beside the shards.

FreiHAND's training vertices are more than a gigabyte of text; parsed at once they would take several times that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.datasets.sample import DataError
from pipelines.datasets.source_files import SourceFiles
from pipelines.shards.manifest import whole_file

CHUNK = 1 << 22
MAX_ENTRY = 16 << 20  # bytes: a list that never ends is no reason to fill the memory
_OPEN, _CLOSE = b"[]"
_BUT_STRUCTURE = bytes(code for code in range(256) if code not in b"[],")


def iter_entries(stream: BinaryIO, where: str) -> Iterator[bytes]:
    """The entries of a JSON list of (nested lists of) numbers, as bytes, without holding the whole text.

    DataError, naming `where` and the entry, for text that is no such list or ends too early.
    """
    depth = count = 0
    rest = b""
    ended = False
    while chunk := stream.read(CHUNK):
        if not depth and not ended:
            chunk = chunk.lstrip()
            if not chunk:
                continue
            if chunk[:1] != b"[":
                raise DataError(f"{where}: expected a JSON list, got {chunk[:20]!r}")
            depth, chunk = 1, chunk[1:]
        if b'"' in chunk:
            raise DataError(f"{where}: after entry {count - 1}: expected numbers only, got text")
        begin = 0
        if not ended:
            cuts, depth = _cuts(chunk, depth)
            ended = depth == 0
            for cut in cuts:
                entry = (rest + chunk[begin:cut]).strip()
                rest, begin = b"", cut + 1
                if entry or not ended or cut != cuts[-1]:
                    yield entry
                    count += 1
        rest += chunk[begin:]
        if len(rest) > MAX_ENTRY:
            raise DataError(f"{where}: entry {count}: expected at most {MAX_ENTRY:,} bytes")
        if ended and rest.strip():
            raise DataError(f"{where}: text after the end of the list")
    if not ended:
        raise DataError(f"{where}: truncated after entry {count - 1}")


def _cuts(chunk: bytes, depth: int) -> tuple[list[int], int]:
    """Where entries end in a piece of the list that starts `depth` brackets deep, and the depth at its end: 0 if the list ends here."""
    codes = np.frombuffer(chunk, np.uint8)
    brackets = np.flatnonzero((codes == _OPEN) | (codes == _CLOSE))
    depths = np.concatenate([[depth], depth + np.cumsum(np.where(codes[brackets] == _OPEN, 1, -1))])
    begins = np.concatenate([[0], brackets + 1])
    ends = np.append(brackets, len(chunk))
    cuts: list[int] = []
    for gap in np.flatnonzero(depths <= 1).tolist():  # between brackets, where the list itself goes on
        if depths[gap] == 0:
            return [*cuts, int(begins[gap]) - 1], 0
        comma = chunk.find(b",", int(begins[gap]), int(ends[gap]))
        while comma >= 0:
            cuts.append(comma)
            comma = chunk.find(b",", comma + 1, int(ends[gap]))
    return cuts, int(depths[-1])


def load_annotations(files: SourceFiles, name: str, shape: tuple[int, ...], cache: Path, *, dtype: type = np.float32) -> NDArray:
    """The list in JSON file `name` as (N, *shape), memory-mapped from an npy in folder `cache` that is made when missing.

    Entries that are null or of another shape are NaN in the result. DataError names file and entry for what is not JSON.
    """
    where = files.where(name)
    key = hashlib.sha256(f"{where} {files.stamp(name)} {shape} {dtype}".encode()).hexdigest()[:16]
    path = cache / f"{Path(name).stem}-{key}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as out, files.open(name) as stream:
            _write_rows(out, iter_entries(stream, where), shape, dtype, where)
    array: NDArray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _write_rows(out: BinaryIO, entries: Iterator[bytes], shape: tuple[int, ...], dtype: type, where: str) -> None:
    """Write an npy file one entry at a time; its header, which has the number of entries, is written again at the end."""
    header: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (0, *shape)}
    np.lib.format.write_array_header_1_0(out, header)
    start, count = out.tell(), 0
    for text in entries:
        out.write(_parse(text, shape, dtype, f"{where}: entry {count}").data)
        count += 1
    out.seek(0)
    np.lib.format.write_array_header_1_0(out, {**header, "shape": (count, *shape)})
    if out.tell() != start:  # numpy pads the header for a growing first axis
        raise DataError(f"{where}: {count} entries are too many for an npy file's header")


def _parse(text: bytes, shape: tuple[int, ...], dtype: type, where: str) -> NDArray:
    # Python's writers put NaN where JSON has no word for it
    if b"N" in text:  # found in no time, by the C library
        text = text.replace(b"NaN", b"null")
    try:
        if text.translate(None, _BUT_STRUCTURE) == _structure(shape):  # a flat list is read several times as fast
            return np.array(orjson.loads(b"[%b]" % text.translate(None, b"[]")), dtype).reshape(shape)
        tree = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    try:
        array: NDArray = np.array(tree, dtype)  # a null inside becomes NaN
    except (ValueError, TypeError):  # rows of different lengths
        return np.full(shape, np.nan, dtype)
    return array if array.shape == shape else np.full(shape, np.nan, dtype)


@lru_cache(maxsize=16)
def _structure(shape: tuple[int, ...]) -> bytes:
    """The brackets and commas of a JSON list of lists of numbers, and nothing else: (2, 3) -> [[,,],[,,]]."""
    text = b""
    for length in reversed(shape):
        text = b"[%b]" % b",".join([text] * length)
    return text


def checked(array: NDArray, entry: int, where: str) -> NDArray:
    """Entry `entry` of an annotation array. DataError if it is missing, was of another shape, or holds NaN or infinities."""
    if entry >= len(array):
        raise DataError(f"{where}: entry {entry}: missing; the file has {len(array)}")
    values: NDArray = np.array(array[entry])
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(f"{where}: entry {entry}: expected finite numbers of shape {values.shape}, got {bad} missing, NaN or infinite")
    return values
