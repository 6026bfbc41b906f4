"""Composition beside its codec floor: the same sources decoded whole, the same scenes encoded, by the same codecs on the same core.

    python benchmarks/compose.py [--source SHARDS] [--canvas PX] [--scenes N] [--rounds N] [--wall N]

Both sides do the same scenes in turn, a few at a time; the least CPU time of the rounds counts for each few, since other work on the
machine only ever adds to it. Then scenes are written to shards by one process and by two, in turns: once started, by the times at which
shards were finished, and with their start. Memory is looked at on the way.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hand_shards import describe, make_shards  # noqa: E402

from pipelines.compose import make_plan  # noqa: E402
from pipelines.composition.engine import SceneComposer  # noqa: E402
from pipelines.config import SceneSetConfig, load_params  # noqa: E402
from pipelines.executors.pool import prepare_worker  # noqa: E402
from pipelines.shards import schema  # noqa: E402
from pipelines.shards.build import build_shards  # noqa: E402

FEW = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder DATA/ingest/procedural/train; made if it is not given")
    parser.add_argument("--canvas", type=int, default=512)
    parser.add_argument("--min-hands", type=int, default=3, help="least number of hands of a scene that has any")
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--wall", type=int, default=2400, help="scenes written by one process and by two; 0: none")
    parser.add_argument("--wall-rounds", type=int, default=3)
    arguments = parser.parse_args()
    prepare_worker()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or make_shards(Path(folder))
        config = scene_config(arguments.canvas, arguments.min_hands, arguments.wall or 1)
        measure_floor(config, source, arguments.scenes, arguments.rounds)
        measure_memory(config, source)
        if arguments.wall:
            measure_writing(config, source, Path(folder), arguments.wall_rounds)


def scene_config(canvas_px: int, min_hands: int, num_scenes: int) -> SceneSetConfig:
    """The demo's, at the paper's sizes for the canvas."""
    base = load_params(ROOT / "pipelines/presets/demo.yaml").compose.train.model_dump()
    sizes = (round(96 * canvas_px / 512), round(320 * canvas_px / 512))
    changes = {"canvas_px": canvas_px, "hand_px": sizes, "min_hands": min_hands, "num_scenes": num_scenes, "scenes_per_shard": 50}
    return SceneSetConfig(**{**base, **changes})


def measure_floor(config: SceneSetConfig, source: Path, num_scenes: int, rounds: int) -> None:
    composer = SceneComposer(config, source)
    used = [sources_of(composer, index) for index in range(num_scenes)]
    scenes = [composer.sample(index) for index in range(num_scenes)]
    encoded = [[composer.reader.read_members(i, (schema.IMAGE, schema.MASK)) for i in indices] for indices in used]

    def compose(index: int) -> None:
        schema.encode_sample(composer.sample(index), config.jpeg_quality)

    def jpeg_floor(index: int) -> None:
        for member in encoded[index]:
            schema.decode_image(member[schema.IMAGE])
        schema.encode_jpeg(scenes[index].image, config.jpeg_quality)

    def floor(index: int) -> None:
        jpeg_floor(index)
        for member in encoded[index]:
            schema.decode_mask(member[schema.MASK])
        schema.encode_mask(scenes[index].mask)

    took = least_times({"compose": compose, "floor": floor, "jpeg": jpeg_floor}, num_scenes, rounds)
    hands = np.mean([len(scene.hands) for scene in scenes])
    print(f"sources: {describe(composer.reader)}")
    decoded = np.mean([len(indices) for indices in used])
    print(f"scenes of {config.canvas_px} px: {hands:.2f} hands each, {decoded:.2f} sources decoded for one")
    print(f"compose and encode             {took['compose'] * 1e3:6.2f} ms a scene, {1 / took['compose']:6.1f} scenes/s on one core")
    print(f"codec floor, images and masks  {took['floor'] * 1e3:6.2f} ms: compose takes {took['compose'] / took['floor']:.2f} x as long")
    print(f"codec floor, images alone      {took['jpeg'] * 1e3:6.2f} ms: compose takes {took['compose'] / took['jpeg']:.2f} x as long")


def sources_of(composer: SceneComposer, index: int) -> list[int]:
    """Which samples a scene is made of, in the order they are decoded in."""
    read, used = composer.reader.read, []

    def spy(sample: int, **options: Any) -> Any:
        used.append(sample)
        return read(sample, **options)

    composer.reader.read = spy  # type: ignore[method-assign]
    composer.sample(index)
    del composer.reader.read
    return used


def least_times(functions: dict[str, Callable[[int], None]], count: int, rounds: int) -> dict[str, float]:
    """Seconds of CPU time per index, of each function over 0 .. count - 1."""
    least: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for start in range(0, count, FEW):
            for name, function in functions.items():
                started = time.thread_time()
                for index in range(start, min(start + FEW, count)):
                    function(index)
                took = time.thread_time() - started
                least[name, start] = min(took, least.get((name, start), took))
    return {name: sum(took for (key, _), took in least.items() if key == name) / count for name in functions}


def measure_writing(config: SceneSetConfig, source: Path, folder: Path, rounds: int) -> None:
    """Whole shards, with their labels and checksums, as the stage writes them."""
    data = source.parents[2]
    whole, steady = {1: 0.0, 2: 0.0}, {1: 0.0, 2: 0.0}
    for round_ in range(rounds):
        for workers in whole:
            plan = make_plan("train", config, data)
            plan = replace(plan, target=folder / f"{round_}-{workers}", work=folder / f"{round_}-{workers}.partial")
            started = time.perf_counter()
            build_shards(plan, num_workers=workers, description=f"{workers} process{'es' if workers > 1 else ''}")
            whole[workers] = max(whole[workers], config.num_scenes / (time.perf_counter() - started))
            steady[workers] = max(steady[workers], steady_rate(plan.target, workers, config.scenes_per_shard))
            shutil.rmtree(plan.target)
    for name, rate in (("once started", steady), ("with their start", whole)):
        print(f"written to shards, {name}: {rate[1]:.1f} scenes/s by one process, {rate[2]:.1f} by two: {rate[2] / rate[1]:.2f} x")


def steady_rate(folder: Path, workers: int, scenes_per_shard: int) -> float:
    """Scenes a second from the time on at which as many shards as processes were finished, to the last."""
    finished = sorted(shard.stat().st_mtime for shard in folder.glob("*.tar"))
    if len(finished) < 4 * workers:
        raise SystemExit(f"--wall: expected at least {4 * workers * scenes_per_shard} scenes, got {len(finished) * scenes_per_shard}")
    return (len(finished) - workers) * scenes_per_shard / (finished[-1] - finished[workers - 1])


def measure_memory(config: SceneSetConfig, source: Path) -> None:
    """Peak of a process that does nothing else, as it goes on."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=print_memory, args=(config, source))
    process.start()
    process.join()


def peak_memory_mib() -> float:
    """Of this process alone: `ru_maxrss` of a child starts at its parent's peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def print_memory(config: SceneSetConfig, source: Path) -> None:
    prepare_worker()
    composer = SceneComposer(config, source)
    done = 0
    for count in (50, 200, 800):
        for index in range(done, count):
            schema.encode_sample(composer.sample(index), config.jpeg_quality)
        done = count
        print(f"memory of a process after {count} scenes: {peak_memory_mib():.0f} MiB at the most")


if __name__ == "__main__":
    main()
