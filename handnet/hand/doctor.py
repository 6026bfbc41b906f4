"""What a hand model looks like in numbers: sizes, mesh, weights, mirror, so that a wrong file is noticed early."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handnet.hand.files import HandModel
from handnet.skeleton import BONES, FINGERS, MANO_TO_STD, SIDES


def describe(model: HandModel) -> list[str]:
    """Lines of text about both sides; lengths in millimetres."""
    lines = [
        f"model       {model.name}: {model.v_template.shape[1]} vertices, {model.faces.shape[1]} faces, "
        f"{model.shapedirs.shape[3]} shape directions, {model.posedirs.shape[3]} pose features"
    ]
    for side, name in enumerate(SIDES):
        vertices, joints = model.v_template[side] * 1000, rest_keypoints(model, side) * 1000
        extent = " x ".join(f"{length:.0f}" for length in np.ptp(vertices, axis=0))
        reach = np.linalg.norm(joints[12] - joints[0])
        lines.append(f"{name:11} {extent} mm, {num_boundary_edges(model.faces[side])} open edges, wrist to middle tip {reach:.0f} mm")
        lengths = bone_lengths(joints)
        for k, finger in enumerate(FINGERS):
            lines.append(f"  {finger:9} bones " + ", ".join(f"{length:.1f}" for length in lengths[4 * k : 4 * k + 4]) + " mm")
    weights = model.weights
    lines.append(f"weights     at most {int((weights > 1e-6).sum(2).max())} joints move a vertex")
    mirror = float(np.abs(model.v_template[0] * [-1, 1, 1] - model.v_template[1]).max() * 1000)
    lines.append(f"sides       the left template is {mirror:.2f} mm or less from the mirrored right one")
    tips = "; ".join(f"{name} {' '.join(map(str, model.tips[side]))}" for side, name in enumerate(SIDES))
    lines.append(f"fingertips  {tips}")
    return lines


def rest_keypoints(model: HandModel, side: int) -> NDArray[np.float64]:
    """(21, 3) std21 joints of the template at rest, metres."""
    joints = model.J_regressor[side] @ model.v_template[side]
    return np.concatenate([joints, model.v_template[side][model.tips[side]]])[MANO_TO_STD]


def bone_lengths(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(20,) lengths of the std21 bones, in the unit of the (21, 3) keypoints."""
    parents, children = np.array(BONES).T
    return np.linalg.norm(keypoints[children] - keypoints[parents], axis=1)


def num_boundary_edges(faces: NDArray[np.int64]) -> int:
    """How many edges have a face on one side only; MANO's meshes have 16, round the wrist."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    return int((count == 1).sum())
