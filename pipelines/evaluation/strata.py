"""The error by stratum: hands per image, occlusion, size, side, distance, truncation; each with its counts and 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import bootstrap_mean
from handnet.skeleton import SIDES
from pipelines.config import EvaluationConfig
from pipelines.evaluation.outputs import rounded

SCHEMA = 1
FIGURES = ("error_2d_px", "error_2d_fraction", "root_aligned_mpjpe_mm", "epe_mm", "pa_mpjpe_mm", "pa_mpvpe_mm", "mask_iou")


@dataclass(frozen=True, kw_only=True)
class Stratification:
    """Cuts a column at `edges`: stratum i holds edges[i] <= value < edges[i + 1]; `labels` name the strata."""

    name: str
    column: str
    edges: tuple[float, ...]
    labels: tuple[str, ...]


def _between(name: str, column: str, unit: str, *edges: float) -> Stratification:
    inner = [f"{low:g} to {high:g}{unit}" for low, high in pairwise(edges)]
    labels = (f"below {edges[0]:g}{unit}", *inner, f"from {edges[-1]:g}{unit}")
    return Stratification(name=name, column=column, edges=(-np.inf, *edges, np.inf), labels=labels)


STRATIFICATIONS = (
    Stratification(
        name="hands_per_image", column="num_hands", edges=(1, 2, 3, 5, 7, np.inf), labels=("1", "2", "3 to 4", "5 to 6", "7 and more")
    ),
    Stratification(
        name="occlusion",
        column="occluded",
        edges=(0.0, 1e-9, 0.25, 0.5, np.inf),
        labels=("none", "below 25 %", "25 to 50 %", "50 % and more"),
    ),
    _between("size", "box_px", " px", 48, 96, 160, 320),
    Stratification(name="side", column="side", edges=(0, 1, 2), labels=SIDES),
    _between("distance", "distance_m", " m", 0.4, 0.6, 0.8, 1.2),
    Stratification(name="truncation", column="truncated", edges=(0, 1, 2), labels=("inside the image", "partly outside")),
)


def setting(config: EvaluationConfig, joints: Mapping[str, object]) -> dict[str, Any]:
    """How the figures were measured. joints: the model's convention, the compared one, and those of the labels."""
    return {
        "schema": SCHEMA,
        "model": config.model,
        "data": config.data,
        "protocol": config.protocol,
        "centers": config.centers,
        "score_threshold": config.score_threshold,
        "min_similarity": config.min_similarity,
        "joints": joints,
    }


def stratify(table: Mapping[str, NDArray]) -> dict[str, list[dict[str, Any]]]:
    """Per stratification its strata that hold a labelled hand, in order.

    Each: label, low and high (None: unbounded), hands and images in it, found, recall, and per figure of the found hands
    its mean, its interval and how many hands have it.
    """
    labelled, found, image = table["labelled"], table["found"], table["image"]
    figures = {name: table[name] for name in FIGURES}
    result = {}
    for cut in STRATIFICATIONS:
        values = table[cut.column].astype(np.float64)
        strata = []
        for (low, high), label in zip(pairwise(cut.edges), cut.labels, strict=True):
            inside = labelled & (values >= low) & (values < high)
            if inside.any():
                own = {name: column[inside] for name, column in figures.items()}
                strata.append({"label": label, "low": _bound(low), "high": _bound(high), **_stratum(own, found[inside], image[inside])})
        result[cut.name] = strata
    return result


def _stratum(figures: Mapping[str, NDArray], found: NDArray[np.bool_], image: NDArray[np.int64]) -> dict[str, Any]:
    columns = {"recall": found.astype(np.float64)} | {name: values for name, values in figures.items() if not np.isnan(values).all()}
    low_high = bootstrap_mean(np.stack(list(columns.values()), axis=1), image)
    return {
        "hands": len(found),
        "images": len(np.unique(image)),
        "found": int(found.sum()),
        "figures": {
            name: {
                "mean": rounded(float(np.nanmean(values))),
                "ci95": [rounded(bound) for bound in interval.tolist()],
                "hands": int((~np.isnan(values)).sum()),
            }
            for (name, values), interval in zip(columns.items(), low_high, strict=True)
        },
    }


def _bound(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
