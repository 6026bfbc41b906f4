"""FreiHAND-layout images ingested per second with their JPEGs passed on, by one process and by two, and the memory they take.

python benchmarks/ingest.py [--frames N] [--form folder|zip|tar] [--repeats N] [--path FREIHAND]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipelines.config_datasets import FreihandConfig  # noqa: E402
from pipelines.ingest import make_plan, work_folder  # noqa: E402
from pipelines.shards.build import build_shards  # noqa: E402

COPIES = 4
NUM_PICTURES = 32  # different ones


def write_freihand(folder: Path, frames: int) -> Path:
    """Training data in FreiHAND's layout: pictures of some 20 KB, annotations at full precision."""
    rng = np.random.default_rng(0)
    (folder / "training/rgb").mkdir(parents=True)
    (folder / "training/mask").mkdir()
    pictures, masks = [], []
    for _ in range(NUM_PICTURES):
        noise = cv2.GaussianBlur(rng.normal(0, 1, (224, 224, 3)), (0, 0), 2.2)
        picture = np.clip(127 + 60 * noise / noise.std() + rng.normal(0, 3, noise.shape), 0, 255).astype(np.uint8)
        pictures.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
        blob = cv2.GaussianBlur(rng.normal(0, 1, (224, 224)), (0, 0), 12)
        masks.append(cv2.imencode(".jpg", (blob > blob.std()).astype(np.uint8) * 255, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    for number in range(frames * COPIES):
        (folder / f"training/rgb/{number:08d}.jpg").write_bytes(pictures[number % NUM_PICTURES])
    for number in range(frames):
        (folder / f"training/mask/{number:08d}.jpg").write_bytes(masks[number % NUM_PICTURES])
    entries = {
        "K": [[[480.0, 0.0, 112.0], [0.0, 480.0, 112.0], [0.0, 0.0, 1.0]]] * NUM_PICTURES,
        "xyz": [(rng.normal(0, 0.03, (21, 3)) + [0, 0, 0.7]).tolist() for _ in range(NUM_PICTURES)],
        "verts": [(rng.normal(0, 0.03, (778, 3)) + [0, 0, 0.7]).tolist() for _ in range(NUM_PICTURES)],
    }
    for kind, values in entries.items():
        texts = [json.dumps(value) for value in values]
        with (folder / f"training_{kind}.json").open("w") as out:
            for number in range(frames):
                out.write(("[" if number == 0 else ", ") + texts[number % NUM_PICTURES])
            out.write("]")
    return folder


def packed(folder: Path, form: str) -> Path:
    """The folder itself, or an archive of it beside it."""
    if form == "folder":
        return folder
    target = folder.with_suffix(f".{form}")
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    if form == "tar":
        with tarfile.open(target, "w") as tar:
            for path in names:
                tar.add(path, path.relative_to(folder))
    else:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in names:
                archive.write(path, path.relative_to(folder))
    shutil.rmtree(folder)
    return target


def _hash_for_a_while(queue: multiprocessing.Queue[int]) -> None:
    data, count, end = bytes(1 << 20), 0, time.perf_counter() + 1.5
    while time.perf_counter() < end:
        hashlib.sha256(data).digest()
        count += 1
    queue.put(count)


def machine_scaling() -> float:
    """What two processes do more than one where neither memory nor disk is in their way: the most that ingest could reach now."""
    context = multiprocessing.get_context("spawn")
    done = []
    for num in (1, 2):
        queue = context.Queue()
        workers = [context.Process(target=_hash_for_a_while, args=(queue,)) for _ in range(num)]
        for worker in workers:
            worker.start()
        done.append(sum(queue.get() for _ in workers))
        for worker in workers:
            worker.join()
    return done[1] / done[0]


def cpu_seconds() -> float:
    """Spent so far by this process and by the children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class MemoryWatch:
    """The largest memory of this process and its children together, pages they share counted once (Linux)."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self.peak_mb = max(self.peak_mb, sum(_memory_mb(pid) for pid in [os.getpid(), *_children(os.getpid())]))


def _memory_mb(pid: int) -> float:
    """Proportional set size: private pages, and a shared page's part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    except (OSError, StopIteration):
        return 0.0


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=4000, help="training frames, four images each; FreiHAND has 32560")
    parser.add_argument("--form", choices=("folder", "zip", "tar"), default="zip")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--path", help="the real dataset instead of made-up data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = arguments.path or str(packed(write_freihand(Path(scratch) / "FreiHAND", arguments.frames), arguments.form))
        config = FreihandConfig(path=source, seed=0, val_fraction=0.0, samples_per_shard=1000, max_quarantined=0.0, mano_model=None)
        best: dict[int, float] = {}
        work: dict[int, float] = {}
        scaling = []
        num_images = 0
        with MemoryWatch() as memory:
            started = time.perf_counter()
            make_plan("freihand", config, "train", Path(scratch))
            converted = time.perf_counter() - started
            for _ in range(arguments.repeats):
                scaling.append(machine_scaling())
                for workers in (1, 2):  # side by side, so that whatever else runs disturbs both alike
                    plan = make_plan("freihand", config, "train", Path(scratch))
                    num_images = plan.num_samples
                    started, busy = time.perf_counter(), cpu_seconds()
                    build_shards(plan, num_workers=workers, description=f"{workers} process{'es' if workers > 1 else ''}")
                    best[workers] = min(best.get(workers, float("inf")), time.perf_counter() - started)
                    work[workers] = min(work.get(workers, float("inf")), cpu_seconds() - busy)
                    shutil.rmtree(plan.target)
        shutil.rmtree(work_folder("freihand", Path(scratch)))
    print(f"{num_images:,} images of {source}, best of {arguments.repeats}")
    print(f"index and annotations, once  {converted:7.1f} s")
    for workers, seconds in best.items():
        spent = f"{num_images / work[workers]:5.0f} images per second of CPU time"
        print(f"{workers} process{'es' if workers > 1 else '  '}                  {num_images / seconds:7.0f} images/s, {spent}")
    print(f"two over one                 {best[1] / best[2]:7.2f}   (a loop of sha256: {max(scaling):.2f})")
    print(f"two, with index etc.         {num_images / (best[2] + converted):7.0f} images/s")
    print(f"memory, all processes        {memory.peak_mb:7.0f} MB")


if __name__ == "__main__":
    main()
