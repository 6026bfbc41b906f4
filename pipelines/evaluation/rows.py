"""What the table of hands says of an image before anything is measured: its labelled hands, then the detections that matched none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handnet.centers import CenterDefinition
from handnet.skeleton import ROOT
from pipelines.datasets.sample import HandLabel
from pipelines.evaluation.labels import hand_size_px, is_measurable, labelled_keypoints
from pipelines.evaluation.matching import ImageMatch
from pipelines.evaluation.predicted import PredictedHands
from pipelines.evaluation.table import Rows
from pipelines.loading import label_center

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RowPlaces:
    """Rows of one image: `hands` of its labelled hands, `found` of those matched by `detections`, `extra` of the `unmatched` detections."""

    hands: NDArray[np.int64]
    found: NDArray[np.int64]
    detections: NDArray[np.int64]
    extra: NDArray[np.int64]
    unmatched: NDArray[np.int64]


def row_places(first: int, match: ImageMatch, kept: NDArray[np.bool_], score: Array) -> RowPlaces:
    """Places for an image's rows from row `first` on; unmatched ones are `kept` (D,) detections, best first."""
    num_hands = len(match.detection_of_hand)
    found = np.flatnonzero(match.detection_of_hand >= 0)
    unmatched = np.flatnonzero(kept & (match.hand_of_detection < 0))
    unmatched = unmatched[np.argsort(-score[unmatched], kind="stable")]
    return RowPlaces(
        hands=first + np.arange(num_hands),
        found=first + found,
        detections=match.detection_of_hand[found],
        extra=first + num_hands + np.arange(len(unmatched)),
        unmatched=unmatched,
    )


def put_identity(
    rows: Rows,
    places: RowPlaces,
    number: int,
    key: str,
    hands: Sequence[HandLabel],
    size_px: tuple[int, int],
    predicted: PredictedHands,
    kept: NDArray[np.bool_],
    definition: CenterDefinition,
) -> None:
    """Fill the columns of one image that say what its rows are. size_px: height and width of the image."""
    both = np.concatenate([places.hands, places.extra])
    rows.put("key", both, np.array([key] * len(both), object))
    rows.put("image", both, np.full(len(both), number))
    rows.put("num_hands", both, np.full(len(both), len(hands)))
    for name, values in label_columns(hands, size_px).items():
        rows.put(name, places.hands, values)
    rows.put("found", places.found, np.ones(len(places.found), bool))
    for at, detections in ((places.found, places.detections), (places.extra, places.unmatched)):
        rows.put("score", at, predicted.score[detections])
        rows.put("predicted_side", at, predicted.side[detections])
    centers = np.array([label_center(hand, definition) for hand in hands], np.float64).reshape(-1, 2)
    apart = np.linalg.norm(predicted.center_px[kept][:, None] - centers[None], axis=2)
    if apart.size:
        rows.put("center_distance_px", places.hands, apart.min(axis=0))
        rows.put("center_distance_px", places.extra, apart[np.cumsum(kept)[places.unmatched] - 1].min(axis=1))
    own = predicted.center_px[places.detections] - centers[places.found - (places.hands[0] if len(places.hands) else 0)]
    rows.put("center_distance_px", places.found, np.linalg.norm(own, axis=1))


def label_columns(hands: Sequence[HandLabel], size_px: tuple[int, int]) -> dict[str, NDArray]:
    """What is known of labelled hands in an image of (height, width) pixels, by column."""
    known = np.array([labelled_keypoints(hand) for hand in hands], bool).reshape(-1, 21)
    keypoints = np.array([hand.keypoints_px for hand in hands], np.float64).reshape(-1, 21, 2)
    visible = np.array([hand.visible for hand in hands], bool).reshape(-1, 21)
    inside = known & ((keypoints >= 0) & (keypoints < (size_px[1], size_px[0]))).all(axis=2)
    # which keypoints are hidden is known only where the position of all of them is
    complete = known.all(axis=1) & inside.any(axis=1)
    hidden = 1 - (visible & inside).sum(axis=1) / np.maximum(inside.sum(axis=1), 1)
    boxes = np.array([hand.box_px for hand in hands], np.float64).reshape(-1, 4)
    return {
        "hand": np.arange(len(hands)),
        "source_id": np.array([hand.source_id for hand in hands], object),
        "labelled": np.ones(len(hands), bool),
        "side": np.array([hand.side for hand in hands], np.int64),
        "size_px": np.array([hand_size_px(hand) if is_measurable(hand) else np.nan for hand in hands], np.float64),
        "box_px": (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0),
        "visible": visible.mean(axis=1),
        "occluded": np.where(complete, hidden, np.nan),
        "truncated": (known & ~inside).any(axis=1),
        "distance_m": np.array([np.nan if hand.keypoints_m is None else hand.keypoints_m[ROOT, 2] for hand in hands], np.float64),
    }
