"""Each protocol's own figures, in the units of the paper's tables: what `headline` in the metrics file holds.

Names and units: docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import bootstrap_mean
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
        figures["epe_larger_hand_mm"] = _mean(_epe_of_larger_hands(table))
    if protocol == "masks":
        figures["mask_iou_all"] = _mean(_ious_of_all_hands(table))
    return {name: value for name, value in (figures | extra).items() if np.isfinite(value)}


def headline_intervals(
    protocol: Protocol, ours: Mapping[str, list[float]], table: Mapping[str, NDArray], extra: Mapping[str, list[float]]
) -> dict[str, list[float]]:
    """95 % intervals [low, high] of the figures of `headline`, from the intervals of ours and of `extra`."""
    found = {name: ours[name] for name in _TAKEN[protocol] if name in ours}
    if protocol == "aligned":
        centimetres = {f"{name}_cm": ours[f"{name}_mm"] for name in ("pa_mpjpe", "pa_mpvpe") if f"{name}_mm" in ours}
        found = {name: [bound / 10 for bound in interval] for name, interval in centimetres.items()} | found
    if protocol == "two-hands":
        found |= _interval("epe_larger_hand_mm", _epe_of_larger_hands(table), table)
    if protocol == "masks":
        found |= _interval("mask_iou_all", _ious_of_all_hands(table), table)
    return {name: interval for name, interval in (found | dict(extra)).items() if np.isfinite(interval).all()}


def _epe_of_larger_hands(table: Mapping[str, NDArray]) -> NDArray[np.float64]:
    return np.where(table["hand"] == 0, table["epe_mm"], np.nan)


def _ious_of_all_hands(table: Mapping[str, NDArray]) -> NDArray[np.float64]:
    """A missed hand overlaps with nothing."""
    return np.where(table["labelled"], np.nan_to_num(table["mask_iou"], nan=0.0), np.nan)


def _interval(name: str, values: NDArray[np.float64], table: Mapping[str, NDArray]) -> dict[str, list[float]]:
    return {name: bootstrap_mean(values, table["image"]).tolist()} if (~np.isnan(values)).any() else {}


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if (~np.isnan(values)).any() else np.nan
