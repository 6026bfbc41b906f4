"""The derivative of skinning written by hand, several times as fast as the one that autograd finds.

Second derivatives use the plain operations, and so does what `needs_plain_operations`.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from handnet.differentiation import needs_plain_operations
from handnet.hand.schema import NUM_BETAS, NUM_JOINTS, NUM_VERTICES
from handnet.hand.skinning import (
    JOINTS,
    LOCAL,
    NUM_FINGERS,
    SURFACE,
    Intermediates,
    Rig,
    blended_transforms,
    in_parts_of,
    sign,
    skin_hands,
)
from handnet.rotations import Turns, rodrigues, rodrigues_gradient

# Hands that a CPU skins together, so that what lies between the first product and the last fits into its cache
PART_SIZE: Final = 64


def pose_hands(rig: Rig, root: Tensor, pose: Tensor, betas: Tensor, translation: Tensor, center: int | None) -> tuple[Tensor, Tensor]:
    """Vertices (N, 778, 3) and std21 joints (N, 21, 3), metres.

    root: (N, 3) axis-angle or (N, 3, 3) matrices; pose: (N, 45) axis-angle or (N, 15, 3, 3) matrices; betas (N, 10),
    translation (N, 3); center: MANO joint 0..15 that is moved to the origin before the translation, or None.
    Differentiable any number of times; the first derivative is the fast one.
    """
    if needs_plain_operations():
        return plain_pose_hands(rig, root, pose, betas, translation, center)
    return _PoseHands.apply(rig, center, root, pose, betas, translation)


def plain_pose_hands(rig: Rig, root: Tensor, pose: Tensor, betas: Tensor, translation: Tensor, center: int | None) -> tuple[Tensor, Tensor]:
    """`pose_hands` in operations that autograd and graphs know."""
    turns = _turns(root, pose)
    return skin_hands(rig, *_matrices(turns, root, pose), betas, translation, center, None)[0]


def _turns(root: Tensor, pose: Tensor) -> Turns | None:
    """All rotation vectors (N, 1, 15 or 16, 3) among the arguments in one go."""
    vectors = [x.reshape(-1, k, 3) for x, k in ((root, 1), (pose, NUM_JOINTS - 1)) if x.ndim == 2]
    return rodrigues(vectors[0] if len(vectors) == 1 else torch.cat(vectors, 1)) if vectors else None


def _matrices(turns: Turns | None, root: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (N, 3, 3) of the hand and (N, 15, 3, 3) of its joints."""
    if turns is None:
        return root, pose
    return turns.matrix[:, 0] if root.ndim == 2 else root, turns.matrix[:, 1 - NUM_JOINTS :] if pose.ndim == 2 else pose


class _PoseHands(torch.autograd.Function):
    """`plain_pose_hands` with its derivative; second derivatives come from the plain operations."""

    @staticmethod
    def forward(
        ctx: Any, rig: Rig, center: int | None, root: Tensor, pose: Tensor, betas: Tensor, translation: Tensor
    ) -> tuple[Tensor, Tensor]:
        turns = _turns(root, pose)
        outputs, saved = skin_hands(rig, *_matrices(turns, root, pose), betas, translation, center, _part_size(betas))
        ctx.rig, ctx.center = rig, center
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(root, pose, betas, translation, *saved, *(turns or ()))
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        root, pose, betas, translation, *found = ctx.saved_tensors
        num_saved = len(Intermediates._fields)
        saved, turns = Intermediates(*found[:num_saved]), Turns(*found[num_saved:]) if found[num_saved:] else None
        with torch.autocast(betas.device.type, enabled=False):
            if not torch.is_grad_enabled():
                g_root, g_pose, g_betas, g_translation = _backward(ctx.rig, ctx.center, saved, *grads)
                if turns is not None:
                    parts = [g for g, x in ((g_root[:, None], root), (g_pose, pose)) if x.ndim == 2]
                    g_vectors = rodrigues_gradient(turns, parts[0] if len(parts) == 1 else torch.cat(parts, 1))
                    g_root = g_vectors[:, 0] if root.ndim == 2 else g_root
                    g_pose = g_vectors[:, 1 - NUM_JOINTS :].reshape(pose.shape) if pose.ndim == 2 else g_pose
                return None, None, g_root, g_pose, g_betas, g_translation
            # the derivative shall be differentiable itself
            outputs = plain_pose_hands(ctx.rig, root, pose, betas, translation, ctx.center)
            given = [(output, grad) for output, grad in zip(outputs, grads, strict=True) if grad is not None]
            needed = ctx.needs_input_grad[2:]
            wanted = [x for x, need in zip((root, pose, betas, translation), needed, strict=True) if need]
            of_wanted = iter(torch.autograd.grad([x for x, _ in given], wanted, [g for _, g in given], create_graph=True))
            return None, None, *(next(of_wanted) if need else None for need in needed)


def _part_size(tensor: Tensor) -> int | None:
    return PART_SIZE if tensor.device.type == "cpu" else None


def _backward(
    rig: Rig, center: int | None, saved: Intermediates, g_vertices: Tensor | None, g_std: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of root, rotations, betas and translation; g_x is the gradient of what `skin_hands` calls x."""
    root, rest, local, second, posed, world, blended = saved
    num = len(root)
    g_joints = rest.new_zeros(num, NUM_JOINTS + NUM_FINGERS, 3) if g_std is None else g_std.index_select(1, rig.inverse)
    g_points = rest.new_zeros(()).expand(num, NUM_VERTICES, 3) if g_vertices is None else g_vertices
    g_rest, g_world = torch.empty_like(rest), torch.empty_like(world)
    parts = (world, rest, blended, rig.of_side, rig.tips, g_points, g_joints[:, NUM_JOINTS:], g_rest, g_world)
    for part in in_parts_of(_part_size(rest), *parts):
        _skin_backward(rig, *part)
    g_world[:, :, 0] = g_joints[:, :NUM_JOINTS].mT
    g_wrist = g_world[:, :, ::4].sum((2, 3))
    if center is not None:
        g_world[:, :, 0, center] -= g_wrist
    g_posed = (root.mT @ g_world.flatten(2)).view(num, 3, 5, NUM_JOINTS)
    g_shifts = g_posed[:, :, 4:]
    rest_joints, g_rest_joints = (x[:, JOINTS].view(num, 4, NUM_JOINTS) for x in (rest, g_rest))
    torch.sum(posed[:, :, :4] * g_shifts, 1, out=g_rest_joints)
    if center is None:
        g_rest_joints[:, 1:, 0] -= g_wrist * sign(rig)
    g_motions = torch.addcmul(g_posed[:, :, :4], g_shifts, rest_joints[:, None])
    _chain_backward(local, second, g_motions, g_rest)
    g_features = (rig.blend @ g_rest.mT).mT  # in this order the product is faster for small batches
    if rig.of_side is not None:
        g_features = (g_features.unflatten(1, (2, -1)) * rig.of_side[..., None]).sum(1)
    g_root = g_world.flatten(2) @ posed.flatten(2).mT
    g_rotations = g_features[:, 1 + NUM_BETAS :].reshape(num, NUM_JOINTS - 1, 3, 3)
    if rig.mirror is not None and rig.turn is not None:
        g_root, g_rotations = g_root * rig.mirror[:, None], g_rotations * rig.turn
    return g_root, g_rotations, g_features[:, 1 : 1 + NUM_BETAS], g_wrist


def _skin_backward(
    rig: Rig,
    world: Tensor,
    rest: Tensor,
    blended: Tensor | None,
    of_side: Tensor | None,
    tips: Tensor,
    g_vertices: Tensor,
    g_tips: Tensor,
    g_rest: Tensor,
    g_world: Tensor,
) -> None:
    """Fills in the gradients of the surface and of what is blended of `world`."""
    surface, g_surface = (x[:, SURFACE].view(-1, 3, NUM_VERTICES) for x in (rest, g_rest))
    g = g_vertices.mT.clone(memory_format=torch.contiguous_format)
    g.scatter_add_(2, tips[:, None].expand(-1, 3, -1), g_tips.mT)  # no vertex twice in a hand: the order of sums is fixed
    blended = blended_transforms(rig, world, of_side) if blended is None else blended
    torch.mul(blended[:, 0, :3], g[:, :1], out=g_surface)
    g_surface.addcmul_(blended[:, 1, :3], g[:, 1:2]).addcmul_(blended[:, 2, :3], g[:, 2:])
    g_blended = torch.empty_like(blended)
    torch.mul(surface[:, None], g[:, :, None], out=g_blended[:, :, :3])
    g_blended[:, :, 3] = g
    g_transforms = (g_blended.view(-1, NUM_VERTICES) @ rig.weights.mT).view(len(rest), 3, 4, len(rig.weights))
    if of_side is not None and rig.own_weights:
        g_transforms = (g_transforms.view(-1, 3, 4, 2, NUM_JOINTS) * of_side[:, None, None, :, None]).sum(3)
    g_world[:, :, 1:] = g_transforms


def _chain_backward(local: Tensor, second: Tensor, g_motions: Tensor, g_rest: Tensor) -> None:
    """Fills in the gradient of the local motions."""
    num = len(g_rest)
    g = g_motions[..., 1:].view(num, 3, 4, NUM_FINGERS, 3).permute(4, 0, 3, 1, 2).reshape(3, -1, 3, 4)
    g_second = torch.baddbmm(g[1], g[2], local[2].mT)
    g_first = torch.baddbmm(g[0], g_second, local[1].mT)
    g_local = g_rest[:, LOCAL].view(num, 3, NUM_FINGERS, 4, 4)
    g_local[:, 0, :, 0] = 0  # constants
    g_local[:, 0, :, 1:] = g_first.view(num, NUM_FINGERS, 3, 4)
    g_local[:, 1] = torch.bmm(local[0, :, 1:].mT, g_second).view(num, NUM_FINGERS, 4, 4)
    g_local[:, 2] = torch.bmm(second[:, 1:].mT, g[2]).view(num, NUM_FINGERS, 4, 4)
