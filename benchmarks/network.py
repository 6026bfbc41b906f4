"""Inference time of the network beside its bare trunk's, and what it has to compute: `python -m benchmarks.network [--threads N]`.

CPU, batch 1, random weights, ResNet-50 at stride 8. Trunk and network are timed in turns in one run; the best of the repeats counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from handnet.hand.layer import HandLayer
from handnet.network.handnet import HandNet, HandNetConfig, HandSites

CASES = (("fused", HandNetConfig(keypoint_branch="fused")), ("none", HandNetConfig(keypoint_branch="none")))


def sites(num_hands: int, size_px: int, stride: int) -> HandSites:
    """Hands spread over the image; side and window are left to the network."""
    place = torch.linspace(0.2, 0.8, num_hands)[:, None] * torch.tensor([size_px, size_px])
    cells = (place.flip(-1) / stride).long()
    return HandSites(torch.zeros(num_hands, dtype=torch.long), cells, place.float(), None, None)


def inference(network: HandNet, size_px: int, num_hands: int) -> Callable[[], object]:
    image = torch.rand(1, 3, size_px, size_px).contiguous(memory_format=torch.channels_last)
    hands = sites(num_hands, size_px, network.stride)
    K = torch.tensor([[512.0, 0, size_px / 2], [0, 512, size_px / 2], [0, 0, 1]]).expand(num_hands, 3, 3)
    return lambda: network(image, hands, K)


def trunk(network: HandNet, size_px: int) -> Callable[[], object]:
    image = torch.rand(1, 3, size_px, size_px).contiguous(memory_format=torch.channels_last)
    return lambda: network.backbone(image)


def best_ms(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Best milliseconds of each, taken in turns so that a disturbance meets them all."""
    best = dict.fromkeys(runs, float("inf"))
    for repeat in range(repeats + 2):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat >= 2:
                best[name] = min(best[name], 1000 * (time.perf_counter() - started))
    return best


def gmac(run: Callable[[], object]) -> float:
    """Multiplications of matrix products and convolutions, in thousand millions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layer = HandLayer()
    for name, config in CASES:
        network = HandNet(config, layer).eval().to(memory_format=torch.channels_last)
        million = sum(p.numel() for p in network.parameters()) / 1e6
        of_trunk = sum(p.numel() for p in network.backbone.parameters()) / 1e6
        print(f"{config.backbone}, keypoint branch {name}: {million:.1f} M parameters, of which the trunk has {of_trunk:.1f} M")
        with torch.inference_mode():
            runs = {
                "224 trunk": trunk(network, 224),
                "224, 1 hand": inference(network, 224, 1),
                "512 trunk": trunk(network, 512),
                "512, 1 hand": inference(network, 512, 1),
                "512, 10 hands": inference(network, 512, 10),
            }
            counts = {key: gmac(run) for key, run in runs.items()}
            small = best_ms({key: run for key, run in runs.items() if key.startswith("224")}, options.repeats)
            best = small | best_ms({key: run for key, run in runs.items() if key.startswith("512")}, options.repeats)
        for key in runs:
            print(f"  {key:14} {best[key]:8.1f} ms  {counts[key]:8.2f} GMAC")
        print(f"  at 224, one hand costs {best['224, 1 hand'] / best['224 trunk']:.2f} x the trunk")
        print(f"  at 512, ten hands cost {best['512, 10 hands'] / best['512, 1 hand']:.3f} x one hand")


if __name__ == "__main__":
    main()
