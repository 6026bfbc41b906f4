"""Draws labels and predictions over images, at a size where a hand can be made out.

Everything returns (H,W,3) uint8 RGB; inputs are in the pixels of the sample's own image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from handnet.centers import CenterDefinition
from handnet.hand.layer import HandLayer
from handnet.rendering import Rendering, render_hands, shade, vertex_normals
from handnet.skeleton import BONES
from pipelines.datasets.sample import HandLabel, HandSample
from pipelines.drawing import SIDE_COLORS, Image, blend_mask, draw_boxes, draw_centers, draw_skeleton, upscale
from pipelines.evaluation.predicted import PredictedHands
from pipelines.loading import label_center

MIN_SIDE_PX = 448  # images are enlarged to at least this before anything is drawn
MESH_OPACITY = 0.88
PAPER = (226, 228, 231)  # behind textured renders; neither black nor white, so that it suits light and dark pages
_AMBIENT = 0.32
_SHINE, _SHINE_POWER = 0.22, 12
_SHIFT = 4
QUARTER_TURN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


def plain(sample: HandSample) -> Image:
    """The image as it is, enlarged."""
    return upscale(sample.image, MIN_SIDE_PX)[0]


def labelled_skeletons(sample: HandSample) -> Image:
    """Labelled keypoints: filled dots if visible, rings if not."""
    image, zoom = upscale(sample.image, MIN_SIDE_PX)
    for hand in sample.hands:
        image = draw_skeleton(image, hand.keypoints_px * zoom, hand.visible, hand.side)
    return image


def labelled_masks(sample: HandSample) -> Image:
    """Instance masks and boxes."""
    image, zoom = upscale(sample.image, MIN_SIDE_PX)
    if sample.mask is not None:
        size = (image.shape[1], image.shape[0])
        image = blend_mask(image, np.asarray(cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST), np.uint8), 0.55)
    boxes = np.array([hand.box_px for hand in sample.hands]).reshape(-1, 4)
    return draw_boxes(image, boxes * zoom, [hand.side for hand in sample.hands], thickness_px=2)


def labelled_centers(sample: HandSample, definition: CenterDefinition) -> Image:
    """Labelled keypoints and the centres made of them."""
    _, zoom = upscale(sample.image, MIN_SIDE_PX)
    centers = np.array([label_center(hand, definition) for hand in sample.hands]).reshape(-1, 2)
    return draw_centers(labelled_skeletons(sample), centers * zoom, [hand.side for hand in sample.hands], radius_px=8.0)


def predicted_skeletons(image: Image, hands: PredictedHands) -> Image:
    """Predicted keypoints."""
    canvas, zoom = upscale(image, MIN_SIDE_PX)
    for keypoints, side in zip(hands.keypoints_px, hands.side.tolist(), strict=True):
        canvas = draw_skeleton(canvas, keypoints * zoom, side=side)
    return canvas


def predicted_centers(image: Image, hands: PredictedHands) -> Image:
    """Predicted keypoints and the predicted centres they belong to."""
    _, zoom = upscale(image, MIN_SIDE_PX)
    return draw_centers(predicted_skeletons(image, hands), hands.center_px * zoom, hands.side.tolist(), radius_px=8.0)


def predicted_beside_labels(image: Image, hands: PredictedHands, labels: Sequence[HandLabel]) -> Image:
    """Predicted keypoints over the bones of the labelled ones in white."""
    canvas, zoom = upscale(image, MIN_SIDE_PX)
    for label in labels:
        points = np.round((label.keypoints_px * zoom - 0.5) * (1 << _SHIFT)).astype(np.int32)
        bones = [points[list(bone)] for bone in BONES]
        for color, thickness in (((20, 20, 20), 5), ((255, 255, 255), 3)):
            cv2.polylines(canvas, bones, False, color, thickness, cv2.LINE_AA, _SHIFT)
    for keypoints, side in zip(hands.keypoints_px, hands.side.tolist(), strict=True):
        canvas = draw_skeleton(canvas, keypoints * zoom, side=side)
    return canvas


class MeshPainter:
    """Draws predicted meshes over images."""

    def __init__(self, layer: HandLayer) -> None:
        self.layer = layer

    def masks(self, image: Image, hands: PredictedHands) -> Image:
        """What each predicted hand covers, a colour of its own for each, over the image in grey."""
        canvas, zoom = upscale(image, MIN_SIDE_PX)
        grey = np.repeat(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        rendering = self._render(hands, torch.ones(len(hands), hands.vertices_m.shape[1], 3), zoom, canvas.shape[:2])
        mask = (rendering.hand_index[0] + 1).numpy().astype(np.uint8)
        return blend_mask((grey * 0.6).astype(np.uint8), mask, 0.85)

    def shaded(self, image: Image, hands: PredictedHands) -> Image:
        """Meshes in the colour of their side, lit from the camera, over the image."""
        canvas, zoom = upscale(image, MIN_SIDE_PX)
        return _over(canvas, self._render(hands, self._side_colors(hands), zoom, canvas.shape[:2]), MESH_OPACITY)

    def turned(self, image: Image, hands: PredictedHands, colors: NDArray[np.float32] | None) -> Image:
        """Each hand turned by 90 degrees about the upright line through its middle, at its place, on plain paper.

        colors (D,778,3), or None for those of the sides.
        """
        middle = hands.vertices_m.mean(1, keepdims=True)
        vertices = np.asarray((hands.vertices_m - middle) @ QUARTER_TURN.T + middle, np.float32)
        there = replace(hands, vertices_m=vertices)
        return self.colored(image, there, self._side_colors(there).numpy() if colors is None else colors)

    def _side_colors(self, hands: PredictedHands) -> torch.Tensor:
        """(D,V,3) colours of the sides, lit from the camera."""
        sides = torch.as_tensor(np.array(SIDE_COLORS, np.float32) / 255)[torch.as_tensor(hands.side)]
        vertices = torch.as_tensor(hands.vertices_m)
        normals = vertex_normals(vertices, self.layer.both_faces[torch.as_tensor(hands.side)])
        facing = -(normals * torch.nn.functional.normalize(vertices, dim=-1)).sum(-1, keepdim=True).clamp(max=0.0)
        pale = 0.22 + 0.78 * sides[:, None]  # full colours leave no room for shading
        return pale * (_AMBIENT + (1 - _AMBIENT) * facing) + _SHINE * facing**_SHINE_POWER

    def lit_colors(self, hands: PredictedHands, albedo: NDArray[np.float32], light: NDArray[np.float32]) -> NDArray[np.float32]:
        """(D,778,3) predicted colours under the predicted light, not clamped. albedo (D,778,3), light (D,27)."""
        faces = self.layer.both_faces[torch.as_tensor(hands.side)]
        normals = vertex_normals(torch.as_tensor(hands.vertices_m), faces)
        return np.asarray(shade(torch.as_tensor(albedo), normals, torch.as_tensor(light)).numpy())

    def colored(self, image: Image, hands: PredictedHands, colors: NDArray[np.float32]) -> Image:
        """Meshes in given colours (D,778,3) on plain paper of the image's size."""
        canvas, zoom = upscale(image, MIN_SIDE_PX)
        canvas[:] = PAPER
        return _over(canvas, self._render(hands, torch.as_tensor(colors), zoom, canvas.shape[:2]), 1.0)

    def _render(self, hands: PredictedHands, colors: torch.Tensor, zoom: float, size: tuple[int, ...]) -> Rendering:
        K = torch.as_tensor(np.diag([zoom, zoom, 1.0]) @ hands.K, dtype=torch.float32)
        faces, image_index = self.layer.both_faces[torch.as_tensor(hands.side)], torch.zeros(len(hands), dtype=torch.int64)
        return render_hands(torch.as_tensor(hands.vertices_m), faces, colors, K, image_index, 1, size[0], size[1])


def _over(canvas: Image, rendering: Rendering, opacity: float) -> Image:
    weight = rendering.silhouette[0].numpy()[..., None] * opacity
    color = rendering.image[0].numpy().clip(0.0, 1.0) * 255
    return np.asarray(canvas * (1 - weight) + color * weight + 0.5, np.uint8)
