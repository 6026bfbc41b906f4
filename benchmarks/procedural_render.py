"""Milliseconds per rendered hand on one core: `python -m benchmarks.procedural_render [--num N] [--image-px P] [--stages]`.

Everything but the JPEG encoding; samples in order, as ingest makes them. CPU time, so that other programs count less.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import cv2
import numpy as np
import torch

from pipelines.config import ProceduralConfig, load_params
from pipelines.datasets.procedural import Procedural


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--image-px", type=int, default=224)
    parser.add_argument("--stages", action="store_true", help="also print where the time goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    section = load_params().ingest.procedural
    if section is None:
        raise SystemExit("params.yaml: ingest.procedural: missing")
    config = ProceduralConfig(**(section.model_dump() | {"image_px": arguments.image_px, "num_train": arguments.num + 1}))
    start = time.perf_counter()
    data = Procedural(config, "train")
    data.sample(arguments.num)  # loads the compiled loops
    print(f"start-up {time.perf_counter() - start:.1f} s")
    cpu, wall = [], []
    profile = cProfile.Profile()
    for index in range(arguments.num):
        cpu_start, start = time.process_time(), time.perf_counter()
        if arguments.stages:
            profile.runcall(data.sample, index)
        else:
            data.sample(index)
        cpu.append(1000 * (time.process_time() - cpu_start))
        wall.append(1000 * (time.perf_counter() - start))
    for name, times in (("cpu", cpu), ("wall", wall)):
        low, median, high = np.percentile(times, [5, 50, 95])
        print(
            f"{name:4} ms a sample at {arguments.image_px} px: mean {np.mean(times):.1f}, median {median:.1f}, 5-95% {low:.1f}-{high:.1f}"
        )
    if arguments.stages:
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
