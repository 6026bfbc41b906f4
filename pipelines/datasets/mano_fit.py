"""A dataset's MANO parameters in the project's form: flat-hand pose and the translation of the wrist-origin model.

Needs the user's own MANO file; without one, datasets deliver vertices and keypoints but no parameters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handnet.hand.files import load_hand
from handnet.hand.layer import HandLayer
from handnet.rotations import axis_angle_to_matrix
from pipelines.datasets.sample import DataError


class ManoFit:
    """The hands of a MANO file or folder, posed to find what published parameters mean in the camera frame."""

    def __init__(self, model: str | Path) -> None:
        """DataError if the file is missing or not a hand model."""
        try:
            self.model = load_hand(model)
        except (OSError, ValueError) as error:
            raise DataError(f"mano_model: {error}") from None
        self.layer = HandLayer(self.model, dtype=torch.float64)

    def pose(self, pose: NDArray, betas: NDArray, side: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vertices (778,3) and std21 joints (21,3) in metres of a flat-hand pose (48,), with the model's own origin."""
        values, shape = (torch.tensor(np.asarray(array, np.float64))[None] for array in (pose, betas))
        with torch.no_grad():
            out = self.layer(axis_angle_to_matrix(values[:, :3]), values[:, 3:], shape, torch.tensor([side]))
        return out.vertices[0].numpy(), out.joints[0].numpy()

    def from_mean_pose(self, parameters: NDArray, vertices_m: NDArray) -> NDArray[np.float32]:
        """FreiHAND's parameters (61,) = pose 48 relative to the mean pose, betas 10, ... -> (61,) of HandLabel.

        The translation is the one that lays the model's vertices over the published ones (778,3).
        """
        pose = np.array(parameters[:48], np.float64)
        pose[3:] += self.model.hands_mean[1]
        betas = parameters[48:58]
        vertices, joints = self.pose(pose, betas)
        translation = (np.asarray(vertices_m, np.float64) - vertices).mean(0) + joints[0]
        return np.concatenate([pose, betas, translation]).astype(np.float32)

    def from_world(
        self, parameters: NDArray, side: int, rotation: NDArray, position_m: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """InterHand2.6M's parameters (61,) = pose 48 relative to the mean pose, betas 10, translation 3 in the world's metres.

        rotation (3,3), position_m (3,): the camera's, X_cam = rotation (X_world - position_m).
        Returns vertices (778,3) in the camera frame and (61,) of HandLabel.
        """
        pose = np.array(parameters[:48], np.float64)
        pose[3:] += self.model.hands_mean[side]
        betas = parameters[48:58]
        vertices, joints = self.pose(pose, betas, side)
        shift = np.asarray(parameters[58:61], np.float64) - position_m
        pose[:3] = Rotation.from_matrix(rotation @ Rotation.from_rotvec(pose[:3]).as_matrix()).as_rotvec()
        mano = np.concatenate([pose, betas, rotation @ (joints[0] + shift)])
        return ((vertices + shift) @ rotation.T).astype(np.float32), mano.astype(np.float32)
