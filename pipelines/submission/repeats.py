"""Checks of the samples against each other and against the published truth: repeated ones, and another order than the server's.

A server cannot see either; it gives a bad score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.submission.findings import Finding

Array = NDArray[np.float64]
MIN_SAMPLES = 200  # below, the order cannot be told from chance
FRAMES_APART = 0.5  # neighbours of a video lie nearer to each other than this share of what any two samples do
MISPLACED_RANK = 0.35  # 0.5 is what an order at random gives; a network that has learnt anything lies far below
_LOOKED_AT = 500


def repeat_findings(xyz: Array) -> list[Finding]:
    """Samples (N, 21, 3) that repeat an earlier one to the last digit: all of them is a fault, some may be filled-in ones."""
    num = len(xyz)
    rows = np.ascontiguousarray(xyz.reshape(num, -1)).view(np.dtype((np.void, xyz.itemsize * xyz[0].size))).ravel()
    _, first, index = np.unique(rows, return_index=True, return_inverse=True)
    repeats = np.flatnonzero(first[index] != np.arange(num))
    if not len(repeats):
        return []
    if len(first) == 1:
        return [Finding(f"xyz: expected a hand for every image, got the same one in all {num:,} samples")]
    sample = int(repeats[0])
    text = f"xyz: {len(repeats):,} of {num:,} samples repeat an earlier one exactly"
    return [Finding(f"{text}, the first sample {sample} (as {int(first[index[sample]])})", is_doubt=True)]


def video_order_findings(xyz: Array) -> list[Finding]:
    """Whether neighbours of (N, 21, 3), which the server takes for frames of one video, are nearer than any two samples."""
    if len(xyz) < MIN_SAMPLES:
        return []
    others = np.random.default_rng(0).permutation(len(xyz))
    steps = _median_distance(xyz[1:], xyz[:-1])
    anywhere = _median_distance(xyz, xyz[others])
    if steps <= FRAMES_APART * anywhere:
        return []
    text = "samples: expected neighbours to be frames of one video, got them as far apart"
    return [Finding(f"{text} as {steps / max(anywhere, 1e-9):.2f} of any two samples (another order of samples?)", is_doubt=True)]


def truth_order_findings(xyz: Array, truth: Array) -> list[Finding]:
    """Whether predictions (N, 21, 3) are nearer to their own sample's truth than to that of others: by rank among all."""
    num = len(xyz)
    if len(truth) != num:
        return [Finding(f"samples: expected as many as the truth has, {len(truth):,}, got {num:,}")]
    if num < MIN_SAMPLES:
        return []
    own, others = (_pose_vectors(points) for points in (xyz, truth))
    chosen = np.linspace(0, num - 1, min(num, _LOOKED_AT)).astype(int)
    # squared distances up to a constant of each row
    distances = (others**2).sum(axis=1) - 2 * own[chosen] @ others.T
    ranks = (distances < distances[np.arange(len(chosen)), chosen][:, None]).mean(axis=1)
    rank = float(np.median(ranks))
    if rank < MISPLACED_RANK:
        return []
    text = f"samples: half of them are nearer to the truth of {rank:.0%} of the other samples than to their own"
    return [Finding(f"{text} (another order of samples, or predictions that do not depend on the image?)", is_doubt=True)]


def _median_distance(a: Array, b: Array) -> float:
    return float(np.median(np.linalg.norm(a - b, axis=2).mean(axis=1)))


def _pose_vectors(points: Array) -> Array:
    """(N, 63): joints from the first one, of one size."""
    centred = points - points[:, :1]
    flat = centred.reshape(len(points), -1)
    vectors: Array = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-12)
    return vectors
