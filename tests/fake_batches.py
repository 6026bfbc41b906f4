"""Training batches from fake hands and a small network's task on them: for tests of losses and training steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import jaxtyping
import numpy as np
import torch

from handnet.batch import HandBatch
from handnet.hand.layer import HandLayer
from handnet.losses.weights import LossOptions, LossWeights
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.task import HandTask
from pipelines.augment import fixed_view
from pipelines.datasets.sample import HandSample
from pipelines.loading import show, view_center

SMALL = HandNetConfig(
    backbone="mobilenetv3_small_050",
    feature_channels=32,
    output_stride=4,
    keypoint_branch="window",
    hidden_channels=64,
    refinements=2,
    rotation="6d",
    side_head=True,
)
TAGGED = replace(SMALL, tag_channels=2)
ALL_2D = LossWeights(heatmap=1.0, keypoints=1.0, keypoint_maps=1.0, photometric=1.0, consistency=1.0)
EVERY_2D = replace(ALL_2D, pull=1.0, push=1.0, silhouette=1.0)


def with_boxes_as_mask(sample: HandSample) -> HandSample:
    """The sample with a mask in which each hand is its box."""
    mask = np.zeros(sample.image.shape[:2], np.uint8)
    for i, hand in enumerate(sample.hands):
        x0, y0, x1, y1 = hand.box_px.astype(int).clip(0)
        mask[y0:y1, x0:x1] = i + 1
    return replace(sample, mask=mask)


def batch_of(samples: Sequence[HandSample], input_px: int, *, whole_image: bool, with_mask: bool = True) -> HandBatch:
    """The samples as the loader gives them, without augmentation."""
    shown = [with_boxes_as_mask(sample) if with_mask else sample for sample in samples]
    views = [fixed_view(sample, input_px, view_center(sample, "keypoints", whole_image)) for sample in shown]
    return show(shown, views, input_px).to("cpu")


def small_task(layer: HandLayer, weights: LossWeights = ALL_2D, network: HandNetConfig = SMALL, **changes) -> HandTask:
    """A small network's task, the same weights every time."""
    torch.manual_seed(0)
    options = changes.pop("options", LossOptions(render_px=32, render_images=2))
    return HandTask(HandNet(network, layer), layer, weights, options, **changes)


@contextmanager
def unchecked() -> Iterator[None]:
    """As outside pytest: no type is checked but by the code itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
