"""InterHand2.6M's own figures: per-joint means of single and interacting hands, the distance between the wrists, handedness.

Every hand is aligned at its own wrist, and a joint counts only where its hand has a 3D label; lengths leave in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import handedness_accuracy, mrrpe, point_errors, root_align
from handnet.skeleton import NUM_KEYPOINTS, WRIST
from pipelines.evaluation.measures_3d import MM, is_known

Array = NDArray[np.float64]
GROUPS = ("single", "interacting")


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
        self.sums = np.zeros((len(GROUPS), 2 * NUM_KEYPOINTS))  # the left hand's joints, then the right one's
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
        np.add.at(self.sums, (group[:, None], columns), errors)
        np.add.at(self.counts, (group[:, None], columns), 1.0)
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
        epe = {"epe_mm": self._mean(slice(None))} | {f"epe_{name}_mm": self._mean(slice(i, i + 1)) for i, name in enumerate(GROUPS)}
        roots = np.array(self.roots).reshape(-1, 4, 3)
        distance = mrrpe(*roots.transpose(1, 0, 2)) * MM if len(roots) else np.nan
        probabilities, present = np.array(self.probabilities).reshape(-1, 2), np.array(self.present, bool).reshape(-1, 2)
        return {**epe, "mrrpe_mm": distance, "handedness_accuracy": handedness_accuracy(probabilities, present)}

    def _mean(self, groups: slice) -> float:
        """Mean over the joints of each one's mean error."""
        sums, counts = self.sums[groups].sum(axis=0), self.counts[groups].sum(axis=0)
        seen = counts > 0
        return float((sums[seen] / counts[seen]).mean()) if seen.any() else np.nan
