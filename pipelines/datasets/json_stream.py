"""Large JSON files read as a stream: objects one at a time, within memory that does not grow with the file.

Python's writers put NaN and Infinity where JSON has no word for them; they are read as null.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO
from zipfile import BadZipFile

import ijson

from pipelines.datasets.sample import DataError

CHUNK = 1 << 18
MAX_DEPTH = 32
Scalar = float | int | str | bool | None
_NOT_A_NUMBER = re.compile(rb"(?:^|(?<=[\[:,\s]))-?(?:NaN|Infinity)(?=[\],}\s])")
_WORD_AT_END = re.compile(rb"[-\w]*\Z")
_LONGEST_WORD = 16  # longer than what is looked for


class _FiniteJson:
    """A stream of JSON with NaN and infinities replaced by null, whatever the chunks are cut like."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.rest = b""  # a word at the end of the last chunk, which may go on in the next

    def read(self, size: int = -1) -> bytes:
        if size == 0:  # how ijson asks whether this is bytes or text
            return b""
        while True:
            chunk = self.stream.read(CHUNK if size < 0 else size)
            text = self.rest + chunk
            word = _WORD_AT_END.search(text[-_LONGEST_WORD:])
            held = len(word[0]) if word and chunk else 0
            self.rest = text[len(text) - held :] if 0 < held < _LONGEST_WORD else b""
            ready = text[: len(text) - len(self.rest)]
            if ready or not chunk:
                return _NOT_A_NUMBER.sub(b"null", ready) if b"NaN" in ready or b"Infinity" in ready else ready


def iter_items(stream: BinaryIO, prefix: str, where: str) -> Iterator[Any]:
    """The objects at `prefix` (ijson's, such as "images.item"), each built as plain Python values.

    DataError, naming `where`, for what is not JSON or ends too early.
    """
    with _errors_named(where):
        yield from ijson.items(_FiniteJson(stream), prefix, use_float=True, buf_size=CHUNK)


def iter_flat_objects(stream: BinaryIO, where: str) -> Iterator[tuple[tuple[str, ...], dict[str, list[Scalar]]]]:
    """Every object that holds no other object: the keys that lead to it, and its fields as flat lists of their numbers or text.

    {"a": {"7": {"x": [[1, 2], [3, 4]], "y": "z"}}} gives ("a", "7"), {"x": [1, 2, 3, 4], "y": ["z"]}; lists on the way add no key.
    Several times as fast as building the objects. DataError, naming `where`, for what is not JSON or ends too early.
    """
    keys: list[str] = []  # of the object being read, and of those around it
    holds_objects: list[bool] = []
    fields: dict[str, list[Scalar]] = {}
    values: list[Scalar] = []
    with _errors_named(where):
        for event, value in ijson.basic_parse(_FiniteJson(stream), use_float=True, buf_size=CHUNK):
            if event == "number":
                values.append(value)
            elif event == "map_key":
                values = fields[value] = []
                keys[-1] = value
            elif event == "start_map":
                if holds_objects:
                    holds_objects[-1] = True
                if len(keys) >= MAX_DEPTH:
                    raise DataError(f"{where}: expected objects at most {MAX_DEPTH} deep")
                keys.append("")
                holds_objects.append(False)
                fields = {}
            elif event == "end_map":
                keys.pop()
                if not holds_objects.pop():
                    yield tuple(keys), fields
                fields, values = {}, []
            elif event in ("null", "boolean", "string"):
                values.append(value)


class _errors_named:
    """What a broken file or archive raises, as a DataError that names it."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, ijson.IncompleteJSONError):
            raise DataError(f"{self.where}: JSON that ends too early or is not valid: {_first_line(error)}") from None
        if isinstance(error, ijson.JSONError | UnicodeDecodeError):
            raise DataError(f"{self.where}: not valid JSON: {_first_line(error)}") from None
        if isinstance(error, BadZipFile | EOFError | OSError | zlib.error):
            raise DataError(f"{self.where}: cannot be read: {error}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
