"""The mean-hand predictor: the baseline that says the same of every hand, and knows only where it is.

It is made from the training set's 2D labels and the hand model; it never sees a label of the hands it is measured on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from handnet.hand.layer import HandLayer
from handnet.metrics import hand_sizes_px
from handnet.skeleton import ROOT
from pipelines.evaluation.orientation import fit_orientation

Array = NDArray[np.float64]
RIGHT = 1
MAX_HANDS_FOR_ORIENTATION = 500
_MIRROR = {2: np.array([-1.0, 1.0]), 3: np.array([-1.0, 1.0, 1.0])}


@dataclass(frozen=True, kw_only=True)
class TrainingHands:
    """2D labels of N training hands: keypoints_px (N, 21, 2), labelled (N, 21), side (N,), center_px (N, 2), crop_px (N,).

    The centre is what the model is given or predicts; crop_px is the side, in the image, of the crop around it.
    """

    keypoints_px: Array
    labelled: NDArray[np.bool_]
    side: NDArray[np.int64]
    center_px: Array
    crop_px: Array


@dataclass(frozen=True, kw_only=True)
class MeanHand:
    """The mean right hand; the left one is its mirror image.

    in_crop (21, 2): mean offset of each keypoint from the hand's centre as a share of the crop's side, right hands and
    mirrored left ones together. in_box (21, 2): the same as a share of each hand's own size (longer side of its
    keypoints' box). joints_m (21, 3), vertices_m (778, 3): the hand model in its mean pose and mean shape, in metres,
    joint 9 at the origin, in one orientation relative to the camera: the one whose weak-perspective projection, free
    in scale and position, is on average nearest to the training hands' 2D keypoints (see `fit_orientation`).
    usual_side: the more frequent side of the training hands. num_hands: how many there were.
    """

    in_crop: Array
    in_box: Array
    joints_m: Array
    vertices_m: Array
    usual_side: int = RIGHT
    num_hands: int = 0

    def keypoints_in_crop(self, side: int, center_px: Array, crop_px: float) -> Array:
        """(21, 2) pixels: the mean hand at its usual size in a crop of side `crop_px` around the centre."""
        return center_px + _sided(self.in_crop, side) * crop_px

    def keypoints_of_size(self, side: int, center_px: Array, size_px: float) -> Array:
        """(21, 2) pixels: the mean hand at a centre, as large as a hand of `size_px` is on average."""
        return center_px + _sided(self.in_box, side) * size_px

    def joints(self, side: int) -> Array:
        """(21, 3) metres, joint 9 at the origin."""
        return _sided(self.joints_m, side)

    def vertices(self, side: int) -> Array:
        """(778, 3) metres, joint 9 at the origin."""
        return _sided(self.vertices_m, side)


def fit_mean_hand(hands: TrainingHands, layer: HandLayer) -> MeanHand:
    """The mean hand of a training set. Raises ValueError when no hand has all its keypoints labelled."""
    complete = hands.labelled.all(axis=1)
    if not complete.any():
        raise ValueError("mean hand: expected at least one training hand with all 21 keypoints labelled, got none")
    mirror = np.where(hands.side[complete] == RIGHT, 1.0, -1.0)[:, None, None] * np.array([1.0, 0.0]) + np.array([0.0, 1.0])
    offsets = (hands.keypoints_px[complete] - hands.center_px[complete, None]) * mirror
    sizes = hand_sizes_px(hands.keypoints_px[complete])
    in_box = offsets / sizes[:, None, None]
    joints, vertices = posed_mean_hand(layer)
    step = -(-len(in_box) // MAX_HANDS_FOR_ORIENTATION)
    rotation = fit_orientation(joints, in_box[::step])
    return MeanHand(
        in_crop=(offsets / hands.crop_px[complete, None, None]).mean(axis=0),
        in_box=in_box.mean(axis=0),
        joints_m=joints @ rotation.T,
        vertices_m=vertices @ rotation.T,
        usual_side=int(np.mean(hands.side[complete] == RIGHT) >= 0.5),
        num_hands=len(in_box),
    )


def posed_mean_hand(layer: HandLayer) -> tuple[Array, Array]:
    """(21, 3) joints and (778, 3) vertices in metres of the right hand in mean pose and shape, joint 9 at the origin."""
    with torch.no_grad():
        hand = layer(
            torch.eye(3)[None], torch.zeros(1, 45), torch.zeros(1, 10), torch.tensor([RIGHT]), flat_hand_mean=False, center_joint=ROOT
        )
    return hand.joints[0].double().numpy(), hand.vertices[0].double().numpy()


def _sided(points: Array, side: int) -> Array:
    if side not in (0, 1):
        raise ValueError(f"side: expected 0 (left) or 1 (right), got {side!r}")
    return points if side == RIGHT else points * _MIRROR[points.shape[1]]
