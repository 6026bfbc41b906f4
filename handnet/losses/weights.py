"""Which terms a training objective has, how much each counts, and the forms that differ between paper and released code.

Presets: the paper's two stages, the released code's weights, and the rows of Table IV. Without torch: commands that only plan runs read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final, Literal, get_args

ReprojectionForm = Literal["paper", "released"]
PoseLimits = Literal["anatomical", "released"]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the named terms; a term of weight 0 is not computed."""

    center: float = 1.0  # Eq. 2, 3
    hand_type: float = 1.0
    side: float = 1.0
    window: float = 1.0
    heatmap: float = 0.0
    keypoints: float = 0.0
    keypoint_maps: float = 0.0
    pull: float = 0.0  # joint assignment
    push: float = 0.0
    reprojection: float = 1.0  # Eq. 8
    bones: float = 1.0
    photometric: float = 0.0  # Eq. 9
    silhouette: float = 0.0
    pose_limits: float = 1.0  # Eq. 10
    shape_prior: float = 0.1
    consistency: float = 0.0  # Eq. 11
    joints_3d: float = 0.0  # full supervision
    vertices_3d: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"LossWeights.{field.name}: expected a finite weight >= 0, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """How terms are computed; the defaults are the paper's, "released" is what its released code does instead."""

    reprojection_form: ReprojectionForm = "paper"
    limits: PoseLimits = "anatomical"
    render_px: int = 64  # width of the images that the photometric and silhouette terms compare
    render_images: int = 8  # images of a batch that they compare, at the most

    def __post_init__(self) -> None:
        for name, kind in (("reprojection_form", ReprojectionForm), ("limits", PoseLimits)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"LossOptions.{name}: expected one of {list(get_args(kind))}, got {getattr(self, name)!r}")
        for name in ("render_px", "render_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"LossOptions.{name}: expected 1 or more, got {getattr(self, name)!r}")


# Every column of Table IV. The paper names no weight; these balance the terms, and those of Eq. 10 are what 2D labels alone were found
# to need. `window` and `keypoints` are not the paper's: Eq. 11 needs estimates of the keypoints inside each hand's window.
_FULL: Final = LossWeights(
    side=0.0,
    heatmap=0.05,  # a hand has up to 21 keypoints and is counted once
    keypoints=10.0,
    reprojection=10.0,
    bones=5.0,
    photometric=1.0,
    pose_limits=30.0,
    shape_prior=0.5,
    consistency=1.0,
    joints_3d=10.0,
    vertices_3d=10.0,
)

# Columns of Table IV beside its baseline (reprojection only) and what each of them adds; augmentation ("aug") is not a loss.
_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "reg": ("pose_limits", "shape_prior"),
    "aug": (),
    "con": ("consistency",),
    "bone": ("bones",),
    "pho": ("photometric",),
    "3d": ("joints_3d", "vertices_3d"),
}
_ROWS: Final = (
    "rep",
    "rep+reg",
    "rep+reg+aug",
    "rep+reg+con",
    "rep+reg+con+bone",
    "rep+reg+aug+con",
    "rep+reg+aug+bone",
    "rep+reg+aug+con+bone",
    "rep+reg+aug+con+bone+pho",
    "rep+reg+aug+con+bone+3d",
    "rep+reg+aug+con+bone+pho+3d",
)


def _row(name: str) -> LossWeights:
    kept = name.split("+")
    return replace(_FULL, **{term: 0.0 for column, terms in _COLUMNS.items() if column not in kept for term in terms})


TABLE_IV: Final[dict[str, LossWeights]] = {name: _row(name) for name in _ROWS}

_WEAK: Final = TABLE_IV["rep+reg+aug+con+bone+pho"]

LOSS_PRESETS: Final[dict[str, LossWeights]] = {
    "paper-crop": replace(_WEAK, center=0.0),  # first stage: the centre is known
    "paper": replace(_WEAK, pull=1.0, push=1.0),  # second stage: everything
    # the released code's, to be used with the released forms of LossOptions; it counts heatmaps by keypoint, this code by hand
    "released": LossWeights(
        center=100.0,
        hand_type=20.0,
        side=0.0,
        heatmap=10.0 / 21,
        reprojection=10.0,
        bones=100.0,
        photometric=100.0,
        pose_limits=1000.0,
        shape_prior=100.0,
    ),
    **TABLE_IV,
}
