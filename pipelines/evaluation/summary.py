"""From figures per hand to the numbers of an evaluation: means, AUCs, detection quality and PCK curves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import Matches, average_precision, precision_recall
from pipelines.evaluation.measures import Measured

Array = NDArray[np.float64]
Figures = dict[str, float]


def mean_figures(measured: Measured) -> Figures:
    """Mean over the hands that have each figure; NaN where none has."""
    return {name: float(np.nanmean(column)) if (~np.isnan(column)).any() else np.nan for name, column in measured.columns.items()}


def detection_figures(matches: Matches, score_threshold: float) -> Figures:
    """Precision and recall of the detections that score at least the threshold, and AP over all of them."""
    precision, recall = precision_recall(matches.above(score_threshold))
    return {"precision": precision, "recall": recall, "ap": average_precision(matches)}


def finite_figures(figures: Figures) -> Figures:
    """Figures without those nothing was there to measure for."""
    return {name: value for name, value in figures.items() if np.isfinite(value)}
