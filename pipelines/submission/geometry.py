"""What the points of a package say about units, axes, joint order, sides, and whether joints and vertices belong together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import BONE_ARRAY, FINGERTIP_VERTICES, HO3D_TO_STD, INTERHAND_TO_STD, NUM_KEYPOINTS, RHD_TO_STD
from pipelines.submission.findings import Finding
from pipelines.submission.layouts import Layout

Array = NDArray[np.float64]
HAND_EXTENT_M = (0.03, 0.4)  # longest side of the box around the joints of any real hand
UNITS = {"millimetres": 1000.0, "centimetres": 100.0}
MAX_APART_M = 0.05
MAX_TIP_APART_M = 0.03  # conventions differ by less than a centimetre in what they call a fingertip
ORDERS = {
    "std21 (FreiHAND)": np.arange(NUM_KEYPOINTS),
    "MANO + tips (HO3D)": HO3D_TO_STD,
    "RHD": RHD_TO_STD,
    "InterHand2.6M": INTERHAND_TO_STD,
}
ORDER_MARGIN = 0.95  # another order must shorten the bones by this factor to be reported
MIRRORED_BELOW = -0.2  # mean cosine between fingers and palm direction; right hands bend towards the palm, so theirs is positive
FINGERS = ((5, 8), (9, 12), (13, 16), (17, 20))  # base and tip in std21, without the thumb
_TIPS, _TIP_VERTICES = [4, 8, 12, 16, 20], FINGERTIP_VERTICES[1]


def geometry_findings(xyz: Array, verts: NDArray[np.floating], layout: Layout) -> list[Finding]:
    """What the points (N, 21, 3) and (N, 778, 3), as in the file, say about units, axes and joint order."""
    joints = layout.to_std21(xyz)
    unit = _unit_findings("xyz", np.ptp(xyz, axis=1).max(axis=1)) + _unit_findings("verts", np.ptp(verts, axis=1).max(axis=1))
    order = _order_findings(xyz, layout)
    if any(not finding.is_doubt for finding in unit):
        return unit + order
    findings = unit + _depth_findings(xyz, verts, layout) + order
    if not order:
        findings += _apart_findings(joints, layout.vertices(verts))
    if not findings and (bend := bend_towards_palm(joints)) < MIRRORED_BELOW:
        text = f"hands look mirrored: expected right hands, whose fingers bend towards the palm, got a mean bend of {bend:.2f}"
        findings.append(Finding(f"{text} (an odd number of axes turned round?)", is_doubt=True))
    return findings


def _unit_findings(name: str, extents: Array) -> list[Finding]:
    extent = float(np.median(extents))
    low, high = HAND_EXTENT_M
    if low <= extent <= high:
        odd = (extents < low) | (extents > high)
        if not odd.any():
            return []
        first = int(np.argmax(odd))
        text = f"{name}: expected hands {low} to {high} m wide, got others in {int(odd.sum()):,} of {len(odd):,} samples"
        return [Finding(f"{text}, the first sample {first} ({extents[first]:.3g})", is_doubt=True)]
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


def _order_findings(xyz: Array, layout: Layout) -> list[Finding]:
    """The joints' order by the length of the bones between them: only the right one gives short bones."""
    lengths = {name: _bone_length(xyz[:, order]) for name, order in ORDERS.items()}
    own = _bone_length(xyz[:, list(layout.to_std)])
    best = min(lengths, key=lambda name: lengths[name])
    if lengths[best] < ORDER_MARGIN * own:
        return [Finding(f"xyz: expected joints in the order {layout.joint_order}, got what looks like {best}")]
    return []


def _bone_length(joints: Array) -> float:
    return float(np.linalg.norm(joints[:, BONE_ARRAY[:, 1]] - joints[:, BONE_ARRAY[:, 0]], axis=2).sum(axis=1).mean())


def _apart_findings(joints: Array, vertices: Array) -> list[Finding]:
    """Joints and vertices of other hands, or in other axes: centres apart, or fingertips away from their vertices (both std21, OpenCV)."""
    centres = np.linalg.norm(joints.mean(axis=1) - vertices.mean(axis=1), axis=1)
    gaps = np.linalg.norm(joints[:, _TIPS] - vertices[:, _TIP_VERTICES], axis=2)
    tips, most = gaps.max(axis=1), np.median(gaps, axis=1) > MAX_TIP_APART_M
    apart = float(np.median(centres))
    if apart > MAX_APART_M:
        return [Finding(f"xyz and verts: expected the same hands, got centres {apart * 100:.0f} cm apart (one of them in other axes?)")]
    wrong = (centres > MAX_APART_M) | (tips > MAX_TIP_APART_M)
    if not wrong.any():
        return []
    apart = float(np.median(tips[wrong]))
    text = f"xyz and verts: expected fingertip joints at their vertices in MANO's order, got {apart * 100:.0f} cm apart"
    where = f"in {int(wrong.sum()):,} of {len(wrong):,} samples, the first {int(np.argmax(wrong))}"
    usual = (most | (centres > MAX_APART_M)).mean() > 0.5
    return [Finding(f"{text} {where} (other hands, or another order of vertices?)", is_doubt=not usual)]


def bend_towards_palm(joints: Array) -> float:
    """Median over (N, 21, 3) hands, std21, of how far the fingers point to the palm's side: positive for right hands, negative mirrored."""
    palm = np.cross(joints[:, 5] - joints[:, 0], joints[:, 17] - joints[:, 0])
    palm /= np.linalg.norm(palm, axis=1, keepdims=True) + 1e-12
    cosines = []
    for base, tip in FINGERS:
        finger = joints[:, tip] - joints[:, base]
        cosines.append((finger * palm).sum(axis=1) / (np.linalg.norm(finger, axis=1) + 1e-12))
    return float(np.median(np.mean(cosines, axis=0)))
