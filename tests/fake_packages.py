"""Packages for the servers made by hand, as their own example code makes them, for the tests of submission."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from fake_hands import make_hands

from pipelines.submission.layouts import LAYOUTS

NUM = 6


def right_hands() -> tuple[np.ndarray, np.ndarray]:
    """Joints and vertices of right hands in front of the camera, as the project has them: std21, OpenCV."""
    _, joints, vertices = make_hands(NUM, np.random.default_rng(0), side=1)
    position = np.array([0.02, -0.03, 0.7])
    return joints + position, vertices + position


def in_layout(hands: tuple[np.ndarray, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The same as the file holds them."""
    layout = LAYOUTS[name]
    return layout.joints(hands[0]), layout.vertices(hands[1])


def write_zip(path: Path, content: object, member: str = "pred.json") -> Path:
    """A zip with one member: JSON, or text as it is."""
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, text)
    return path


def as_lists(xyz: np.ndarray, verts: np.ndarray) -> list:
    return [np.asarray(xyz).tolist(), np.asarray(verts).tolist()]


def only(findings: list[str]) -> str:
    """The one finding there is."""
    assert len(findings) == 1, findings
    assert "\n" not in findings[0]
    return findings[0]
