"""Stage entry point: python -m pipelines.ingest NAME. Turns a dataset into shards, one folder per split.

Reads params section ingest.NAME, writes data/ingest/NAME/SPLIT; an interrupted run goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import IngestConfig, ParamsError, load_params
from pipelines.datasets.registry import ADAPTERS, ROOT, Dataset, find_adapter
from pipelines.datasets.sample import DataError, HandSample
from pipelines.shards.build import Plan, build_shards
from pipelines.shards.manifest import Counts, code_digest

DATA = Path("data")
JPEG_QUALITY = 95  # for datasets of photographs, which are only packed; rendered ones say for themselves
SHARED_CODE = ("pipelines/datasets/sample.py", "pipelines/shards/schema.py", "pipelines/shards/writer.py")


@dataclass(frozen=True)
class DatasetSource:
    """One split as the source of shards."""

    dataset: Dataset

    def sample(self, index: int) -> HandSample:
        return self.dataset.sample(index)

    def counts(self, index: int) -> Counts:
        return {}


@dataclass(frozen=True)
class OpenDataset:
    """Opens the split; a picklable call for worker processes."""

    name: str
    config: Any
    split: str
    cache: Path

    def __call__(self) -> DatasetSource:
        return DatasetSource(find_adapter(self.name).open(self.config, self.split, self.cache))


def work_folder(name: str, data: Path) -> Path:
    """Where unfinished work lies: beside the stage's output, which the graph of stages may clear, not in it."""
    return data / "ingest" / f"{name}.partial"


def make_plan(name: str, config: Any, split: str, data: Path) -> Plan:
    """What ingesting one split of dataset `name` means."""
    adapter = find_adapter(name)
    work = work_folder(name, data)
    open_dataset = OpenDataset(name, config, split, work / "cache")
    return Plan(
        target=data / "ingest" / name / split,
        work=work / split,
        dataset=name,
        split=split,
        num_samples=len(open_dataset().dataset),
        samples_per_shard=config.samples_per_shard,
        jpeg_quality=getattr(config, "jpeg_quality", JPEG_QUALITY),
        config=config.model_dump(mode="json"),
        open_source=open_dataset,
        code=code_digest([*adapter.code_paths(), *(ROOT / path for path in SHARED_CODE)]),
    )


def ingest(name: str, section: IngestConfig, *, data: Path = DATA, num_workers: int | None = None) -> list[Path]:
    """Make every split of dataset `name`; the folders written. ParamsError if params.yaml has no such dataset."""
    if name not in ADAPTERS:
        raise ParamsError(f"ingest.{name}: unknown dataset; expected one of {sorted(ADAPTERS)}")
    config = getattr(section, name)
    if config is None:
        raise ParamsError(f"params.yaml: ingest.{name}: missing, and it is the dataset to ingest")
    folders = []
    for split in ADAPTERS[name].splits(config):
        plan = make_plan(name, config, split, data)
        made = build_shards(plan, num_workers=num_workers, description=f"ingest {name}/{split}")
        print(f"{plan.target}: {plan.num_samples} samples{'' if made else ', unchanged'}", file=sys.stderr)
        folders.append(plan.target)
    shutil.rmtree(work_folder(name, data), ignore_errors=True)
    return folders


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(f"usage: python -m pipelines.ingest {'|'.join(sorted(ADAPTERS))}", file=sys.stderr)
        return 2
    try:
        ingest(arguments[0], load_params().ingest)
    except ParamsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DataError as error:
        print("error: " + "; ".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished shards are kept, run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
