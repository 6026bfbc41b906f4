"""Linear blend skinning of a batch of hands in plain torch operations, left and right hands in one pass.

x -> root (sum_k w_k (R_k (x - J_k) + p_k)) + wrist (MANO, Romero et al. 2017, Eq. 2-4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from handnet.hand.schema import NUM_JOINTS, NUM_VERTICES

NUM_FINGERS: Final = 5
# Columns of Rig.blend. Homogeneous coordinates are (1, x, y, z): a rigid motion is [[1, 0], [p, R]].
SURFACE: Final = slice(0, 3 * NUM_VERTICES)  # vertices before posing, coordinate by coordinate
JOINTS: Final = slice(SURFACE.stop, SURFACE.stop + 4 * NUM_JOINTS)  # (1, -J) of the rest joints
LOCAL: Final = slice(JOINTS.stop, JOINTS.stop + 16 * (NUM_JOINTS - 1))  # (3, 5) motions in the parents' frames: down the fingers


class Rig(NamedTuple):
    """What is given for a batch beside its parameters.

    S = 1 if the left hand is the right one's mirror image: then one matrix serves both. S = 2: the left side comes first.
    """

    blend: Tensor  # (S * 146, 2638): (1, betas, rotations) -> the columns above
    weights: Tensor  # (16, 778), or (S * 16, 778) if each side has its own
    own_weights: bool  # whether each side has its own
    tips: Tensor  # (N, 5) vertex ids
    still: Tensor  # (3, 4, 1) motion of the wrist in the root's frame: none
    order: Tensor  # (21,) std21 out of [16 joints | 5 tips]
    inverse: Tensor  # (21,) its inverse
    mirror: Tensor | None  # (N, 3), S = 1: -1 for the x of a left hand, else 1
    turn: Tensor | None  # (N, 1, 3, 3), S = 1: factors that mirror a left hand's rotation matrices: S R S
    of_side: Tensor | None  # (N, 2), S = 2: 1 for the hand's own side, 0 for the other


class Intermediates(NamedTuple):
    """What a backward pass reads; if one side serves both, all in the frame of the right hand."""

    root: Tensor  # (N, 3, 3)
    rest: Tensor  # (N, 2638)
    local: Tensor  # (3, N * 5, 4, 4) motions of the fingers' first, second and third joints in their parents' frames
    second: Tensor  # (N * 5, 4, 4) of the second in the root's frame; that of the first is local already
    posed: Tensor  # (N, 3, 5, 16) in the root's frame: position, columns of the rotation, shift
    world: Tensor  # (N, 3, 5, 16) the same in the frame of the result
    blended: Tensor | None  # (N, 3, 4, 778) transforms of the vertices; a batch in several parts has to find them again


def skin_hands(
    rig: Rig, root: Tensor, rotations: Tensor, betas: Tensor, translation: Tensor, center: int | None, part_size: int | None
) -> tuple[tuple[Tensor, Tensor], Intermediates]:
    """Vertices (N, 778, 3) and std21 joints (N, 21, 3) in metres, and what a backward pass needs; arguments as of `pose_hands`.

    part_size: hands that are skinned together; None is all, without a look at how many there are.
    """
    if rig.mirror is not None and rig.turn is not None:
        root, rotations = root * rig.mirror[:, None], rotations * rig.turn
    features = torch.cat([torch.ones_like(betas[:, :1]), betas, rotations.flatten(1)], 1)
    if rig.of_side is not None:
        features = (rig.of_side[:, :, None] * features[:, None]).flatten(1)
    rest = features @ rig.blend
    # MANO's tree is five fingers of three joints: two steps along all fingers at once
    local = rest[:, LOCAL].view(-1, 3, NUM_FINGERS, 4, 4).transpose(0, 1).reshape(3, -1, 4, 4)
    second = torch.bmm(local[0], local[1])
    chain = torch.stack([local[0], second, torch.bmm(second, local[2])])
    fingers = chain.view(3, -1, NUM_FINGERS, 4, 4)[..., 1:, :].permute(1, 3, 4, 2, 0).reshape(-1, 3, 4, NUM_JOINTS - 1)
    motions = torch.cat([rig.still.expand(rest.shape[0], 3, 4, 1), fingers], -1)
    rest_joints = rest[:, JOINTS].view(-1, 1, 4, NUM_JOINTS)
    posed = torch.cat([motions, (motions * rest_joints).sum(2, keepdim=True)], 2)
    world = (root @ posed.flatten(2)).view(-1, 3, 5, NUM_JOINTS)
    wrist = translation - (rest_joints[:, 0, 1:, 0] * sign(rig) if center is None else world[:, :, 0, center])
    world[:, :, ::4] += wrist[:, :, None, None]
    parts = [_skin(rig, *part) for part in in_parts_of(part_size, world, rest, rig.of_side)]
    vertices = torch.cat([points.transpose(1, 2) for points, _ in parts])
    tips = vertices.gather(1, rig.tips[..., None].expand(-1, -1, 3))
    joints = torch.cat([world[:, :, 0].transpose(1, 2), tips], 1).index_select(1, rig.order)
    blended = parts[0][1] if len(parts) == 1 else None
    return (vertices, joints), Intermediates(root, rest, local, second, posed, world, blended)


def sign(rig: Rig) -> Tensor | float:
    """What takes a point of the rig's frame to the hand's own side."""
    return 1.0 if rig.mirror is None else rig.mirror


def in_parts_of(size: int | None, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """A batch in parts of at most `size` hands, at least one part; a tensor that is None stays None."""
    if size is None:
        yield tensors
        return
    num = max(x.shape[0] for x in tensors if x is not None)
    for start in range(0, max(num, 1), size):
        yield tuple(None if x is None else x[start : start + size] for x in tensors)


def _skin(rig: Rig, world: Tensor, rest: Tensor, of_side: Tensor | None) -> tuple[Tensor, Tensor]:
    """Posed vertices (N, 3, 778), which run along the last axis, so that every sum is long and vectorised; and their transforms."""
    blended, surface = blended_transforms(rig, world, of_side), rest[:, None, SURFACE].view(-1, 1, 3, NUM_VERTICES)
    x = torch.addcmul(blended[:, :, 3], blended[:, :, 0], surface[:, :, 0])
    return x.addcmul_(blended[:, :, 1], surface[:, :, 1]).addcmul_(blended[:, :, 2], surface[:, :, 2]), blended


def blended_transforms(rig: Rig, world: Tensor, of_side: Tensor | None) -> Tensor:
    """(N, 3, 4, 778) transforms of the vertices: columns of the rotation, shift."""
    transforms = world[:, :, 1:]
    if of_side is not None and rig.own_weights:
        transforms = transforms[:, :, :, None] * of_side[:, None, None, :, None]
    return (transforms.reshape(-1, rig.weights.shape[0]) @ rig.weights).view(-1, 3, 4, NUM_VERTICES)
