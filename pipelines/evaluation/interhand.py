"""InterHand2.6M's own figures: per-joint means of single and interacting hands, the distance between the wrists, handedness.

Every hand is aligned at its own wrist, and a joint counts only where its hand has a 3D label; lengths leave in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import bootstrap_mean, bootstrap_sums, handedness_accuracy, mrrpe, point_errors, root_align
from handnet.metrics.interhand import PRESENT_ABOVE
from handnet.skeleton import NUM_KEYPOINTS, WRIST
from pipelines.evaluation.measures_3d import MM, is_known

Array = NDArray[np.float64]
GROUPS = ("single", "interacting")
KINDS = {"epe_mm": (0, 1), "epe_single_mm": (0,), "epe_interacting_mm": (1,)}  # figures and the groups they are over
NUM_BLOCKS = 2000  # images are drawn for intervals one by one up to this number, from then on some share a draw, which bounds the memory


@dataclass(frozen=True, kw_only=True)
class FoundHands:
    """F found hands of whole images: image (F,), side (F,) as labelled, num_hands (F,) of their image, shared (F,) as of `measure`.

    keypoints_m and target_m (F, 21, 3), target NaN without a label.
    """

    image: NDArray[np.int64]
    side: NDArray[np.int64]
    num_hands: NDArray[np.int64]
    keypoints_m: Array
    target_m: NDArray[np.floating]
    shared: NDArray[np.bool_]


class InterhandFigures:
    """Sums over any number of images."""

    def __init__(self) -> None:
        # by block of images, group, joint: the left hand's, then the right one's
        self.sums = np.zeros((NUM_BLOCKS, len(GROUPS), 2 * NUM_KEYPOINTS))
        self.counts = np.zeros_like(self.sums)
        self.roots: list[Array] = []  # (4, 3): left, right, true left, true right wrist
        self.probabilities: list[list[float]] = []  # of a left and of a right hand, image by image
        self.present: list[list[bool]] = []

    def add_found(self, found: FoundHands) -> None:
        """Hands that were found, all of an image in one call."""
        known = is_known(found.target_m)
        errors = point_errors(root_align(found.keypoints_m[known], found.target_m[known], root=WRIST), found.target_m[known]) * MM
        group = (found.num_hands[known] > 1).astype(np.int64)
        columns = found.side[known, None] * NUM_KEYPOINTS + np.arange(NUM_KEYPOINTS)
        block = found.image[known] % NUM_BLOCKS
        np.add.at(self.sums, (block[:, None], group[:, None], columns), errors)
        np.add.at(self.counts, (block[:, None], group[:, None], columns), 1.0)
        comparable = known & found.shared
        for image in np.unique(found.image[comparable]):
            pair = [np.flatnonzero(comparable & (found.image == image) & (found.side == side)) for side in (0, 1)]
            if all(len(hand) == 1 for hand in pair):
                rows = np.concatenate(pair)
                self.roots.append(np.concatenate([found.keypoints_m[rows, WRIST], found.target_m[rows, WRIST]]))

    def add_image(self, sides: Sequence[int], scores: Sequence[float], labelled: Sequence[int]) -> None:
        """One image: sides and scores of its predictions, sides of its labelled hands. A side's probability is its best score."""
        self.probabilities.append([max((own for own, of in zip(scores, sides, strict=True) if of == side), default=0.0) for side in (0, 1)])
        self.present.append([side in labelled for side in (0, 1)])

    def figures(self) -> dict[str, float]:
        """epe_mm of all, single and interacting hands, mrrpe_mm, handedness_accuracy; NaN where nothing was there to measure."""
        totals = np.stack([self.sums.sum(axis=0), self.counts.sum(axis=0)])
        epe = dict(zip(KINDS, _joint_means(totals.reshape(1, -1))[0].tolist(), strict=True))
        roots = self._roots()
        distance = mrrpe(*roots.transpose(1, 0, 2)) * MM if len(roots) else np.nan
        return {**epe, "mrrpe_mm": distance, "handedness_accuracy": handedness_accuracy(*self._sides())}

    def intervals(self) -> dict[str, list[float]]:
        """95 % intervals [low, high] of the figures, images drawn with replacement; those that were not measured are left out."""
        measured = self.counts.any(axis=(1, 2))
        found: dict[str, list[float]] = {}
        if measured.any():
            sums = np.stack([self.sums[measured], self.counts[measured]], axis=1).reshape(int(measured.sum()), -1)
            found |= dict(zip(KINDS, bootstrap_sums(_joint_means, sums).tolist(), strict=True))
        roots, (probabilities, present) = self._roots(), self._sides()
        if len(roots):
            offset = (roots[:, 0] - roots[:, 1]) - (roots[:, 2] - roots[:, 3])
            found["mrrpe_mm"] = bootstrap_mean(np.linalg.norm(offset, axis=1) * MM).tolist()
        if len(present):
            right = ((probabilities > PRESENT_ABOVE) == present).all(axis=1)
            found["handedness_accuracy"] = bootstrap_mean(right.astype(np.float64)).tolist()
        return found

    def _roots(self) -> Array:
        return np.array(self.roots).reshape(-1, 4, 3)

    def _sides(self) -> tuple[Array, NDArray[np.bool_]]:
        return np.array(self.probabilities, np.float64).reshape(-1, 2), np.array(self.present, bool).reshape(-1, 2)


def _joint_means(sums: Array) -> Array:
    """(r, kinds) means over the joints of each one's mean error; sums (r, 2 * groups * joints) of errors, then of their numbers."""
    errors, counts = np.moveaxis(sums.reshape(len(sums), 2, len(GROUPS), 2 * NUM_KEYPOINTS), 1, 0)
    means = np.full((len(sums), len(KINDS)), np.nan)
    for i, groups in enumerate(KINDS.values()):
        top, bottom = errors[:, groups].sum(axis=1), counts[:, groups].sum(axis=1)
        joints = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        num = (bottom > 0).sum(axis=1)
        np.divide(joints.sum(axis=1), num, out=means[:, i], where=num > 0)
    return means
