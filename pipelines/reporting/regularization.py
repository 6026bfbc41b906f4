"""The paper's Fig. 10 on this run's hands: the first stage's model beside one that was trained without the pose regularisation L_reg.

The second model is no part of the graph: its folder is `report.unregularized`, and `commands` make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from handnet.hand.pose_limits import limit_excess
from handnet.network.files import DESCRIPTION_NAME, WEIGHTS_NAME
from handnet.predict import Predictor
from pipelines.datasets.sample import HandSample
from pipelines.progress import Progress
from pipelines.reporting.inputs import MODELS
from pipelines.reporting.overlays import plain
from pipelines.reporting.pictures import Cell, PictureTable, Row, evenly_spaced
from pipelines.reporting.predictions import PredictionTable

STAGE, RUN = "crop", "unregularized"
TERMS = ("pose_limits", "shape_prior")  # L_reg is their sum
NUM_MEASURED = 64  # held-out hands, of which the worst are shown
BEYOND_DEG = 5.0  # an angle that is further outside its limits than this is counted


def commands(folder: str) -> tuple[str, ...]:
    """What makes the second model in `folder`, and then the report with it."""
    switched_off = " ".join(f"-S train.{STAGE}.loss.{term}=0" for term in TERMS)
    return (
        f"dvc exp run --temp -n {RUN} {switched_off} train_{STAGE}",
        f"dvc get . {MODELS / STAGE} --rev {RUN} -o {folder}",
        "dvc repro report",
    )


@dataclass(frozen=True, kw_only=True)
class Implausible:
    """One model's poses: name for people, share of hands with an angle beyond its limits, mean of their furthest angle in degrees."""

    name: str
    share: float
    furthest_deg: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How implausible either model's poses are over `num_hands` held-out hands, and the hands where the second one's are worst.

    beyond_deg: an angle counts that is this far outside its limits.
    """

    num_hands: int
    beyond_deg: float
    models: tuple[Implausible, ...]
    pictures: PictureTable


def has_second_model(folder: Path) -> bool:
    """Whether the second model's folder is there. ValueError if it is no model's."""
    if not folder.exists():
        return False
    for file in (DESCRIPTION_NAME, WEIGHTS_NAME):
        if not (folder / file).is_file():
            making = f"{commands(folder.as_posix())[1]!r} makes it"
            raise ValueError(f"{folder / file}: not found; report.unregularized: expected the folder of a model, as {making}")
    return True


def compare_regularization(maker: PredictionTable, folder: Path, num: int, progress: Progress) -> Comparison:
    """`maker`: of single hands by the run's own model; folder: the second model's. ValueError where that cannot be read."""
    other = PredictionTable(maker.name, maker.config, maker.reader, Predictor.load(folder))
    samples = [sample for i in evenly_spaced(len(maker.reader), NUM_MEASURED) for sample in maker.single_hands(i)]
    excess = np.stack([_furthest_deg(table, samples) for table in (maker, other)])
    worst = np.argsort(-excess[1], kind="stable")[:num]
    rows = []
    for i in worst.tolist():
        rows.append(_row(maker, other, samples[i], excess[:, i]))
        progress.advance()
    names = ("with", "without")
    return Comparison(
        num_hands=len(samples),
        beyond_deg=BEYOND_DEG,
        models=tuple(
            Implausible(name=name, share=float((own > BEYOND_DEG).mean()), furthest_deg=float(own.mean()))
            for name, own in zip(names, excess, strict=True)
        ),
        pictures=PictureTable(
            name="regularization",
            alt="Hands predicted by the model and by one trained without pose regularisation, over the image and turned by 90 degrees.",
            columns=("input", "with", "without", "with, turned by 90°", "without, turned by 90°"),
            rows=tuple(rows),
            note=f"The {len(rows)} of {len(samples)} evenly spaced hands whose joints the model without regularisation bends furthest.",
        ),
    )


def _furthest_deg(table: PredictionTable, samples: Sequence[HandSample]) -> NDArray[np.float64]:
    """(N,) how far the furthest joint angle of each hand lies outside its limits, degrees."""
    hands = [table.predict(sample)[1][0] for sample in samples]
    pose = torch.as_tensor(np.array([hand.mano[3:48] for hand in hands]), dtype=torch.float64)
    excess = limit_excess(pose, torch.as_tensor([hand.side for hand in hands]), table.predictor.layer.joint_axes.double().cpu())
    return np.degrees(excess.flatten(1).amax(1).numpy())


def _row(maker: PredictionTable, other: PredictionTable, sample: HandSample, excess: NDArray[np.float64]) -> Row:
    shown = [table.predict(sample)[0] for table in (maker, other)]
    image = sample.image
    over = [maker.painter.shaded(image, hands) for hands in shown]
    turned = [maker.painter.turned(image, hands, None) for hands in shown]
    texts = ("", ", with regularisation", ", without regularisation", ", with regularisation, turned", ", without regularisation, turned")
    cells = (plain(sample), *over, *turned)
    return Row(
        name=sample.key,
        caption=f"{sample.key}: furthest angle {excess[0]:.0f}° beyond its limits with, {excess[1]:.0f}° without",
        cells=tuple(Cell(image=picture, alt=f"Image {sample.key}{text}") for picture, text in zip(cells, texts, strict=True)),
    )
