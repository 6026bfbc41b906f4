"""The paper's ablations as overrides of params.yaml: combinations of losses, centre definitions, supervision, augmentation.

Overrides are what `dvc exp run -S` takes, for both training stages. They name every value that the ablation is about, so that they say
the same on any preset; everything else, and how strong augmentation is where it is on, stays as the preset has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from handnet.losses.weights import TABLE_IV as LOSS_ROWS
from handnet.losses.weights import LossWeights
from pipelines.published import CENTERS, LOSS_TERMS, TABLE_IV, PublishedRow, PublishedTable

STAGES: Final = ("crop", "multi")
# the terms that Table IV switches; the baseline's reprojection is on in every row
_SWITCHED: Final = ("reprojection", "pose_limits", "shape_prior", "consistency", "bones", "photometric", "joints_3d", "vertices_3d")
# flips stay: where a dataset shows right hands only, they are what makes the left ones
_NOT_AUGMENTED: Final = ("scale=[1.0,1.0]", "translate=0.0", "rotate_deg=0.0", "color=0.0")


@dataclass(frozen=True)
class Run:
    """One training run: the name of its DVC experiment, and what it overrides."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of an ablation's table: `name` is part of its runs' names, `settings` its cells, `published` the paper's row beside it."""

    name: str
    settings: tuple[str, ...]
    overrides: tuple[str, ...]
    published: PublishedRow | None


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A set of variants. `models` names those whose evaluations belong to it, `reference` the variant that the paper chose."""

    name: str
    title: str
    published: PublishedTable
    settings: tuple[str, ...]
    models: tuple[str, ...]
    reference: str
    variants: tuple[Variant, ...]
    notes: str

    def runs(self, seeds: Iterable[int]) -> list[Run]:
        """Every variant once for each training seed, all variants of a seed before the next seed."""
        return [self.run(variant, seed) for seed in seeds for variant in self.variants]

    def run(self, variant: Variant, seed: int) -> Run:
        """One variant with one training seed; data and held-out hands are the same for all."""
        return Run(f"{self.name}-{variant.name}-s{seed}", (f"train.seed={seed}", *variant.overrides))


def _both(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"train.{stage}.{value}" for stage in STAGES for value in values)


def _losses(weights: LossWeights) -> tuple[str, ...]:
    supervision = "3d" if weights.joints_3d or weights.vertices_3d else "2d"
    return _both([f"supervision={supervision}", *(f"loss.{term}={getattr(weights, term)}" for term in _SWITCHED)])


def _augmentation(on: bool) -> tuple[str, ...]:
    """How much augmentation there is where it is on is the preset's to say."""
    return () if on else _both([f"augment.{value}" for value in _NOT_AUGMENTED])


def _published(row: str) -> PublishedRow:
    """The paper's row of Table IV for one of this project's combinations: both list them in the paper's order."""
    return TABLE_IV.rows[list(LOSS_ROWS).index(row)]


def _combination(row: str) -> Variant:
    published = _published(row)
    overrides = _losses(LOSS_ROWS[row]) + _augmentation("aug" in row.split("+"))
    return Variant(name=row.replace("+", "-"), settings=published.settings, overrides=overrides, published=published)


def _chosen(name: str, setting: str, row: str) -> Variant:
    return Variant(name=name, settings=(setting,), overrides=_combination(row).overrides, published=_published(row))


def _center(definition: str, setting: str) -> Variant:
    published = next((row for row in CENTERS.rows if row.settings == (definition,)), None)
    return Variant(name=definition, settings=(setting,), overrides=_both([f"center={definition}"]), published=published)


_OWN_TERMS = (
    "Terms that Table IV does not name (localisation, side, window, keypoints read in each hand's window) stay in every row as the preset "
    "has them, so that the first row is not as bare as the paper's."
)
_FLIPS = "Without augmentation images are not scaled, moved, turned or recoloured; mirroring stays, since it makes the left hands."

_ALL: Final = (
    Ablation(
        name="losses",
        title="Combinations of loss terms (Table IV)",
        published=TABLE_IV,
        settings=LOSS_TERMS,
        models=("crop",),
        reference="rep-reg-aug-con-bone",
        variants=tuple(_combination(row) for row in LOSS_ROWS),
        notes=f"{_OWN_TERMS} {_FLIPS}",
    ),
    Ablation(
        name="centers",
        title="Definitions of the hand's centre",
        published=CENTERS,
        settings=("centre",),
        models=("crop", "multi"),
        reference="keypoints",
        variants=(
            _center("keypoints", "mean of the visible keypoints"),
            _center("box", "middle of the bounding box"),
            _center("root", "root of the middle finger"),
        ),
        notes="Both stages train with, and evaluation chooses frames by, the row's centre. The paper prints no number for a fixed joint: "
        "it calls one unsuitable, since some datasets do not label hidden joints.",
    ),
    Ablation(
        name="supervision",
        title="2D against 3D supervision",
        published=TABLE_IV,
        settings=("supervision",),
        models=("crop", "multi"),
        reference="2d",
        variants=(_chosen("2d", "2D", "rep+reg+aug+con+bone+pho"), _chosen("3d", "3D", "rep+reg+aug+con+bone+pho+3d")),
        notes="Both stages. The paper's numbers are the rows of Table IV with every other term on.",
    ),
    Ablation(
        name="augmentation",
        title="With and without augmentation",
        published=TABLE_IV,
        settings=("augmentation",),
        models=("crop", "multi"),
        reference="with",
        variants=(_chosen("with", "with", "rep+reg+aug+con+bone"), _chosen("without", "without", "rep+reg+con+bone")),
        notes=f"Both stages. {_FLIPS} The paper's numbers are the two rows of Table IV that differ in augmentation alone.",
    ),
)

ABLATIONS: Final[dict[str, Ablation]] = {ablation.name: ablation for ablation in _ALL}
