"""Reads lists of samples out of a JSON stream one sample at a time, so that hundreds of megabytes never become Python lists.

Nothing in the file can make it grow: samples, their number and what lies between them are bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO

import numpy as np
import orjson
from numpy.typing import NDArray

MAX_SAMPLE_BYTES = 1 << 20  # 778 points at full precision take 60 kB
MAX_SAMPLES = 50_000  # more than twice the largest evaluation set
MAX_SKELETON_BYTES = 1 << 24
_CHUNK = 1 << 22
_BLOCK = 1024
_OPEN, _CLOSE = ord("["), ord("]")


class TooLargeError(ValueError):
    """The file holds more than any package may."""


class SampleTexts:
    """Iterates over (list number, JSON text of one sample); `skeleton` is then the file with every sample replaced by null.

    sample_depth: how many brackets are open inside a sample's first; 3 for [[sample, ...], [sample, ...]], 2 for
    [sample, ...]. Raises TooLargeError as soon as a bound is passed.
    """

    def __init__(self, stream: IO[bytes], sample_depth: int = 3) -> None:
        self.stream = stream
        self.sample_depth = sample_depth
        self.skeleton = bytearray()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        depth, list_number, num = 0, -1, 0
        inside, lists = self.sample_depth, self.sample_depth - 1
        sample = bytearray()
        while chunk := self.stream.read(_CHUNK):
            codes = np.frombuffer(chunk, np.uint8)
            places = np.flatnonzero((codes == _OPEN) | (codes == _CLOSE))
            steps = np.where(codes[places] == _OPEN, 1, -1)
            depths = depth + np.cumsum(steps)
            # samples open at depth `inside` and close down to the depth at which their list opened
            edges = np.flatnonzero(((steps == 1) & ((depths == inside) | (depths == lists))) | ((steps == -1) & (depths == lists)))
            at = 0
            for edge in edges.tolist():
                place, step, after = int(places[edge]), int(steps[edge]), int(depths[edge])
                if step == 1 and after == lists:
                    list_number, num = list_number + 1, 0
                elif step == 1:
                    self._outside(chunk[at:place])
                    at = place
                else:
                    sample += chunk[at : place + 1]
                    at = place + 1
                    self._outside(b"null")
                    num += 1
                    self._check(sample, num)
                    yield list_number, bytes(sample)
                    sample = bytearray()
            depth = int(depths[-1]) if len(depths) else depth
            if depth >= inside:
                sample += chunk[at:]
                self._check(sample, num)
            else:
                self._outside(chunk[at:])
        self._outside(bytes(sample))  # a sample that never closed: the skeleton will not parse

    def _check(self, sample: bytearray, num: int) -> None:
        if len(sample) > MAX_SAMPLE_BYTES:
            raise TooLargeError(f"expected samples of at most {MAX_SAMPLE_BYTES:,} bytes, got more in sample {num} (wrong nesting?)")
        if num > MAX_SAMPLES:
            raise TooLargeError(f"expected at most {MAX_SAMPLES:,} samples in a list, got more")

    def _outside(self, text: bytes) -> None:
        self.skeleton += text
        if len(self.skeleton) > MAX_SKELETON_BYTES:
            raise TooLargeError(f"expected lists of samples, got more than {MAX_SKELETON_BYTES:,} bytes between them (wrong nesting?)")


class SampleList:
    """The samples of one list, each (num_points, 3), as one array, and the first example of each kind of problem."""

    def __init__(self, name: str, num_points: int, dtype: type[np.floating]) -> None:
        self.name, self.dtype = name, dtype
        self.shape = (num_points, 3)
        self.blocks: list[NDArray] = []
        self.num_good = 0
        self.problems: dict[str, tuple[int, str, int]] = {}  # kind -> first sample, what was found there, how many
        self.num = 0

    def add(self, text: bytes) -> None:
        """Parse the text of the next sample; what is wrong with it is kept for `findings`."""
        problem = self._parse(text)
        if problem is not None:
            kind, detail = problem
            first, what, count = self.problems.get(kind, (self.num, detail, 0))
            self.problems[kind] = (first, what, count + 1)
        self.num += 1

    def _parse(self, text: bytes) -> tuple[str, str] | None:
        try:
            tree = orjson.loads(text)
            if b'"' in text:
                return "numbers", "text among the numbers"
            sample = np.array(tree, dtype=np.float64)
        except orjson.JSONDecodeError:
            return ("finite", "NaN or infinity") if _is_json_to_python(text) else ("json", "no valid JSON")
        except (ValueError, TypeError, OverflowError):
            return "shape", "lists of different lengths"
        if sample.shape != self.shape:
            return "shape", f"shape {sample.shape}"
        if not np.isfinite(sample).all():  # numpy takes null for NaN
            return "finite", "null"
        place = self.num_good % _BLOCK
        if place == 0:
            self.blocks.append(np.empty((_BLOCK, *self.shape), self.dtype))
        self.blocks[-1][place] = sample
        self.num_good += 1
        return None

    def findings(self) -> list[str]:
        """One line for each kind of problem."""
        expected = {
            "shape": f"expected shape {self.shape}",
            "finite": "expected finite numbers",
            "numbers": "expected numbers only",
            "json": "expected numbers only",
        }
        return [
            f"{self.name}: {expected[kind]} in every sample, got {what} in {count} of {self.num}, the first sample {first}"
            for kind, (first, what, count) in self.problems.items()
        ]

    def array(self) -> NDArray:
        """(samples, num_points, 3) of the good ones; the blocks are given up on the way, so that memory holds them once."""
        whole = np.empty((self.num_good, *self.shape), self.dtype)
        for start in range(0, self.num_good, _BLOCK):
            block = self.blocks.pop(0)
            whole[start : start + _BLOCK] = block[: self.num_good - start]
        return whole


def _is_json_to_python(text: bytes) -> bool:
    """Whether Python's json module, unlike the standard, accepts the text: that of NaN, Infinity and 1e999."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
