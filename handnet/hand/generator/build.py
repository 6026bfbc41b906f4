"""Build the free hand from its tables and save it as an .npz with MANO's schema; takes about 20 seconds.

The result is deterministic, so the .npz in this package can be rebuilt and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handnet.hand.dofs import to_pose
from handnet.hand.generator.anatomy import Anatomy
from handnet.hand.generator.correctives import correctives
from handnet.hand.generator.mesh import HandMesh, MeshBuilder
from handnet.hand.generator.numbering import renumbered
from handnet.hand.generator.pose_space import pose_space
from handnet.hand.generator.relax import refine, relax
from handnet.hand.generator.shape import joint_regressor, shape_space
from handnet.hand.generator.weights import skin_weights
from handnet.hand.gestures import GESTURES_DEG
from handnet.hand.schema import NUM_VERTICES
from handnet.skeleton import MANO_PARENTS

_M_PER_MM = 1e-3
_NEGLIGIBLE_M = 2e-6  # pose correctives below this are dropped, which halves the file

Arrays = dict[str, NDArray[Any]]


def build_arrays(report: Callable[[str], None] | None = None) -> Arrays:
    """The right hand's arrays in metres and radians, as they are stored; `report` is told what is being built."""
    say = report or (lambda _: None)
    anatomy = Anatomy()
    say("mesh")
    mesh = build_mesh(anatomy)
    say("skinning weights")
    weights = skin_weights(anatomy, mesh)
    say("shape directions and joint regressor")
    shapes = shape_space(anatomy, mesh.vertices, weights)
    regressor = joint_regressor(mesh.vertices, anatomy.joints, shapes)
    say("pose correctives")
    posedirs = correctives(anatomy, mesh, weights) * _M_PER_MM
    say("pose space")
    poses = pose_space(anatomy.axes)
    vertices = mesh.vertices * _M_PER_MM
    arrays: Arrays = {
        "v_template": vertices,
        "f": mesh.faces.astype(np.int32),
        "J": regressor @ vertices,
        "J_regressor": regressor,
        "weights": weights,
        "shapedirs": shapes.vertices * _M_PER_MM,
        "posedirs": posedirs,
        "hands_components": poses.components,
        "hands_mean": poses.mean,
        "hands_std": poses.deviations,
        "kintree_table": np.stack([MANO_PARENTS, np.arange(16)]).astype(np.int32),
        "theta_min": poses.lowest,
        "theta_max": poses.highest,
        "joint_axes": anatomy.axes,
        "part": mesh.part.astype(np.int8),
        "shape_names": np.array(shapes.names),
        "gestures": to_pose(anatomy.axes, np.stack(list(GESTURES_DEG.values()))),
        "gesture_names": np.array(list(GESTURES_DEG)),
    }
    stored = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in arrays.items()}
    stored["posedirs"][np.abs(stored["posedirs"]) < _NEGLIGIBLE_M] = 0
    return stored


def build_mesh(anatomy: Anatomy) -> HandMesh:
    """The relaxed mesh of 778 vertices in millimetres, numbered as everyone expects."""
    mesh = relax(MeshBuilder(anatomy).build(), anatomy)
    mesh = refine(mesh, anatomy, NUM_VERTICES)
    mesh = relax(mesh, anatomy, iterations=20, wrist_iterations=0)
    order = renumbered(mesh)
    new_id = np.argsort(order)
    faces = new_id[mesh.faces]
    faces = np.array(sorted(tuple(np.roll(face, -int(np.argmin(face))).tolist()) for face in faces))
    return replace(
        mesh,
        vertices=mesh.vertices[order],
        faces=faces,
        part=mesh.part[order],
        free=mesh.free[order],
        tips=new_id[mesh.tips].tolist(),
        wrist=new_id[mesh.wrist].tolist(),
    )


def differences(arrays: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """For every array in either, the largest absolute difference; 0 if identical, inf if it is missing or of another kind."""
    found = {}
    for name in sorted(arrays.keys() | reference.keys()):
        a, b = arrays.get(name), reference.get(name)
        if a is None or b is None or a.shape != b.shape:
            found[name] = float("inf")
        elif a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
            found[name] = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
        else:
            found[name] = 0.0 if np.array_equal(a, b) else float("inf")
    return found
