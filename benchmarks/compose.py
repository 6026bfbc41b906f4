"""Scenes composed per second of CPU time on one core, and the part of it that decoding and encoding alone would take.

python benchmarks/compose.py [FOLDER OF SINGLE-HAND SHARDS] [--scenes N] [--canvas PX]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipelines.composition.engine import SceneComposer  # noqa: E402
from pipelines.config import load_params  # noqa: E402
from pipelines.shards import ShardReader, schema  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="data/ingest/procedural/train")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--canvas", type=int, default=256)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    manifest = ShardReader(arguments.source).manifest
    base = load_params(ROOT / "params.yaml").compose.train
    scale = arguments.canvas / base.canvas_px
    sizes = (round(base.hand_px[0] * scale), round(base.hand_px[1] * scale))
    changes = {"source": manifest.dataset, "split": manifest.split, "canvas_px": arguments.canvas, "hand_px": sizes}
    composer = SceneComposer(base.model_copy(update=changes), arguments.source)
    for index in range(10):  # caches, header scans
        schema.encode_sample(composer.sample(index), base.jpeg_quality)

    started = time.process_time()
    scenes = [composer.sample(index) for index in range(arguments.scenes)]
    composed = time.process_time() - started
    started = time.process_time()
    for scene in scenes:
        schema.encode_sample(scene, base.jpeg_quality)
    encoded = time.process_time() - started

    # the floor: the same images decoded and encoded, and nothing else
    num_layers = sum(int(n) * count for scene in range(arguments.scenes) for n, count in composer.counts(scene)["hands_pasted"].items())
    members = [composer.reader.read_members(i % len(composer.reader), ("jpg", "mask.png")) for i in range(num_layers)]
    started = time.process_time()
    for member in members:
        schema.decode_image(member["jpg"])
        schema.decode_mask(member["mask.png"])
    for scene in scenes:
        schema.encode_jpeg(scene.image, base.jpeg_quality)
        if scene.mask is not None:
            schema.encode_mask(scene.mask)
    floor = time.process_time() - started

    count = arguments.scenes
    print(f"{count} scenes of {arguments.canvas} px, {num_layers / count:.1f} hands pasted each, one core")
    print(f"compose          {count / composed:7.1f} scenes/s")
    print(f"compose + encode {count / (composed + encoded):7.1f} scenes/s")
    print(f"codec floor      {count / floor:7.1f} scenes/s")


if __name__ == "__main__":
    main()
