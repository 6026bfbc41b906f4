"""Checks a package before a server does: one line for everything that is wrong with it.

Here is what the file says of itself; `geometry` tells millimetres, axes, joint orders and mirrored hands apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.submission.findings import Finding
from pipelines.submission.geometry import geometry_findings
from pipelines.submission.layouts import Layout, find_layout
from pipelines.submission.reading import read_package, read_true_joints
from pipelines.submission.repeats import repeat_findings, truth_order_findings, video_order_findings


def check_submission(path: str | Path, layout: str, num_samples: int | None = None) -> list[str]:
    """Everything found wrong with a package, one line each; an empty list means the server will take it.

    num_samples: how many samples to expect; None: as many as the layout's server does. ValueError for an unknown layout.
    """
    return [finding.text for finding in find_problems(Path(path), find_layout(layout), num_samples)]


def find_problems(path: Path, layout: Layout, num_samples: int | None = None, truth: Path | None = None) -> list[Finding]:
    """As `check_submission`, with doubts told apart; with the folder of the published truth the samples' order is seen too."""
    content = read_package(path)
    findings = [Finding(text) for text in content.findings]
    expected = layout.num_samples if num_samples is None else num_samples
    counts = {name: len(array) for name, array in (("xyz", content.xyz), ("verts", content.verts)) if array is not None}
    findings += [Finding(f"{name}: expected {expected:,} samples, got {got:,}") for name, got in counts.items() if got != expected]
    if content.xyz is None or content.verts is None or not len(content.xyz) == len(content.verts) > 0:
        return findings
    of_points = geometry_findings(content.xyz, content.verts, layout)
    findings += of_points + repeat_findings(content.xyz)
    if not any(not finding.is_doubt for finding in of_points):
        if truth is not None:
            findings += truth_order_findings(content.xyz, read_true_joints(truth))
        elif layout.is_video:
            findings += video_order_findings(content.xyz)
    return findings


def checked_for(layout: Layout, num_samples: int | None = None, *, with_truth: bool = False) -> Sequence[str]:
    """What `find_problems` looks at, a few words each, to be told where it finds nothing."""
    axes = "OpenCV axes (z > 0)" if layout.depth_sign > 0 else "OpenGL axes (z < 0)"
    order = f"samples in the order of the truth ({layout.sample_order})" if with_truth else None
    if order is None and layout.is_video:
        order = f"neighbouring samples look like frames of one video ({layout.sample_order})"
    checks = [
        "pred.json at the zip's root and no other .json",
        f"[xyz, verts] of {num_samples or layout.num_samples:,} x 21 x 3 and x 778 x 3 finite numbers",
        "metres",
        axes,
        f"joint order {layout.joint_order}",
        "joints and vertices of the same hands",
        "right hands",
        "no repeated samples",
    ]
    return [*checks, order or f"but not the order of samples ({layout.sample_order}), which a file does not tell without --gt"]
