"""Reads a package, or the servers' published truth, with everything that is wrong with the archive, the nesting and the numbers.

Whatever does not have the form [xyz_list, verts_list] becomes a finding instead of an exception.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import orjson
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS
from pipelines.submission.json_samples import SampleList, SampleTexts, TooLargeError
from pipelines.submission.layouts import NUM_VERTICES

MEMBER = "pred.json"
LISTS = (("xyz", NUM_KEYPOINTS), ("verts", NUM_VERTICES))  # in the order of the file, with points a sample
DTYPES: dict[str, type[np.floating]] = {"xyz": np.float64, "verts": np.float32}  # vertices are many, and 30 nm off
TRUTH = {"xyz": "evaluation_xyz.json", "verts": "evaluation_verts.json"}
MAX_BYTES = 4 << 30  # twice what the largest evaluation set takes at full precision
_UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OSError)


@dataclass(kw_only=True)
class Content:
    """What a package holds: xyz (N, 21, 3) and verts (N, 778, 3) float64 and float32, None where unusable; what is wrong with it."""

    xyz: NDArray[np.float64] | None = None
    verts: NDArray[np.float32] | None = None
    findings: list[str] = field(default_factory=list)


def read_package(path: Path, *, bare_json: bool = False) -> Content:
    """The content of a package with everything found wrong with it; with `bare_json` a path ending in .json may be pred.json itself."""
    content = Content()
    try:
        if bare_json and path.suffix == ".json":
            if path.stat().st_size > MAX_BYTES:
                raise TooLargeError(_too_large(path.stat().st_size))
            with path.open("rb") as stream:
                _read_json(stream, content)
        else:
            _read_zip(path, content)
    except FileNotFoundError:
        content.findings.append(f"{path}: not found")
    except IsADirectoryError:
        content.findings.append(f"{path}: expected a zip file, got a folder")
    except TooLargeError as error:
        content.findings.append(f"{MEMBER}: {error}")
    except _UNREADABLE as error:
        content.findings.append(f"{path.name}: not a readable zip file ({error})")
    except RuntimeError as error:  # zipfile's word for an encrypted member and for a compression it does not know
        content.findings.append(f"{path.name}: {MEMBER} cannot be read ({error})")
    return content


def _read_zip(path: Path, content: Content) -> None:
    with zipfile.ZipFile(path) as archive:
        content.findings += archive_findings(archive)
        if MEMBER not in archive.namelist():
            return
        size = archive.getinfo(MEMBER).file_size  # zipfile reads no more than this, whatever the member unpacks to
        if size > MAX_BYTES:
            raise TooLargeError(_too_large(size))
        with archive.open(MEMBER) as stream:
            _read_json(stream, content)


def _too_large(size: int) -> str:
    return f"expected at most {MAX_BYTES:,} bytes, got {size:,}"


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
    lists = [SampleList(name, num_points, DTYPES[name]) for name, num_points in LISTS]
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
        findings.append(f"{MEMBER}: {_invalid(skeleton, error)}")
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


def _invalid(skeleton: bytes, error: orjson.JSONDecodeError) -> str:
    cut = " (the file ends early)" if skeleton.count(b"[") > skeleton.count(b"]") else ""
    return f"not valid JSON{cut}: {str(error).split(':')[0]}"


def read_truth(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """xyz (N, 21, 3) and verts (N, 778, 3) of evaluation_xyz.json and evaluation_verts.json, as the servers' owners publish them.

    ValueError names the file and what is wrong with it.
    """
    arrays = {name: _read_truth(folder / TRUTH[name], SampleList(name, num_points, DTYPES[name])) for name, num_points in LISTS}
    counts = {TRUTH[name]: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{folder}: expected as many samples in each file, got {counts}")
    return arrays["xyz"], arrays["verts"]


def read_true_joints(folder: Path) -> NDArray[np.float64]:
    """As `read_truth`, xyz only."""
    return _read_truth(folder / TRUTH["xyz"], SampleList("xyz", NUM_KEYPOINTS, DTYPES["xyz"]))


def _read_truth(path: Path, samples: SampleList) -> NDArray:
    if not path.is_file():
        raise ValueError(f"{path}: not found; expected {' and '.join(TRUTH.values())} as the dataset's owners publish them")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {_too_large(path.stat().st_size)}")
    with path.open("rb") as stream:
        texts = SampleTexts(stream, sample_depth=2)
        try:
            for _, text in texts:
                samples.add(text)
        except TooLargeError as error:
            raise ValueError(f"{path}: {error}") from None
    try:
        tree = orjson.loads(bytes(texts.skeleton))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: {_invalid(bytes(texts.skeleton), error)}") from None
    if not isinstance(tree, list) or len(tree) != samples.num or any(sample is not None for sample in tree):
        raise ValueError(f"{path}: expected a list of samples, each {samples.shape[0]} lists of 3 numbers")
    if samples.problems:
        raise ValueError(f"{path}: {'; '.join(samples.findings())}")
    if samples.num == 0:
        raise ValueError(f"{path}: expected at least one sample, got none")
    return samples.array()
