"""Predictions under another joint convention than the model's own, so that both sides of a comparison call the same points joints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from handnet.camera import project
from handnet.hand.layer import HandLayer, HandOutput
from pipelines.evaluation.predicted import PredictorLike

MAX_GAP_M = 1e-4  # between the predicted vertices and those posed anew


class ConvertedJoints:
    """A predictor whose hands have the joints of `convention` (a name of `handnet.skeleton.JOINT_CONVENTIONS`), in 3D and in pixels.

    The hands are posed anew from their parameters, which gives the kinematic joints, and laid over the predicted vertices.
    """

    def __init__(self, predictor: PredictorLike, layer: HandLayer, convention: str) -> None:
        self.predictor, self.layer, self.convention = predictor, layer, convention

    def predict(self, *arguments: Any, **options: Any) -> list[list[Any]]:
        """As the predictor's own."""
        images = self.predictor.predict(*arguments, **options)
        flat = [hand for image in images for hand in image]
        converted = iter(self._converted(flat))
        return [[next(converted) for _ in image] for image in images]

    def _converted(self, hands: Sequence[Any]) -> list[Any]:
        if not hands:
            return []
        mano = torch.from_numpy(np.stack([hand.mano for hand in hands])).to(self.layer.J_regressor)
        side = torch.tensor([hand.side for hand in hands])
        vertices = torch.from_numpy(np.stack([hand.vertices_m for hand in hands])).to(mano)
        with torch.no_grad():
            posed = self.layer(mano[:, :3], mano[:, 3:48], mano[:, 48:58], side)
            offset = (vertices - posed.vertices).mean(dim=1, keepdim=True)
            gap = float((posed.vertices + offset - vertices).abs().max())
            if gap > MAX_GAP_M:
                raise ValueError(f"predicted vertices: expected those of the predicted parameters, got a difference of {gap * 1000:.2f} mm")
            moved = HandOutput(vertices, posed.joints + offset)
            joints = self.layer.joints_as(self.convention, moved, side)
            pixels = project(joints, torch.from_numpy(np.stack([hand.K for hand in hands])).to(joints))
        columns = zip(hands, joints.float().numpy(), pixels.float().numpy(), strict=True)
        return [replace(hand, keypoints_m=own, keypoints_px=own_px) for hand, own, own_px in columns]
