"""Training batches beside decoding alone: 224 px, augmented, by one process and by two.

    python benchmarks/loading.py [--source SHARDS] [--preset NAME] [--input PX] [--batch N] [--images N] [--rounds N] [--wall N]

The decode-limited rate is that of a loop over the same images in the same order on the same core: read the JPEG from its shard, decode it
whole with the same library, forget it. Batches do all the rest besides: they read and parse labels, decode the masks of those images that
are drawn, draw random views, warp colours and masks, change tones, move labels and K, and check the batch. Both take turns, batch by
batch; the least CPU time of the rounds counts for each, since other work on the machine only ever adds to it. What the training loop does
with a batch, its 8-bit images to floats on the device, is timed beside it, on this CPU.
"""

from __future__ import annotations

import argparse
import statistics
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
    parser.add_argument("--source", type=Path, help="folder of shards; procedural hands are made if it is not given")
    parser.add_argument("--preset", default="demo", help="whose crop stage it is: augmentation, masks that are read")
    parser.add_argument("--input", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--wall", type=int, default=60, help="batches made by one process and by two; 0: none")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or make_shards(Path(folder))
        base = load_params(ROOT / f"pipelines/presets/{arguments.preset}.yaml").train.crop
        part = MixturePart(path=str(source.resolve()), weight=1.0, labels_3d=1.0, masks=1.0)
        changes = {"data": {"hands": part}, "input_px": arguments.input, "batch_size": arguments.batch, "steps": 10**6}
        config = base.model_copy(update=changes)
        measure_rate(config, max(1, arguments.images // arguments.batch), arguments.rounds)
        if arguments.wall:
            measure_processes(config, arguments.wall)


def measure_rate(config: StageConfig, num_batches: int, rounds: int) -> None:
    batches = TrainingBatches(config, 0, whole_image=False)
    (part,) = batches.sequence.parts
    indices = [[draw.index for _, draw, _ in batches._places(step)] for step in range(num_batches)]
    num_masks = sum(mask and part.reader.has_member(draw.index, schema.MASK) for _, draw, mask in batches._places(0))

    def decode(step: int) -> None:
        for index in indices[step]:
            schema.decode_image(part.reader.read_members(index, (schema.IMAGE,))[schema.IMAGE])

    made = [batches[step] for step in range(2)]
    functions = {"load": lambda step: batches[step], "decode": decode, "device": lambda step: made[step % 2].to("cpu")}
    least: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for step in range(num_batches):
            for name, function in functions.items():
                started = time.thread_time()
                function(step)
                took = time.thread_time() - started
                least[name, step] = min(took, least.get((name, step), took))
    count = num_batches * config.batch_size
    load, limit, device = (count / sum(took for (key, _), took in least.items() if key == name) for name in functions)
    what = f"input {config.input_px} px, batches of {config.batch_size} with {num_masks} masks"
    print(f"source: {describe(part.reader)}; {what}, one core")
    print(f"decode-limited   {limit:7.0f} images/s: read and decode the JPEGs alone")
    print(f"batches          {load:7.0f} images/s, {load / limit:.0%} of it")
    print(f"to floats        {device:7.0f} images/s, where the device is this core")


def measure_processes(config: StageConfig, num_batches: int) -> None:
    """Batches as they reach the training loop, made by one loader process and by two, which take turns of a few seconds each."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(7):
        for workers in rates:
            batches = TrainingBatches(config, 0, whole_image=False)
            loader = iter(training_loader(batches, 0, 10**6, workers))
            for _ in range(8 * workers):  # what the processes made while they started, and what they make ahead
                next(loader)
            started = time.perf_counter()
            for _ in range(num_batches):
                next(loader)
            rates[workers].append(num_batches * config.batch_size / (time.perf_counter() - started))
            del loader
    one, two = (statistics.median(values) for values in rates.values())
    print(f"one process      {one:7.0f} images/s as they reach the training loop, two {two:.0f}: {two / one:.2f} x (medians)")


if __name__ == "__main__":
    main()
