"""Each protocol's own figures, in the units of the paper's tables: what `headline` in the metrics file holds.

Names and units: docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.config import Protocol
from pipelines.evaluation.summary import Figures

DETECTION = ("precision", "recall", "ap")
_TAKEN: dict[Protocol, tuple[str, ...]] = {
    "aligned": ("auc", "auc_vertices", "f5", "f15"),
    "two-hands": ("epe_mm", "epe_true_side_mm", "error_2d_input_px", "hand_type_accuracy", *DETECTION),
    "interhand": ("error_2d_input_px", "epe_true_side_mm", "hand_type_accuracy", *DETECTION),
    "scenes": ("error_2d_px", "error_2d_fraction", "epe_mm", "hand_type_accuracy", *DETECTION),
    "masks": ("mask_iou", "hand_type_accuracy", *DETECTION),
}


def headline(protocol: Protocol, ours: Figures, table: Mapping[str, NDArray], extra: Figures) -> Figures:
    """The protocol's figures out of our means, the table of hands, and what only the protocol measures (`extra`)."""
    figures = {name: ours[name] for name in _TAKEN[protocol] if name in ours}
    if protocol == "aligned":  # Tables I and II have centimetres
        figures = {f"{name}_cm": ours[f"{name}_mm"] / 10 for name in ("pa_mpjpe", "pa_mpvpe") if f"{name}_mm" in ours} | figures
    if protocol == "two-hands":
        # the data's owners measure the hand with the larger mask, which adapters put first
        figures["epe_larger_hand_mm"] = _mean(table["epe_mm"][table["hand"] == 0])
    if protocol == "masks":
        ious = table["mask_iou"][table["labelled"]]
        figures["mask_iou_all"] = _mean(np.nan_to_num(ious, nan=0.0))  # a missed hand overlaps with nothing
    return {name: value for name, value in (figures | extra).items() if np.isfinite(value)}


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if (~np.isnan(values)).any() else np.nan
