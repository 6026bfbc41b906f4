"""What the network is shown of a sample: a square frame around one hand, or the whole image; no augmentation.

Each frame keeps the map from image pixels to its own, so that predictions can be brought back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from handnet.centers import CenterDefinition
from pipelines.augment import fixed_view, warp_image
from pipelines.datasets.sample import HandLabel, HandSample, transform_points
from pipelines.loading import crop_sample, label_center, view_center

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """image (S, S, 3) uint8; K (3, 3) and affine (2, 3), image pixels -> frame pixels; centers_px (n, 2) in frame pixels or None."""

    image: NDArray[np.uint8]
    K: Array
    affine: Array
    centers_px: Array | None

    @property
    def side_in_image_px(self) -> float:
        """The side of the frame in pixels of the image it was taken from."""
        return self.image.shape[0] / float(np.sqrt(abs(np.linalg.det(self.affine[:, :2]))))


def crop_frame(
    sample: HandSample, hand: HandLabel, input_px: int, definition: CenterDefinition, box_scale: float | None = None
) -> Frame:
    """The crop with the true centre of `hand` in its middle, `box_scale` times as large as its box; None: at the image's whole scale."""
    image, K, affine = crop_sample(sample, hand, input_px, definition, box_scale)
    return Frame(image=image, K=K, affine=affine, centers_px=np.full((1, 2), input_px / 2))


def middle_frame(sample: HandSample, input_px: int, *, center_given: bool) -> Frame:
    """The whole image, its longer side filling the frame; with `center_given` its middle is taken for the hand's centre."""
    view = fixed_view(sample, input_px, view_center(sample, "keypoints", whole_image=True))
    centers = np.full((1, 2), input_px / 2) if center_given else None
    return Frame(image=warp_image(sample.image, view.affine, input_px), K=view.K, affine=view.affine, centers_px=centers)


def frames_of(
    sample: HandSample,
    hands: Sequence[HandLabel],
    input_px: int,
    *,
    model: Literal["crop", "multi"],
    centers: Literal["true", "predicted"],
    definition: CenterDefinition,
    box_scale: float | None = None,
) -> list[Frame]:
    """The frames an evaluation shows for one sample.

    With true centres the crop model gets one frame around each of `hands`, the multi model one frame with all their
    centres. With predicted centres either model gets the whole image and finds the hands itself.
    """
    if centers == "true" and model == "crop":
        return [crop_frame(sample, hand, input_px, definition, box_scale) for hand in hands]
    frame = middle_frame(sample, input_px, center_given=False)
    if centers == "predicted":
        return [frame]
    given = np.array([label_center(hand, definition) for hand in hands]).reshape(-1, 2)
    return [replace(frame, centers_px=transform_points(frame.affine, given).astype(np.float64))]


def center_definition(provenance: Mapping[str, object]) -> CenterDefinition:
    """What the model was trained to take for a hand's centre, as its model.json says; the mean of the keypoints if it does not."""
    definition = provenance.get("center", "keypoints")
    if definition not in get_args(CenterDefinition):
        raise ValueError(f"model.json: provenance.center: expected one of {list(get_args(CenterDefinition))}, got {definition!r}")
    return cast(CenterDefinition, definition)


def crop_scale(provenance: Mapping[str, object]) -> float | None:
    """The side of the crops that the model was trained on over that of a hand's box, as its model.json says; None: the whole scale."""
    scale = provenance.get("box_scale")
    if scale is not None and not (isinstance(scale, int | float) and scale > 0):
        raise ValueError(f"model.json: provenance.box_scale: expected a number above 0 or null, got {scale!r}")
    return None if scale is None else float(scale)
