"""Training batches beside decoding alone: the same images, 224 px, augmented, by one process and by two.

    python benchmarks/loading.py [--source SHARDS] [--input PX] [--batch N] [--batches N] [--rounds N]

The decode-limited rate is that of a loop that decodes what a batch is made of, its images and the masks of those that are drawn, and does
nothing else. Both sides take turns, batch by batch; the least CPU time of the rounds counts for each, since other work on the machine
only ever adds to it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hand_shards import describe, make_shards  # noqa: E402

from pipelines.config import StageConfig, load_params  # noqa: E402
from pipelines.config_mixture import MixturePart  # noqa: E402
from pipelines.loading import training_loader  # noqa: E402
from pipelines.shards import schema  # noqa: E402
from pipelines.training.batches import TrainingBatches  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder DATA/ingest/procedural/train; made if it is not given")
    parser.add_argument("--input", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--wall", type=int, default=60, help="batches made by one process and by two; 0: none")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or make_shards(Path(folder))
        base = load_params(ROOT / "pipelines/presets/demo.yaml").train.crop
        part = MixturePart(path=str(source), weight=1.0, labels_3d=1.0, masks=1.0)
        changes = {"data": {"hands": part}, "input_px": arguments.input, "batch_size": arguments.batch, "steps": 10**6}
        config = base.model_copy(update=changes)
        measure_rate(config, arguments.batches, arguments.rounds)
        if arguments.wall:
            measure_processes(config, arguments.wall)


def measure_rate(config: StageConfig, num_batches: int, rounds: int) -> None:
    batches = TrainingBatches(config, 0, whole_image=False)
    members = []
    for step in range(num_batches):
        places = batches._places(step)
        kinds = [(schema.IMAGE, schema.MASK) if mask else (schema.IMAGE,) for _, _, mask in places]
        members.append([draw.reader.read_members(draw.index, kind) for (_, draw, _), kind in zip(places, kinds, strict=True)])

    def decode(step: int) -> None:
        for member in members[step]:
            schema.decode_image(member[schema.IMAGE])
            if schema.MASK in member:
                schema.decode_mask(member[schema.MASK])

    least: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for step in range(num_batches):
            for name, function in (("load", batches.__getitem__), ("decode", decode)):
                started = time.thread_time()
                function(step)
                took = time.thread_time() - started
                least[name, step] = min(took, least.get((name, step), took))
    count = num_batches * config.batch_size
    load, limit = (count / sum(took for (key, _), took in least.items() if key == name) for name in ("load", "decode"))
    print(f"source: {describe(batches.sequence.parts[0].reader)}; input {config.input_px} px, batches of {config.batch_size}, one core")
    print(f"decode-limited {limit:7.0f} images/s")
    print(f"batches        {load:7.0f} images/s, {load / limit:.0%} of it")


def measure_processes(config: StageConfig, num_batches: int) -> None:
    """Batches as they reach the training loop, made by one loader process and by two."""
    best = {1: 0.0, 2: 0.0}
    for _ in range(3):
        for workers in best:
            batches = TrainingBatches(config, 0, whole_image=False)
            loader = iter(training_loader(batches, 0, num_batches + 8 * workers, workers))
            for _ in range(8 * workers):  # what the processes made while they started
                next(loader)
            started = time.perf_counter()
            for _ in range(num_batches - 8 * workers):
                next(loader)
            best[workers] = max(best[workers], (num_batches - 8 * workers) * config.batch_size / (time.perf_counter() - started))
            del loader
    print(f"one process    {best[1]:7.0f} images/s as they arrive; two {best[2]:7.0f} ({best[2] / best[1]:.2f} x)")


if __name__ == "__main__":
    main()
