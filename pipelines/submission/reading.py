"""Reads pred.json out of a package sample by sample, so that hundreds of megabytes of numbers never lie in memory as Python lists.

Whatever does not have the form [xyz_list, verts_list] becomes a finding instead of an exception.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import orjson
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS
from pipelines.submission.layouts import NUM_VERTICES

MEMBER = "pred.json"
LISTS = (("xyz", NUM_KEYPOINTS), ("verts", NUM_VERTICES))  # in the order of the file, with points a sample
DTYPES = {"xyz": np.float64, "verts": np.float32}  # vertices are many, and 30 nm off
_CHUNK = 1 << 22
_MAX_SKELETON = 1 << 24
_OPEN, _CLOSE = ord("["), ord("]")


@dataclass(kw_only=True)
class Content:
    """What a package holds: xyz (N, 21, 3) and verts (N, 778, 3) float64 and float32, None where unusable; what is wrong with it."""

    xyz: NDArray[np.float64] | None = None
    verts: NDArray[np.float32] | None = None
    findings: list[str] = field(default_factory=list)


class SampleTexts:
    """Iterates over (list number, JSON text of one sample); `skeleton` is then the file with every sample replaced by null."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.skeleton = bytearray()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        depth, list_number = 0, -1
        sample = bytearray()
        while chunk := self.stream.read(_CHUNK):
            codes = np.frombuffer(chunk, np.uint8)
            places = np.flatnonzero((codes == _OPEN) | (codes == _CLOSE))
            steps = np.where(codes[places] == _OPEN, 1, -1)
            depths = depth + np.cumsum(steps)
            # samples open at depth 3 and close down to depth 2; lists open at depth 2
            edges = np.flatnonzero(((steps == 1) & ((depths == 3) | (depths == 2))) | ((steps == -1) & (depths == 2)))
            at = 0
            for edge in edges.tolist():
                place, step, after = int(places[edge]), int(steps[edge]), int(depths[edge])
                if step == 1 and after == 2:
                    list_number += 1
                elif step == 1:
                    self._outside(chunk[at:place])
                    at = place
                else:
                    sample += chunk[at : place + 1]
                    at = place + 1
                    self._outside(b"null")
                    yield list_number, bytes(sample)
                    sample = bytearray()
            depth = int(depths[-1]) if len(depths) else depth
            if depth >= 3:
                sample += chunk[at:]
            else:
                self._outside(chunk[at:])
        self._outside(bytes(sample))  # a sample that never closed: the skeleton will not parse

    def _outside(self, text: bytes) -> None:
        if len(self.skeleton) < _MAX_SKELETON:
            self.skeleton += text


def read_package(path: Path) -> Content:
    """The content of a package with everything found wrong with the archive, the nesting, the shapes and the numbers."""
    content = Content()
    try:
        with zipfile.ZipFile(path) as archive:
            content.findings += archive_findings(archive)
            if MEMBER in archive.namelist():
                with archive.open(MEMBER) as stream:
                    _read_json(stream, content)
    except FileNotFoundError:
        content.findings.append(f"{path}: not found")
    except IsADirectoryError:
        content.findings.append(f"{path}: expected a zip file, got a folder")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        content.findings.append(f"{path.name}: not a readable zip file ({error})")
    except RuntimeError as error:  # zipfile's word for an encrypted member
        content.findings.append(f"{path.name}: {MEMBER} cannot be read ({error})")
    return content


def archive_findings(archive: zipfile.ZipFile) -> list[str]:
    """What is wrong with the members' names: pred.json must be at the root, and the only .json."""
    names = archive.namelist()
    findings = []
    if MEMBER not in names:
        elsewhere = [name for name in names if name.rsplit("/", 1)[-1] == MEMBER]
        where = f"it is at {elsewhere[0]!r}; zip the file itself, not its folder" if elsewhere else f"members: {names[:5]}"
        findings.append(f"{MEMBER}: not at the zip's root ({where})")
    elif names.count(MEMBER) > 1:
        findings.append(f"{MEMBER}: expected once, got {names.count(MEMBER)} members of that name")
    others = [name for name in names if name.endswith(".json") and name != MEMBER]
    if MEMBER in names and others:
        findings.append(f"expected no .json but {MEMBER}, got {len(others)} more, such as {others[0]!r}")
    return findings


def _read_json(stream: IO[bytes], content: Content) -> None:
    texts = SampleTexts(stream)
    lists = [_ListOfSamples(name, num_points) for name, num_points in LISTS]
    for number, text in texts:
        if number < len(lists):
            lists[number].add(text)
    counts = _skeleton_counts(bytes(texts.skeleton), [samples.num for samples in lists], content.findings)
    if counts is None:
        return
    for samples in lists:
        content.findings += samples.findings()
    if counts[0] != counts[1]:
        content.findings.append(f"expected as many xyz as verts, got {counts[0]} and {counts[1]}")
    xyz, verts = lists
    content.xyz = None if xyz.problems else xyz.array()
    content.verts = None if verts.problems else verts.array()


def _skeleton_counts(skeleton: bytes, nums: list[int], findings: list[str]) -> list[int] | None:
    """`nums`, the samples seen in each list, or None with a finding when the file is not [[sample, ...], [sample, ...]]."""
    expected = f"{MEMBER}: expected a list [xyz_list, verts_list] of lists of samples"
    try:
        tree = orjson.loads(skeleton)
    except orjson.JSONDecodeError as error:
        cut = " (the file ends early)" if skeleton.count(b"[") > skeleton.count(b"]") else ""
        findings.append(f"{MEMBER}: not valid JSON{cut}: {str(error).split(':')[0]}")
        return None
    if not isinstance(tree, list):
        findings.append(f"{expected}, got {type(tree).__name__}")
        return None
    if len(tree) != len(LISTS):
        findings.append(f"{expected}, got a list of {len(tree)}")
        return None
    wrong = [
        f"{name}: wrong nesting: expected a list of samples, each {num_points} lists of 3 numbers"
        for (name, num_points), samples, num in zip(LISTS, tree, nums, strict=True)
        if not isinstance(samples, list) or len(samples) != num or any(sample is not None for sample in samples)
    ]
    findings += wrong[:1]  # after the first, lists and samples are counted wrong
    return None if wrong else nums


class _ListOfSamples:
    """The samples of one list, parsed, and the first example of each kind of problem."""

    def __init__(self, name: str, num_points: int) -> None:
        self.name, self.dtype = name, DTYPES[name]
        self.shape = (num_points, 3)
        self.samples: list[NDArray] = []
        self.problems: dict[str, tuple[int, str, int]] = {}  # kind -> first sample, what was found there, how many
        self.num = 0

    def add(self, text: bytes) -> None:
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
        except (ValueError, TypeError):
            return "shape", "lists of different lengths"
        if sample.shape != self.shape:
            return "shape", f"shape {sample.shape}"
        if not np.isfinite(sample).all():  # numpy takes null for NaN
            return "finite", "null"
        self.samples.append(sample.astype(self.dtype))
        return None

    def findings(self) -> list[str]:
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
        return np.array(self.samples, self.dtype).reshape(-1, *self.shape)


def _is_json_to_python(text: bytes) -> bool:
    """Whether Python's json module, unlike the standard, accepts the text: that of NaN, Infinity and 1e999."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
