"""Shards of single hands for the benchmarks of composition and loading: 224 px JPEGs as large as a camera's, made once and kept.

python benchmarks/hand_shards.py [FOLDER] [--samples N] [--noise LEVELS]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipelines.config import IngestConfig, ProceduralConfig, load_params  # noqa: E402
from pipelines.datasets.sample import HandSample  # noqa: E402
from pipelines.shards import ShardReader  # noqa: E402
from pipelines.shards.build import Plan, build_shards  # noqa: E402

NOISE = 7.0  # with it and this quality, files are about as large as FreiHAND's, some 25 KB
JPEG_QUALITY = 95


@dataclass(frozen=True)
class NoisyHands:
    """The demo's rendered hands with a sensor's noise, which rendered pictures lack and JPEG pays for; and the call that opens them."""

    config: ProceduralConfig
    noise: float

    def __call__(self) -> NoisyHands:
        return self

    def sample(self, index: int) -> HandSample:
        # torch, which this needs, would be loaded by every process of a benchmark that is started anew
        from pipelines.datasets.procedural import Procedural

        sample = Procedural(self.config, "train").sample(index)
        noise = np.random.default_rng(index).normal(0, self.noise, sample.image.shape)
        return replace(sample, image=np.clip(sample.image + noise, 0, 255).astype(np.uint8))

    def counts(self, index: int) -> dict[str, dict[str, int]]:
        return {}


def make_shards(folder: Path, num_samples: int = 600, noise: float = NOISE) -> Path:
    """`folder`/ingest/procedural/train, made if it is not there."""
    ingest: IngestConfig = load_params(ROOT / "pipelines/presets/demo.yaml").ingest
    assert ingest.procedural is not None
    plan = Plan(
        target=folder / "ingest/procedural/train",
        work=folder / "ingest/procedural.partial/train",
        dataset="procedural",
        split="train",
        num_samples=num_samples,
        samples_per_shard=100,
        jpeg_quality=JPEG_QUALITY,
        config={"noise": noise, **ingest.procedural.model_dump(mode="json")},
        open_source=NoisyHands(ingest.procedural, noise),
    )
    build_shards(plan, description="hands for the benchmark")
    return plan.target


def describe(reader: ShardReader) -> str:
    """Number, size in pixels and mean size in bytes of a folder's images."""
    sizes = [len(reader.read_members(i, ["jpg"])["jpg"]) for i in range(0, len(reader), max(1, len(reader) // 200))]
    image = reader.read(0, labels_3d=False).image
    return f"{len(reader)} images of {image.shape[1]} x {image.shape[0]} px, {np.mean(sizes) / 1000:.1f} KB each"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where to keep them; nowhere if it is not given")
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--noise", type=float, default=NOISE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_shards(arguments.folder or Path(temporary), arguments.samples, arguments.noise)
        print(describe(ShardReader(folder)))
