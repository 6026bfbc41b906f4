"""From the table of hands to the numbers of an evaluation: means, counts, the protocol's own figures and their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import Matches, bootstrap_mean, bootstrap_statistic
from pipelines.evaluation.summary import Figures
from pipelines.evaluation.table import FIGURES, MEAN_HAND, MEAN_HAND_FIGURES

Array = NDArray[np.float64]
Table = Mapping[str, NDArray]

# the figures with an interval: what tables and reports show
WITH_INTERVAL = (
    "error_2d_px",
    "error_2d_fraction",
    "error_2d_input_px",
    "similarity",
    "mask_iou",
    "mpjpe_mm",
    "root_aligned_mpjpe_mm",
    "epe_mm",
    "epe_true_side_mm",
    "pa_mpjpe_mm",
    "pa_mpvpe_mm",
    "auc",
    "auc_vertices",
    "f5",
    "f15",
)


def table_means(table: Table) -> dict[str, Figures]:
    """Means of ours and of the mean hand's figures over the hands that have them; those that none has are left out."""
    return {
        "ours": _means({name: table[name] for name in FIGURES}),
        "mean_hand": _means({name: table[f"{MEAN_HAND}{name}"] for name in MEAN_HAND_FIGURES}),
    }


def _means(columns: Mapping[str, Array]) -> Figures:
    return {name: float(np.nanmean(column)) for name, column in columns.items() if not np.isnan(column).all()}


def hand_type_right(table: Table) -> Array:
    """(rows,) 1 where a found hand's type is right, 0 where it is wrong, NaN elsewhere."""
    return np.where(table["found"], table["side"] == table["predicted_side"], np.nan)


def intervals(table: Table, matches: Matches | None, num_images: int) -> dict[str, list[float]]:
    """95 % intervals [low, high] of our main figures, images drawn with replacement. matches: None where centres were given."""
    columns = {name: table[name] for name in WITH_INTERVAL} | {"hand_type_accuracy": hand_type_right(table)}
    labelled, found = table["labelled"], table["found"]
    if matches is not None:
        columns["precision"] = np.where(found | ~labelled, found, np.nan)
        columns["recall"] = np.where(labelled, found, np.nan)
    columns = {name: column for name, column in columns.items() if not np.isnan(column).all()}
    if not columns:
        return {}
    low_high = bootstrap_mean(np.stack(list(columns.values()), axis=1), table["image"])
    result = {name: interval.tolist() for name, interval in zip(columns, low_high, strict=True)}
    if matches is not None and len(matches.detection_of_hand):
        result["ap"] = bootstrap_statistic(resampled_ap(matches, num_images), num_images).tolist()
    return {name: interval for name, interval in result.items() if np.isfinite(interval).all()}


def resampled_ap(matches: Matches, num_images: int) -> Callable[[NDArray[np.int64]], float]:
    """Average precision of a multiset of images, given as their indices; a detection counts as often as its image was drawn."""
    order = np.argsort(-matches.scores, kind="stable")
    image, found = matches.image_of_detection[order], (matches.hand_of_detection >= 0)[order]
    num_hands = np.bincount(matches.image_of_hand, minlength=num_images)

    def statistic(images: NDArray[np.int64]) -> float:
        times = np.bincount(images, minlength=num_images)
        hands = int(times @ num_hands)
        if hands == 0:
            return np.nan
        weight = times[image]
        seen = np.cumsum(weight)
        precision = np.cumsum(weight * found) / np.maximum(seen, 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return float((envelope * weight * found).sum() / hands)

    return statistic
