"""Where a training step's time goes, and how near the loop comes to a bare forward + backward + step on the same model and batches.

    python benchmarks/train_step.py [crop|multi] [--steps 20] [--rounds 4]

Makes a small part of the demo's data in a temporary folder first. Both loops alternate; the least time of the rounds counts, since other
work on the machine only ever adds to it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from dvclive import Live
from ruamel.yaml import YAML

from handnet.batch import HandBatch
from handnet.network.handnet import HandOutputs
from handnet.task import HandTask
from pipelines.config import StageConfig, load_params
from pipelines.training.batches import TrainingBatches
from pipelines.training.checkpoint import CheckpointFolder
from pipelines.training.feeding import Feed, Parts
from pipelines.training.journal import Journal
from pipelines.training.processes import start_fabric
from pipelines.training.stage import build_task
from pipelines.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
NUM_TRAIN, NUM_SCENES = 512, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", choices=("crop", "multi"), default="crop")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_data(arguments.stage)
        measure(arguments.stage, arguments.steps, arguments.rounds)
        os.chdir(ROOT)


def make_data(stage: str) -> None:
    """The demo's params with fewer samples, and its data."""
    tree = YAML(typ="safe", pure=True).load((ROOT / "pipelines/presets/demo.yaml").read_text())
    tree["ingest"]["procedural"] |= {"num_train": NUM_TRAIN, "num_eval": 8}
    tree["compose"]["train"] |= {"num_scenes": NUM_SCENES}
    with open("params.yaml", "w") as stream:
        YAML().dump(tree, stream)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in (["ingest", "procedural"], *([["compose", "train"]] if stage == "multi" else [])):
        subprocess.run([sys.executable, "-m", f"pipelines.{command[0]}", *command[1:]], check=True, env=environment)


class Chunk:
    """A feed's next steps, as a feed of its own; the thread behind it goes on."""

    def __init__(self, feed: Feed, items: Iterator[Parts], num: int):
        self.feed, self.items, self.num = feed, items, num

    @property
    def waited_s(self) -> float:
        return self.feed.waited_s

    @property
    def images_per_epoch(self) -> int:
        return self.feed.images_per_epoch

    def __iter__(self) -> Iterator[Parts]:
        return islice(self.items, self.num)


def measure(stage: str, steps: int, rounds: int) -> None:
    params = load_params().train
    section: StageConfig = getattr(params, stage)
    longer = section.model_copy(update={"steps": 10**6, "checkpoint_every": 10**6})
    fabric = start_fabric(section.precision)
    torch.manual_seed(0)
    trainer = Trainer(fabric, build_task(params, longer, None), longer, CheckpointFolder(stage, {}), 0)
    bare_task = build_task(params, longer, None)
    bare_optimizer = torch.optim.AdamW([p for p in bare_task.parameters() if p.requires_grad], lr=1e-5, fused=True)
    feed = Feed(TrainingBatches(longer, 0, whole_image=stage == "multi"), longer.batch_size, 0)
    items = iter(feed)
    prepared = [part.to(fabric.device) for parts in islice(items, steps) for part in parts]

    def bare() -> float:
        return timed(lambda: [bare_step(bare_task, bare_optimizer, batch) for batch in prepared])

    loop_s, bare_s, waited = [], [], []
    with Live("logs", dvcyaml=False, save_dvc_exp=False, report=None) as live:
        journal = Journal(stage, live, fabric.device)
        trainer.run(Chunk(feed, items, 3), journal)  # type: ignore[arg-type]
        bare_step(bare_task, bare_optimizer, prepared[0])
        for _ in range(rounds):
            bare_s.append(bare())
            before = feed.waited_s
            loop_s.append(timed(lambda: trainer.run(Chunk(feed, items, steps), journal)))  # type: ignore[arg-type]
            waited.append((feed.waited_s - before) / loop_s[-1])
    images = steps * section.batch_size
    print(f"\n{stage}: {section.batch_size} images of {section.input_px} px a step, {torch.get_num_threads()} threads")
    print(f"bare loop      {images / min(bare_s):7.1f} images/s   (forward, backward, optimiser step on batches made beforehand)")
    print(f"training loop  {images / min(loop_s):7.1f} images/s   (with loading, clipping, averaging, guard and log)")
    print(f"ratio          {min(bare_s) / min(loop_s):7.3f}")
    shares(trainer, prepared[:6], sorted(waited)[len(waited) // 2])


def bare_step(task: HandTask, optimizer: torch.optim.Optimizer, batch: object) -> None:
    loss = task(batch)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def shares(trainer: Trainer, batches: Parts, waiting: float) -> None:
    """Forward, backward, optimiser, waiting for data, the rest of a step, and what drawing hands takes of the first two."""
    task = trainer.raw_task
    forward, backward, optimizer, rest, drawing = [], [], [], [], []
    for batch in batches:
        trainer.train_step([batch])
        started = time.perf_counter()
        loss = task(batch)["loss"]
        forwarded = time.perf_counter()
        loss.backward()
        backwarded = time.perf_counter()
        optimizer.append(timed(trainer.optimizer_itself.step))
        task.zero_grad(set_to_none=True)
        rest.append(timed(lambda batch=batch: trainer.train_step([batch])) - (backwarded - started) - optimizer[-1])
        forward.append(forwarded - started)
        backward.append(backwarded - forwarded)
        drawing.append(timed(draw_alone(task, batch)))
    f, b, o, r, d = (max(min(values), 0.0) for values in (forward, backward, optimizer, rest, drawing))
    total = (f + b + o + r) / (1 - waiting)
    parts = {"forward": f, "backward": b, "optimiser": o, "clipping, averaging, guard": r, "waiting for data": waiting * total}
    print("a step: " + ", ".join(f"{name} {100 * seconds / total:.1f} %" for name, seconds in parts.items()))
    print(f"of these, drawing hands (forward and backward): {100 * d / total:.1f} %; {1000 * total:.0f} ms in all")


def draw_alone(task: HandTask, batch: HandBatch) -> Callable[[], None]:
    """Forward and backward of the rendered terms, on what the network says of the batch and no further."""
    seen: list[HandOutputs] = []
    rendered = task._rendered
    task._rendered = lambda terms, out, batch, part: seen.append(out)  # type: ignore[method-assign]
    task(batch)
    del task._rendered

    def leaf(value: torch.Tensor) -> torch.Tensor:
        return value.detach().requires_grad_()

    (out,) = seen
    hands = out.passes[-1]._replace(vertices_m=leaf(out.passes[-1].vertices_m))
    out = out._replace(passes=[hands], albedo=leaf(out.albedo), light=leaf(out.light))

    def draw() -> None:
        terms: dict[str, torch.Tensor] = {}
        rendered(terms, out, batch, None)
        torch.stack([getattr(task.weights, name) * value for name, value in terms.items()]).sum().backward()

    return draw


if __name__ == "__main__":
    main()
