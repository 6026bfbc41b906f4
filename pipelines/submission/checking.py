"""Checks a package before a server does: one line for everything that is wrong with it.

Beside the form, the geometry tells millimetres, axes, joint orders and mirrored hands apart from what the server expects.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import BONE_ARRAY, HO3D_TO_STD, INTERHAND_TO_STD, NUM_KEYPOINTS, RHD_TO_STD
from pipelines.submission.layouts import Layout, find_layout
from pipelines.submission.reading import read_package

Array = NDArray[np.float64]
HAND_EXTENT_M = (0.03, 0.4)  # longest side of the box around the joints of any real hand
UNITS = {"millimetres": 1000.0, "centimetres": 100.0}
MAX_APART_M = 0.05
ORDERS = {
    "std21 (FreiHAND)": np.arange(NUM_KEYPOINTS),
    "MANO + tips (HO3D)": HO3D_TO_STD,
    "RHD": RHD_TO_STD,
    "InterHand2.6M": INTERHAND_TO_STD,
}
ORDER_MARGIN = 0.95  # another order must shorten the bones by this factor to be reported
MIRRORED_BELOW = -0.2  # mean cosine between fingers and palm direction; right hands bend towards the palm, so theirs is positive
FINGERS = ((5, 8), (9, 12), (13, 16), (17, 20))  # base and tip in std21, without the thumb


class Finding(NamedTuple):
    """One line for people; `is_doubt` where a poor network can cause it too, so that the package is still of the right form."""

    text: str
    is_doubt: bool = False


def check_submission(path: str | Path, layout: str, num_samples: int | None = None) -> list[str]:
    """Everything found wrong with a package, one line each; an empty list means the server will take it.

    num_samples: how many samples to expect; None: as many as the layout's server does. ValueError for an unknown layout.
    """
    return [finding.text for finding in find_problems(Path(path), find_layout(layout), num_samples)]


def find_problems(path: Path, layout: Layout, num_samples: int | None = None) -> list[Finding]:
    """As `check_submission`, with doubts told apart."""
    content = read_package(path)
    findings = [Finding(text) for text in content.findings]
    expected = layout.num_samples if num_samples is None else num_samples
    counts = {name: len(array) for name, array in (("xyz", content.xyz), ("verts", content.verts)) if array is not None}
    findings += [Finding(f"{name}: expected {expected:,} samples, got {got:,}") for name, got in counts.items() if got != expected]
    if content.xyz is not None and content.verts is not None and len(content.xyz) == len(content.verts) > 0:
        findings += geometry_findings(content.xyz, content.verts, layout)
    return findings


def geometry_findings(xyz: Array, verts: NDArray[np.floating], layout: Layout) -> list[Finding]:
    """What the points (N, 21, 3) and (N, 778, 3), as in the file, say about units, axes and joint order."""
    joints = layout.to_std21(xyz)
    unit = _unit_finding("xyz", np.ptp(xyz, axis=1).max(axis=1)) + _unit_finding("verts", np.ptp(verts, axis=1).max(axis=1))
    if unit:
        return unit + _order_finding(xyz, layout)
    apart = float(np.median(np.linalg.norm(xyz.mean(axis=1) - verts.mean(axis=1), axis=1)))
    findings = _depth_findings(xyz, verts, layout) + _order_finding(xyz, layout)
    if apart > MAX_APART_M:
        findings.append(
            Finding(f"xyz and verts: expected the same hands, got centres {apart * 100:.0f} cm apart (one of them in other axes?)")
        )
    if not findings and (bend := bend_towards_palm(joints)) < MIRRORED_BELOW:
        text = f"hands look mirrored: expected right hands, whose fingers bend towards the palm, got a mean bend of {bend:.2f}"
        findings.append(Finding(f"{text} (an odd number of axes turned round?)", is_doubt=True))
    return findings


def _unit_finding(name: str, extents: Array) -> list[Finding]:
    extent = float(np.median(extents))
    low, high = HAND_EXTENT_M
    if low <= extent <= high:
        return []
    guess = next((f"; these look like {unit}" for unit, factor in UNITS.items() if low <= extent / factor <= high), "")
    return [Finding(f"{name}: expected metres, hands {low} to {high} wide, got a median of {extent:.3g}{guess}")]


def _depth_findings(xyz: Array, verts: NDArray[np.floating], layout: Layout) -> list[Finding]:
    wanted = f"z {'>' if layout.depth_sign > 0 else '<'} 0 in front of the camera ({'OpenCV' if layout.depth_sign > 0 else 'OpenGL'} axes)"
    behind = xyz[..., 2].mean(axis=1) * layout.depth_sign <= 0
    if behind.mean() > 0.5:
        return [Finding(f"axes: expected {wanted}, got the opposite in {int(behind.sum()):,} of {len(xyz):,} samples")]
    partly = (xyz[..., 2] * layout.depth_sign <= 0).any(axis=1) | (verts[..., 2] * layout.depth_sign <= 0).any(axis=1)
    if not partly.any():
        return []
    text = f"axes: expected {wanted}, got hands at least partly behind it in {int(partly.sum()):,} of {len(xyz):,} samples"
    return [Finding(f"{text}, the first sample {int(np.argmax(partly))}", is_doubt=True)]


def _order_finding(xyz: Array, layout: Layout) -> list[Finding]:
    """The joints' order by the length of the bones between them: only the right one gives short bones."""
    lengths = {name: _bone_length(xyz[:, order]) for name, order in ORDERS.items()}
    own = _bone_length(xyz[:, list(layout.to_std)])
    best = min(lengths, key=lambda name: lengths[name])
    if lengths[best] < ORDER_MARGIN * own:
        mine = next(name for name, order in ORDERS.items() if list(order) == list(layout.to_std))
        return [Finding(f"xyz: expected joints in the order {mine}, got what looks like {best}")]
    return []


def _bone_length(joints: Array) -> float:
    return float(np.linalg.norm(joints[:, BONE_ARRAY[:, 1]] - joints[:, BONE_ARRAY[:, 0]], axis=2).sum(axis=1).mean())


def bend_towards_palm(joints: Array) -> float:
    """Median over (N, 21, 3) hands, std21, of how far the fingers point to the palm's side: positive for right hands, negative mirrored."""
    palm = np.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])
    palm /= np.linalg.norm(palm, axis=1, keepdims=True) + 1e-12
    cosines = []
    for base, tip in FINGERS:
        finger = joints[:, tip] - joints[:, base]
        cosines.append((finger * palm).sum(axis=1) / (np.linalg.norm(finger, axis=1) + 1e-12))
    return float(np.median(np.mean(cosines, axis=0)))
