"""Predictions as files: JSON for programs, GLB for viewers. Each file is written under a temporary name and renamed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import trimesh
from numpy.typing import NDArray

from handnet.predict import HandPrediction
from handnet.skeleton import SIDES

# the camera frame (x right, y down, z forward) in glTF's axes (y up, z towards the viewer)
TO_GLTF = np.diag([1.0, -1.0, -1.0])


def as_json(hands: Sequence[HandPrediction]) -> list[dict[str, Any]]:
    """One object per hand: side, scores, pixels, metres in the camera frame, MANO parameters and the camera."""
    return [
        {
            "side": SIDES[hand.side],
            "score": hand.score,
            "side_score": hand.side_score,
            "center_px": hand.center_px.tolist(),
            "keypoints_px": hand.keypoints_px.tolist(),
            "keypoints_m": hand.keypoints_m.tolist(),
            "mano": hand.mano.tolist(),
            "K": hand.K.tolist(),
        }
        for hand in hands
    ]


def write_json(path: Path, hands: Sequence[HandPrediction]) -> None:
    _write(path, orjson.dumps({"hands": as_json(hands)}, option=orjson.OPT_INDENT_2))


def write_glb(path: Path, hands: Sequence[HandPrediction], faces: NDArray[np.int64]) -> None:
    """All hands of an image in one scene and one camera frame, with their predicted albedo as vertex colours. ValueError for no hands.

    faces: (2, 1538, 3) triangles of both sides of the hand model, as `Predictor.layer.both_faces` holds them.
    """
    if not hands:
        raise ValueError(f"{path}: expected at least one hand to write, got none")
    scene = trimesh.Scene()
    for number, hand in enumerate(hands):
        albedo = np.full((778, 3), 0.7) if hand.albedo is None else hand.albedo
        colors = np.clip(albedo * 255, 0, 255).astype(np.uint8)
        mesh = trimesh.Trimesh(hand.vertices_m @ TO_GLTF, faces[hand.side], vertex_colors=colors, process=False)
        scene.add_geometry(mesh, node_name=f"hand{number}_{SIDES[hand.side]}")
    _write(path, scene.export(file_type="glb"))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
