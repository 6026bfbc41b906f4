"""Milliseconds of the hand layer and of smplx, forward + backward on the CPU: `python -m benchmarks.hand_layer [--threads 1 2]`.

Both get the same arrays and inputs, in turns within one run; the shortest of all repeats counts, since other programs disturb.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from handnet.hand.files import HandModel, load_hand
from handnet.hand.layer import HandLayer

BATCHES = {32: 200, 256: 60}  # size: repeats


def smplx_layer(model: HandModel) -> torch.nn.Module:
    """smplx's right hand of the same arrays; full pose, as the hand layer gets it."""
    import smplx
    from smplx.utils import Struct

    arrays = {name: getattr(model, name)[1] for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")}
    arrays |= {"hands_mean": model.hands_mean[1], "hands_components": model.hands_components[1], "f": model.faces[1]}
    arrays["kintree_table"] = np.stack([model.parents, np.arange(16)])
    return smplx.MANO("", data_struct=Struct(**arrays), is_rhand=True, use_pca=False, flat_hand_mean=True, num_betas=10)


def with_other_left(model: HandModel) -> HandModel:
    """A model whose left hand is not the mirrored right one and has weights of its own: the slowest case."""
    left = model.v_template[0] + 1e-4 * np.random.default_rng(0).standard_normal((778, 3))
    weights = np.stack([np.roll(model.weights[0], 1, axis=0), model.weights[1]])
    return replace(model, v_template=np.stack([left, model.v_template[1]]), weights=weights)


def shortest(functions: dict[str, Callable[[], None]], inputs: list[Tensor], repeats: int) -> dict[str, float]:
    """Milliseconds of each function, all of them in every round."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            for value in inputs:
                value.grad = None
            start = time.perf_counter()
            function()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def compare(num_hands: int, repeats: int) -> dict[str, float]:
    """Milliseconds of both for a batch; the layer's is half left hands, smplx's has one side only."""
    model = load_hand()
    theirs, layer, other = smplx_layer(model), HandLayer(model), HandLayer(with_other_left(model))
    generator = torch.Generator().manual_seed(0)
    scales = {3: 1.0, 45: 0.5, 10: 1.0}
    root, pose, betas, shift = (scales[k] * torch.randn(num_hands, k, generator=generator) for k in (3, 45, 10, 3))
    inputs = [value.requires_grad_() for value in (root, pose, betas, shift)]
    side = torch.arange(num_hands) % 2
    to_vertices, to_joints = torch.randn(num_hands, 778, 3, generator=generator), torch.randn(num_hands, 21, 3, generator=generator)

    def run_smplx() -> None:
        out = theirs(global_orient=root, hand_pose=pose, betas=betas, transl=shift)
        torch.autograd.backward([out.vertices, out.joints], [to_vertices, to_joints[:, : out.joints.shape[1]]])

    def run(hand_layer: HandLayer) -> None:
        out = hand_layer(root, pose, betas, side, shift)
        torch.autograd.backward([out.vertices, out.joints], [to_vertices, to_joints])

    return shortest({"smplx": run_smplx, "layer": lambda: run(layer), "other": lambda: run(other)}, inputs, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    arguments = parser.parse_args()
    print("forward + backward, ms                      sides mirror each other   left hand of its own")
    print(f"{'threads':>7} {'hands':>5} {'smplx':>8} {'':>21} {'layer':>8} {'ratio':>8} {'layer':>13} {'ratio':>8}")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for num_hands, repeats in BATCHES.items():
            ms = compare(num_hands, repeats)
            mirrored, other = (f"{ms[name]:.2f}" for name in ("layer", "other"))
            ratios = [f"{ms[name] / ms['smplx']:.3f}" for name in ("layer", "other")]
            print(
                f"{threads:7d} {num_hands:5d} {ms['smplx']:8.2f} {'':>21} {mirrored:>8} {ratios[0]:>8} {other:>13} {ratios[1]:>8}",
                flush=True,
            )


if __name__ == "__main__":
    main()
