"""Numbers that the paper printed: Tables I to IV with its peers', its comparison of centres, its results in the text, its run times.

Ren, Zhu, Zhang, "End-to-end Weakly-supervised Multiple 3D Hand Mesh Reconstruction from Single Image". Cells are the printed text, so
that no digit is added or lost. They were measured on the named dataset by others; nothing here is measured by this project.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Ren, Zhu, Zhang: End-to-end Weakly-supervised Multiple 3D Hand Mesh Reconstruction from Single Image"
THEIRS = "Ours"  # what the paper calls its own method
NOT_PRINTED = "-"
LOWER, HIGHER = "↓", "↑"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row: the method with its number in the paper's list of references ("" for the paper's own), its settings and values."""

    method: str
    reference: str
    settings: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def is_the_papers(self) -> bool:
        """Whether it is the paper's own method, not one of its peers."""
        return self.method == THEIRS


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table: `settings` and `measures` head its columns; `figures` names what this project calls each measure; `better` its arrow."""

    name: str
    title: str
    dataset: str  # as people call it
    key: str  # as this project's adapters call it
    source: str  # where in the paper
    settings: tuple[str, ...]
    measures: tuple[str, ...]
    figures: tuple[str, ...]
    unit: str
    better: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    notes: str = ""

    def __post_init__(self) -> None:
        assert len(self.measures) == len(self.figures) == len(self.better)
        for row in self.rows:
            assert len(row.settings) == len(self.settings), row
            assert len(row.values) == len(self.measures), row

    def number(self, row: PublishedRow, measure: str) -> float | None:
        """A cell as a number; None where nothing was printed."""
        text = row.values[self.measures.index(measure)].rstrip("*")
        return None if text == NOT_PRINTED else float(text)


def _row(method: str, reference: str, settings: str, values: str) -> PublishedRow:
    return PublishedRow(method=method, reference=reference, settings=tuple(settings.split()), values=tuple(values.split()))


_ALIGNED = ("MPJPE", "AUC_J", "MPVPE", "AUC_V", "F_5", "F_15")
_ALIGNED_FIGURES = ("pa_mpjpe_mm", "auc", "pa_mpvpe_mm", "auc_vertices", "f5", "f15")
_ALIGNED_BETTER = (LOWER, HIGHER, LOWER, HIGHER, HIGHER, HIGHER)

TABLE_I = PublishedTable(
    name="I",
    title="Model-based methods on FreiHAND",
    dataset="FreiHAND",
    key="freihand",
    source="Table I",
    settings=("supervision", "camera intrinsics"),
    measures=_ALIGNED,
    figures=_ALIGNED_FIGURES,
    unit="cm",
    better=_ALIGNED_BETTER,
    rows=(
        _row("Boukhayma et al.", "[9]", "3D yes", "3.50 0.351 1.32 0.738 0.427 0.895"),
        _row("ObMan", "[60]", "3D yes", "1.33 0.737 1.33 0.736 0.429 0.907"),
        _row("ManoCNN", "[1]", "3D yes", "1.10 0.783 1.09 0.783 0.516 0.934"),
        _row("ManoFit", "[1]", "3D yes", "1.37 0.730 1.37 0.729 0.439 0.892"),
        _row("HTML", "[61]", "3D yes", "1.11 0.781 1.10 0.781 0.508 0.930"),
        _row(THEIRS, "", "3D no", "0.80 0.840 0.81 0.839 0.649 0.966"),
        _row("Biomechanical", "[32]", "2D yes", "1.13 0.780 - - - -"),
        _row("S2HAND", "[3]", "2D yes", "1.18 0.766 1.19 0.765 0.48 0.92"),
        _row(THEIRS, "", "2D no", "1.07 0.788 1.10 0.782 0.500 0.937"),
    ),
    notes="Errors after Procrustes alignment by the FreiHAND server. The paper's text gives AUC_J 0.787 where its table prints 0.788.",
)

TABLE_II = PublishedTable(
    name="II",
    title="Model-based methods on HO-3D v2",
    dataset="HO-3D v2",
    key="ho3d",
    source="Table II",
    settings=("supervision",),
    measures=_ALIGNED,
    figures=_ALIGNED_FIGURES,
    unit="cm",
    better=_ALIGNED_BETTER,
    rows=(
        _row("HO3D", "[2]", "3D", "1.07 0.788 1.06 0.790 0.51 0.94"),
        _row("ObMan", "[60]", "3D", "- - 1.10 0.780 0.46 0.93"),
        _row("Photometric", "[62]", "3D", "1.11 0.773 1.14 0.773 0.43 0.93"),
        _row(THEIRS, "", "3D", "1.01 0.799 0.97 0.805 0.524 0.953"),
        _row("S2HAND", "[3]", "2D", "1.14 0.773 1.12 0.777 0.45 0.93"),
        _row(THEIRS, "", "2D", "1.03 0.794 1.01 0.797 0.502 0.951"),
    ),
    notes="Errors after Procrustes alignment by the HO-3D server.",
)

TABLE_III = PublishedTable(
    name="III",
    title="End point error on RHD",
    dataset="RHD",
    key="rhd",
    source="Table III",
    settings=("true scale used", "true hand type used"),
    measures=("EPE",),
    figures=("epe_mm",),
    unit="mm",
    better=(LOWER,),
    rows=(
        _row("RHD", "[28]", "yes yes", "30.42"),
        _row("Yang and Yao", "[63]", "yes yes", "19.95"),
        _row("Spurr et al.", "[64]", "yes yes", "19.73"),
        _row("Spurr et al.", "[64]", "no no", "22.53"),
        _row("InterNet", "[21]", "no no", "20.89"),
        _row(THEIRS, "", "no no", "20.72"),
    ),
    notes="Joints aligned at the wrist; images cropped to the hands, 224 px. The peers' numbers are the paper's copies from [21].",
)

_ON, _OFF = "✓", "–"
LOSS_TERMS = ("baseline", "reg", "aug", "con", "bone", "pho", "3D")


def _combination(terms: str, values: str) -> PublishedRow:
    """A row of Table IV; `terms`: those that are on, beside the baseline."""
    chosen = {"baseline", *terms.split()}
    assert chosen <= set(LOSS_TERMS)
    settings = tuple(_ON if term in chosen else _OFF for term in LOSS_TERMS)
    return PublishedRow(method=THEIRS, reference="", settings=settings, values=tuple(values.split()))


TABLE_IV = PublishedTable(
    name="IV",
    title="Combinations of loss terms on FreiHAND",
    dataset="FreiHAND",
    key="freihand",
    source="Table IV",
    settings=LOSS_TERMS,
    measures=("MPJPE", "MPVPE"),
    figures=("pa_mpjpe_mm", "pa_mpvpe_mm"),
    unit="cm",
    better=(LOWER, LOWER),
    rows=(
        _combination("", "2.98 3.16"),
        _combination("reg", "1.66 1.72"),
        _combination("reg aug", "1.53 1.61"),
        _combination("reg con", "1.64 1.71"),
        _combination("reg con bone", "1.43 1.45"),
        _combination("reg aug con", "1.48 1.56"),
        _combination("reg aug bone", "1.13 1.17"),
        _combination("reg aug con bone", "1.07 1.10"),
        _combination("reg aug con bone pho", "1.07 1.10*"),
        _combination("reg aug con bone 3D", "0.80 0.81"),
        _combination("reg aug con bone pho 3D", "0.80 0.81*"),
    ),
    notes="The baseline is the reprojection of keypoints alone. * with the hand's texture.",
)

CENTERS = PublishedTable(
    name="centres",
    title="Definitions of the hand's centre on FreiHAND",
    dataset="FreiHAND",
    key="freihand",
    source="section IV-D, Hand Center",
    settings=("centre",),
    measures=("MPJPE", "MPVPE"),
    figures=("pa_mpjpe_mm", "pa_mpvpe_mm"),
    unit="cm",
    better=(LOWER, LOWER),
    rows=(
        PublishedRow(method=THEIRS, reference="", settings=("box",), values=("1.09", "1.12")),
        PublishedRow(method=THEIRS, reference="", settings=("keypoints",), values=("1.07", "1.10")),
    ),
    notes="box: centre of the bounding box; keypoints: mean of the visible landmarks, which the paper chose.",
)

TABLES = (TABLE_I, TABLE_II, TABLE_III, TABLE_IV)


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """A result of the paper's own method that stands in its text (section IV-C); texts as printed, "-" where it gives none."""

    dataset: str
    key: str
    setting: str
    supervision: str
    error_px: str
    error_mm: str
    what_mm: str
    hand_type: str = NOT_PRINTED


IN_THE_TEXT = (
    PublishedResult(
        dataset="FreiHAND, a random tenth of the training set", key="freihand", setting="224 px", supervision="2D",
        error_px="6.64", error_mm="12.94", what_mm="absolute joints",
    ),
    PublishedResult(
        dataset="FreiHAND, a random tenth of the training set", key="freihand", setting="224 px", supervision="3D",
        error_px="5.88", error_mm="6.50", what_mm="absolute joints",
    ),
    PublishedResult(
        dataset="RHD", key="rhd", setting="cropped, 224 px", supervision="2D",
        error_px="8.09", error_mm="20.72", what_mm="EPE", hand_type="97.65 %",
    ),
    PublishedResult(
        dataset="RHD", key="rhd", setting="whole image, 320 px", supervision="2D",
        error_px="9.14", error_mm="21.02", what_mm="EPE",
    ),
    PublishedResult(
        dataset="InterHand2.6M", key="interhand", setting="cropped, 224 px", supervision="2D",
        error_px="10.98", error_mm="27.65", what_mm="EPE",
    ),
    PublishedResult(
        dataset="InterHand2.6M", key="interhand", setting="whole image, 512 px", supervision="2D",
        error_px="15.82", error_mm="23.88", what_mm="EPE",
    ),
    PublishedResult(
        dataset="scenes composed of single-hand datasets", key="scenes", setting="whole image, 512 px", supervision="2D",
        error_px="8.56", error_mm="21.48", what_mm="EPE",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PublishedTime:
    """A run time of section IV-D in ms, on a device the paper does not name."""

    method: str
    reference: str
    input_px: int
    ms: str


TIMES = (
    PublishedTime(method=THEIRS, reference="", input_px=224, ms="11.8"),
    PublishedTime(method="InterHand", reference="[21]", input_px=224, ms="16.4"),
    PublishedTime(method="S2HAND", reference="[3]", input_px=224, ms="58.7"),
    PublishedTime(method=THEIRS, reference="", input_px=512, ms="36.5"),
)
SPEED_STATEMENT = (
    "The computational cost grows linearly using multi-stage pipeline while our single-stage pipeline only needs single forward pass."
)
SPEED_SOURCE = "Fig. 9"
